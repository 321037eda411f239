"""Several ranks in several processes, and small models for them to train. Many layouts share one start of the processes."""

from __future__ import annotations

import datetime
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.nn import functional

from roadtrain.layout.options import Batch, Options
from roadtrain.layout.replica import Replica
from roadtrain.plan import LayoutSpec
from roadtrain.recipes.transformer import Transformer

TIMEOUT = datetime.timedelta(seconds=120)
VOCABULARY, CONTEXT = 256, 16
SIDE, CLASSES = 16, 10
STEPS = 20
BATCH = 8
"""Samples of a step, over all ranks."""
CLIP = 0.5


def byte_model(layers: int = 2, tied: bool = False) -> nn.Module:
    """The recipe's transformer, small."""
    model = Transformer(layers, 32, 4)
    if tied:
        model.head.weight = model.embed.weight
    return model


def deep_byte_model() -> nn.Module:
    return byte_model(layers=4)


def tied_byte_model() -> nn.Module:
    return byte_model(tied=True)


class PartlyEmpty(Transformer):
    """With a parameter of no values, as of a layer that a configuration has made zero wide."""

    def __init__(self) -> None:
        super().__init__(2, 32, 4)
        self.none = nn.Parameter(torch.empty(0, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + self.none.sum()


def partly_empty_byte_model() -> nn.Module:
    return PartlyEmpty()


def llama() -> nn.Module:
    """A Hugging Face model from its configuration: it carries a plan of its own for tp."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
        )
    )


def gpt2() -> nn.Module:
    """A Hugging Face model with tied embeddings and fused query, key and value."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=32, n_layer=4, n_head=4)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return GPT2LMHeadModel(config)


def vit() -> nn.Module:
    """A Hugging Face model of images."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            image_size=SIDE,
            patch_size=4,
            id2label={label: str(label) for label in range(CLASSES)},
        )
    )


def sequence() -> nn.Module:
    """Layers of one kind after each other, without a class of their own."""
    blocks = [nn.Sequential(nn.Linear(48, 48), nn.GELU(), nn.LayerNorm(48)) for _ in range(6)]
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 48), *blocks, nn.Linear(48, CLASSES))


def text_at(step: int) -> Batch:
    """All samples of a step: tokens."""
    generator = torch.Generator().manual_seed(step)
    return (torch.randint(0, VOCABULARY, (BATCH, CONTEXT + 1), generator=generator),)


def images_at(step: int) -> Batch:
    """All samples of a step: images and classes."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    return images, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def next_token(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of the next token."""
    (tokens,) = batch
    out = model(tokens[:, :-1])
    logits = out if isinstance(out, Tensor) else out.logits
    return functional.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))


def class_of(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross entropy of the class."""
    images, classes = batch
    out = model(images)
    return functional.cross_entropy(out if isinstance(out, Tensor) else out.logits, classes)


@dataclass(frozen=True)
class Problem:
    """What is learned: samples of a step, and their loss."""

    batch_at: Callable[[int], Batch]
    loss_of: Callable[[nn.Module, Batch], Tensor]


TEXT, IMAGES = Problem(text_at, next_token), Problem(images_at, class_of)


def sgd(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adamw(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1)


@dataclass(frozen=True)
class Case:
    """Train `model` in `layout`; `options` as of `Options`."""

    layout: str
    model: Callable[[], nn.Module] = byte_model
    optimizer: Callable[[list[Any]], torch.optim.Optimizer] = sgd
    dtype: torch.dtype = torch.float32
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = STEPS
    problem: Problem = TEXT

    def __str__(self) -> str:
        return f"{self.layout} {self.model.__name__} {self.optimizer.__name__} {self.options}"


@dataclass
class Trained:
    """What came of a case: losses of the steps, whole parameters, bytes of state of each rank; or what was raised."""

    losses: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    state_bytes: int = 0
    error: str = ""


def build(case: Case) -> nn.Module:
    torch.manual_seed(3)
    return case.model().to(case.dtype)


def alone(case: Case) -> Trained:
    """One process with the whole batch: torch's own loop and clipping."""
    model = build(case)
    optimizer, losses = case.optimizer(list(model.parameters())), []
    for step in range(case.steps):
        optimizer.zero_grad()
        loss = case.problem.loss_of(model, case.problem.batch_at(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
    moments = sum(t.nbytes for s in optimizer.state.values() for t in s.values())
    held = sum(2 * p.nbytes for p in model.parameters())
    return Trained(losses, {name: p.detach() for name, p in model.named_parameters()}, held + moments)


def replica_of(case: Case) -> Replica:
    pipelined = LayoutSpec.parse(case.layout)
    pieces = {"pieces": pipelined.pp} if pipelined.pp > 1 and not pipelined.naive else {}
    schedule = {"schedule": "gpipe"} if pipelined.naive else {}
    options = Options(spec=pipelined, **{**pieces, **schedule, **case.options})
    sample = tuple(tensor[:1] for tensor in case.problem.batch_at(0))
    return Replica(build(case), case.problem.loss_of, options, case.optimizer, sample)


def train(case: Case, rank: int) -> Trained:
    """The part of `rank`."""
    replica, spec = replica_of(case), LayoutSpec.parse(case.layout)
    losses: list[float] = []
    for step in range(case.steps):
        mine = tuple(t.chunk(spec.data)[spec.data_rank(rank)] for t in case.problem.batch_at(step))
        loss = replica.forward_backward(mine)
        norm = replica.norm()
        replica.scale(min(1.0, CLIP / (norm + 1e-6)))
        replica.optimizer.step()
        total = loss.double().reshape(1) / spec.size
        dist.all_reduce(total)
        losses.append(float(total))
    return Trained(losses, replica.whole(), replica.state_bytes())


def _be_rank(
    rank: int, port: int, work: Callable[[Any, int], Any], cases: Sequence[Any], results: Any, backend: str
) -> None:
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, None, False, timeout=TIMEOUT)
    for number, case in enumerate(cases):
        size = LayoutSpec.parse(case.layout).size
        if rank >= size:
            continue
        dist.init_process_group(
            backend, store=PrefixStore(f"case{number}", store), rank=rank, world_size=size, timeout=TIMEOUT
        )
        try:
            outcome = work(case, rank)
        except Exception as error:
            outcome = Trained(error=f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        dist.destroy_process_group()
        results.put((number, rank, pickle.dumps(outcome)))  # as bytes: shared tensors die with their process


def outcomes(cases: Sequence[Any], work: Callable[[Any, int], Any] = train, backend: str = "gloo") -> list[list[Any]]:
    """What `work(case, rank)` gave, for every case by rank; the cases one after the other in the same processes."""
    context = multiprocessing.get_context("spawn")
    sizes = [LayoutSpec.parse(case.layout).size for case in cases]
    server = TCPStore("127.0.0.1", 0, None, True, timeout=TIMEOUT, wait_for_workers=False)
    results = context.Queue()
    ranks = [
        context.Process(target=_be_rank, args=(rank, server.port, work, cases, results, backend), daemon=True)
        for rank in range(max(sizes))
    ]
    for process in ranks:
        process.start()
    found: list[list[Any]] = [[None] * size for size in sizes]
    for _ in range(sum(sizes)):
        number, rank, outcome = results.get(timeout=200)
        found[number][rank] = pickle.loads(outcome)
    for process in ranks:
        process.join(timeout=20)
    return found


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Relative L2 distance of two sets of weights."""
    assert one.keys() == other.keys()
    difference = sum(float((one[n].double() - other[n].double()).square().sum()) for n in one)
    return (difference / sum(float(t.double().square().sum()) for t in other.values())) ** 0.5
