"""Figures of a model on held-out samples: computed by all workers together where they hold the same model, and the same to the
bit however many they are.

The samples are cut into chunks, whose number depends on the data alone. Of each chunk sums are taken in float64, and states of
metrics; those of all chunks are put together in their order. Which worker computes what `loop/together.py` says. The name under
which workers find each other is made of the model's values, of samples and what is found of them, and of how often a worker has
said so before: who holds another model, or looks at other samples, computes all by itself, and nobody is answered with what
was found when something else was asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeAlias

import torch
import xxhash
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

from roadtrain.batches.work import Made
from roadtrain.data.remote_data import RemoteData
from roadtrain.data.samples import Samples, spread_over
from roadtrain.errors import PeerError, UsageError
from roadtrain.loop.attached import Attached
from roadtrain.membership.messages import CHUNKS_MAX
from roadtrain.session.model_tensors import digest_of, flat_bytes
from roadtrain.trainer.task import to_device
from roadtrain.trainer.validation_metrics import Outputs, StateMetric, Totals, add, keeps_state, quotients

EMPTY = "there is nothing to validate on: the dataset is empty"
LOOKED_AT = 8
"""Samples that stand for all, where workers see whether they mean the same."""
Collate = Callable[[Any], Any]
Data: TypeAlias = "Dataset[Any] | RemoteData"
"""What is looked at: a dataset of this process, or data that others feed."""
Figures = Callable[[nn.Module, Any], Mapping[str, Any]]
"""By name, of a batch: what is its mean, or a sum and of how many."""


class Part(NamedTuple):
    """What was found of some samples: sums by name, and states by the number of their metric and by name."""

    totals: Totals
    states: tuple[dict[str, Tensor], ...]

    def packed(self) -> bytes:
        """As bytes, in the format of safetensors."""
        flat = {
            f"{number}/{name}": tensor.contiguous()
            for number, state in enumerate(self.states)
            for name, tensor in state.items()
        }
        return save(flat, {"totals": json.dumps(self.totals)})

    @classmethod
    def unpacked(cls, body: bytes, metrics: int) -> Part:
        """What `packed` made, of so many metrics with states. Raises PeerError for other bytes."""
        try:
            header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
            said = json.loads(header["__metadata__"]["totals"])
            totals = {str(name): (float(total), float(count)) for name, (total, count) in said.items()}
            states: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(metrics))
            for name, tensor in load(body).items():
                number, _, state = name.partition("/")
                states[int(number)][state] = tensor
        except Exception as error:  # whatever safetensors makes of it
            raise PeerError(f"figures of a validation that came are none ({type(error).__name__})") from error
        return cls(totals, states)


class Validation:
    """How one trainer validates: `figures` of each batch, in batches of `batch` samples, and `metrics` that keep a state."""

    def __init__(
        self,
        figures: Figures,
        metrics: Mapping[str, object],
        outputs: Outputs,
        batch: int,
        context: Callable[[], AbstractContextManager[Any]],
        device: torch.device,
    ) -> None:
        """`context`: is entered around what the model computes, such as autocast."""
        self._figures, self._outputs, self._batch, self._context = figures, outputs, batch, context
        self._device = device
        self._times: Counter[str] = Counter()
        self._metrics = [StateMetric(name, each, device) for name, each in metrics.items() if keeps_state(each)]

    def __call__(self, model: nn.Module, data: Data, collate: Collate, sync: Attached) -> dict[str, float]:
        """The figures of `model` on all of `data`. The model is left as it was; so are torch's random numbers. Raises UsageError
        where there are no samples."""
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), _own_random_numbers(self._device):
                return self._together(model, data, collate, sync)
        finally:
            model.train(was_training)

    def _together(self, model: nn.Module, data: Data, collate: Collate, sync: Attached) -> dict[str, float]:
        samples = sync.looked_at(data, collate)
        size = samples.size
        if size == 0:
            raise UsageError(EMPTY)
        if size is None or not all(metric.mergeable for metric in self._metrics):
            return self._alone(model, samples.in_order(self._batch))
        batches = [range(begin, min(begin + self._batch, size)) for begin in range(0, size, self._batch)]
        chunks = chunks_of(len(batches))

        def part(number: int) -> Part:
            return self._part(model, samples.batches(batches, chunks[number]))

        if sync.world_size == 1:
            return self._joined([part(number) for number in range(len(chunks))])
        meant = f"{_digest(model)}-{self._meant(model, data, samples, size)}"
        self._times[meant] += 1
        found = sync.together(f"{meant}-{self._times[meant]}", len(chunks), lambda number: part(number).packed())
        return self._joined([Part.unpacked(body, len(self._metrics)) for body in found])

    def _alone(self, model: nn.Module, batches: Iterator[Made]) -> dict[str, float]:
        """All of it here, in one piece: nobody knows how to cut it."""
        totals = self._add_up(model, batches)
        if not totals:
            raise UsageError(EMPTY)
        return quotients(totals) | self._of_states()

    def _part(self, model: nn.Module, batches: Iterator[Made]) -> Part:
        totals = self._add_up(model, batches)
        return Part(totals, tuple(metric.state() for metric in self._metrics))

    def _add_up(self, model: nn.Module, batches: Iterator[Made]) -> Totals:
        """Sums over batches; the metrics' states are those of these batches then."""
        totals: Totals = {}
        for metric in self._metrics:
            metric.reset()
        for made in batches:
            batch = to_device(made.batch, self._device)
            with self._context():
                for name, found in self._figures(model, batch).items():
                    add(totals, name, found, made.samples)
                given = self._outputs(model, batch) if self._metrics else ()
            for metric in self._metrics:
                metric.update(given)
        return totals

    def _joined(self, parts: Sequence[Part]) -> dict[str, float]:
        totals: Totals = {}
        for part in parts:
            for name, (total, count) in part.totals.items():
                before, of = totals.get(name, (0.0, 0.0))
                totals[name] = before + total, of + count
        for number, metric in enumerate(self._metrics):
            metric.load([part.states[number] for part in parts])
        return quotients(totals) | self._of_states()

    def _of_states(self) -> dict[str, float]:
        return {name: value for metric in self._metrics for name, value in metric.figures().items()}

    def _meant(self, model: nn.Module, data: Data, samples: Samples, size: int) -> str:
        """A hash of what is looked at, and how: of some samples, and of their figures, as a model and a loss may go by more than
        parameters."""
        digest = xxhash.xxh3_64()
        named = [metric.name for metric in self._metrics]
        name = data.name if isinstance(data, RemoteData) else f"{type(data).__module__} {type(data).__qualname__}"
        digest.update(f"{name} {size} {self._batch} {named}".encode())
        numbers = spread_over(size, LOOKED_AT)
        batch = next(samples.batches([numbers])).batch
        for leaf in tree_leaves(batch):
            digest.update(flat_bytes(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode())
        totals: Totals = {}
        with self._context():
            for name, found in self._figures(model, to_device(batch, self._device)).items():
                add(totals, name, found, len(numbers))
        digest.update(json.dumps(totals).encode())
        return digest.hexdigest()


def chunks_of(batches: int) -> list[range]:
    """The numbers of so many batches in chunks: as many as `CHUNKS_MAX`, where there are enough."""
    long = -(-batches // CHUNKS_MAX)
    return [range(begin, min(begin + long, batches)) for begin in range(0, batches, long)]


def _digest(model: nn.Module) -> str:
    """A hash of the values that the model computes with. Counters of whole numbers are each worker's own."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    return digest_of([*model.parameters(), *buffers])


def _own_random_numbers(device: torch.device) -> AbstractContextManager[Any]:
    """What is drawn inside is given back: which part of the samples a worker looks at changes nothing about its training."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)
