"""Where memory runs out in a training step."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from roadtrain.errors import RunFailed
from roadtrain.plugins.huggingface import MultiGPUConfig, disable_multi_gpu, get_multi_gpu_status, launch_ddp_training
from roadtrain.plugins.huggingface.guard import guard

QUIET: Any = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}


class Narrow(GPT2LMHeadModel):
    """Runs out of memory above `fits` rows, at rank `where` alone (None: anywhere): half of the time in the backward pass, when
    gradients of later layers are there already."""

    fits: int = 2
    where: str | None = None
    tries: int = 0
    widths: list[int]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = super().forward(*args, **kwargs)
        if not self.training:  # it is looked at without gradients, which takes little
            return found
        rows = len(kwargs["input_ids"])
        self.widths = [*getattr(self, "widths", []), rows]
        if rows > self.fits and self.where in (None, os.environ.get("RANK", "0")):
            self.tries += 1
            if self.tries % 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
            found.loss = Fails.apply(found.loss, self.transformer.wte.weight)
        return found


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        ctx.weight.grad = torch.ones_like(ctx.weight)  # as far as it came
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


def trainer_of(folder: Path, rows: int, kind: type[GPT2LMHeadModel], accumulated: int = 1, **chosen: Any) -> Trainer:
    torch.manual_seed(0)
    model = kind(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=1, **QUIET))
    tokens = torch.randint(3, 64, (16, 12), generator=torch.Generator().manual_seed(1))
    kept = torch.arange(12) < torch.randint(4, 13, (16, 1), generator=torch.Generator().manual_seed(2))
    data: Any = [
        {"input_ids": row, "labels": labels}
        for row, labels in zip(tokens, torch.where(kept, tokens, -100), strict=True)
    ]
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulated,
        max_steps=2,
        learning_rate=0.3,
        optim="sgd",
        max_grad_norm=0.0,
        logging_steps=1,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **chosen,
    )
    return Trainer(model=model, args=args, train_dataset=data)


def same(trainer: Trainer, reference: Trainer) -> None:
    assert trainer.model is not None
    assert reference.model is not None
    for mine, theirs in zip(trainer.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    losses, wanted = ([log["loss"] for log in each.state.log_history if "loss" in log] for each in (trainer, reference))
    assert losses == pytest.approx(wanted, rel=1e-6)


def test_a_micro_batch_is_halved_until_it_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the second of two micro-batches too, in forward and in backward, with rows of unlike length."""
    plain = trainer_of(tmp_path, 8, GPT2LMHeadModel, accumulated=2)
    plain.train()
    with ExitStack() as hooks:
        guard(hooks)
        guarded = trainer_of(tmp_path, 8, Narrow, accumulated=2)
        guarded.train()
    same(guarded, plain)
    model: Any = guarded.model
    assert model.widths == [8, 4] + [2] * 16  # 8: in forward, 4: in backward
    assert "memory ran out at 8 rows: from now on 4 at once" in capsys.readouterr().err


def test_gradients_of_earlier_micro_batches_are_made_anew(tmp_path: Path) -> None:
    plain = trainer_of(tmp_path, 8, GPT2LMHeadModel, accumulated=2)
    plain.train()

    class Later(Narrow):
        """Memory suffices for the first micro-batch, and not in the backward pass of the second."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.fits, self.tries = (8 if not getattr(self, "widths", []) else 4), 1
            return super().forward(*args, **kwargs)

    with ExitStack() as hooks:
        guard(hooks)
        guarded = trainer_of(tmp_path, 8, Later, accumulated=2)
        guarded.train()
    same(guarded, plain)
    model: Any = guarded.model
    assert model.widths == [8, 8] + [4] * 8


def rows_of_text(kind: str) -> Any:
    """Eight rows of twelve tokens; one label a row, or one for each token, of which rows have unlike numbers."""
    tokens = torch.randint(3, 64, (8, 12), generator=torch.Generator().manual_seed(1))
    kept = torch.arange(12) < torch.arange(1, 9)[:, None]
    labels = tokens[:, 0] % 2 if kind == "row" else torch.where(kept, tokens, -100)
    return [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]


def one_step(folder: Path, kind: Any, fits: int, data: Any, **chosen: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    sizes["num_labels"] = 64
    still: Any = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    model = kind(BertConfig(vocab_size=64, max_position_embeddings=16, **sizes, **still))
    model.register_forward_pre_hook(lambda _, args, kwargs: ran_out(len(kwargs["input_ids"]) > fits), with_kwargs=True)
    args: Any = {"learning_rate": 0.3, "optim": "sgd", "max_grad_norm": 0.0, "remove_unused_columns": False}
    args |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "max_steps": 1}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(folder), per_device_train_batch_size=8, **args),
        train_dataset=data,
        **chosen,
    )
    with ExitStack() as hooks:
        guard(hooks)
        trainer.train()
    return [parameter.detach().clone() for parameter in model.parameters()]


def ran_out(now: bool) -> None:
    if now:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


def mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs["logits"], labels)


@pytest.mark.parametrize("chosen", [{}, {"compute_loss_func": mean_loss}])
def test_a_mean_over_rows_stays_one_whatever_the_model_says_of_its_loss(tmp_path: Path, chosen: dict[str, Any]) -> None:
    """Its forward takes num_items_in_batch, and does not divide by it."""
    kind, data = BertForSequenceClassification, rows_of_text("row")
    whole = one_step(tmp_path, kind, 8, data, **chosen)
    pieces = one_step(tmp_path, kind, 3, data, **chosen)
    for mine, theirs in zip(pieces, whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


def test_a_mean_over_tokens_of_unlike_rows_is_not_split(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="neither a sum nor a mean over rows"):
        one_step(tmp_path, BertForTokenClassification, 3, rows_of_text("token"))


@pytest.mark.long
def test_ranks_split_alike_where_one_runs_out(tmp_path: Path) -> None:
    plain = trainer_of(tmp_path, 8, GPT2LMHeadModel)
    plain.train()
    together = trainer_of(tmp_path, 4, Narrow)
    model: Any = together.model
    model.where, model.fits = "1", 1
    launch_ddp_training(together, MultiGPUConfig(num_gpus=2, batch_size_per_gpu=4, enable_gradient_checkpointing=False))
    same(together, plain)
    assert model.widths[-1] == 1


@pytest.mark.parametrize(
    ("chosen", "fits", "why"),
    [({}, 0, "it has one row"), ({"label_smoothing_factor": 0.1}, 2, "smoothed labels")],
)
def test_what_cannot_be_halved_is_said(tmp_path: Path, chosen: dict[str, Any], fits: int, why: str) -> None:
    with ExitStack() as hooks:
        guard(hooks)
        trainer = trainer_of(tmp_path, 4, Narrow, **chosen)
        model: Any = trainer.model
        model.fits = fits
        with pytest.raises(RunFailed, match=f"cannot be halved: {why}"):
            trainer.train()


class Own(Trainer):
    """A loss that looks at all rows at once."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


def test_a_loss_of_ones_own_is_not_split(tmp_path: Path) -> None:
    with ExitStack() as hooks:
        guard(hooks)
        trainer = trainer_of(tmp_path, 4, Narrow)
        trainer.__class__ = Own
        with pytest.raises(RunFailed, match="has a compute_loss of its own"):
            trainer.train()


def test_memory_is_told() -> None:
    disable_multi_gpu()
    told = get_multi_gpu_status()["memory"]
    assert told["device"] == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert 0 < told["allocated_bytes"] <= told["total_bytes"]
