"""What `rt.attach` returns: the run, as a person's loop sees it. Underneath is a worker of a fleet, or a fleet of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, default_collate

from roadtrain.data.remote_data import RemoteData
from roadtrain.data.samples import Samples
from roadtrain.data.supply import OwnSupply, Supply
from roadtrain.errors import UsageError
from roadtrain.loop.agreement import Agreement
from roadtrain.loop.fed_loader import FedLoader, FedShare
from roadtrain.loop.loader import Loader, Position, Share, samples_of
from roadtrain.loop.registered import Registered
from roadtrain.plan import Plan

HELD_OUT = "held out"
"""What feeders know the samples as that `rt.Trainer.fit` validates on."""


class Stopped(BaseException):
    """The person stopped the run (Ctrl-C): what there is has been saved. No script's `except Exception` takes it."""


class Fleet(Protocol):
    """Who else trains."""

    rank: int
    world: int
    stopped: bool
    agreement: Agreement

    @property
    def supply(self) -> Supply:
        """Where its loaders' batches come from."""
        ...

    @property
    def beside(self) -> Supply:
        """Where samples come from that are only looked at."""
        ...

    @property
    def agreed(self) -> int:
        """See `Attached`."""
        ...

    def agreed_values(self) -> dict[str, Tensor]:
        """See `Attached`."""
        ...

    @property
    def folder(self) -> Path | None:
        """See `Attached`."""
        ...

    @property
    def writes(self) -> bool:
        """See `Attached`."""
        ...

    def event(self, name: str, **details: Any) -> None:
        """See `Attached`."""
        ...

    def begin(self, attached: Attached) -> None:
        """Everything is made: go on from what was saved, if anything was."""
        ...

    def save(self) -> None: ...

    def took(self, samples: int) -> None: ...

    def agree_finally(self) -> None:
        """No step will follow."""
        ...

    def conclude(self, figures: dict[str, float]) -> None:
        """All hold the same model: write what the run ends with."""
        ...

    def end(self) -> None:
        """The script is over."""
        ...

    def together(self, evaluation: str, chunks: int, compute: Callable[[int], bytes]) -> tuple[bytes, ...]:
        """See `evaluate_together`."""
        ...

    def local_state(self) -> dict[str, Any]: ...

    def load_local_state(self, state: dict[str, Any]) -> None: ...

    def counted(self) -> dict[str, Any]: ...

    def log(self, record: dict[str, Any]) -> None: ...


class Place:
    """Where one loader is."""

    def __init__(self, attached: Attached, position: Position) -> None:
        self.position = position
        self._attached = attached

    def took(self, samples: int) -> None:
        """It hands out so many samples."""
        self._attached.took(samples)


class Attached:
    """A run that a loop takes part in. `rank` of `world_size` workers."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plan: Plan,
        fleet: Fleet,
        chosen: Collection[tuple[str, str]] = (),
        said: Collection[tuple[str, str]] = (),
    ) -> None:
        """`rt.attach` makes it. `chosen`: settings that were said outside the script, by (section, field); `said`: anywhere."""
        self.model, self.optimizer, self.plan = model, optimizer, plan
        self.rank, self.world_size = fleet.rank, fleet.world
        self._chosen, self._said = frozenset(chosen), frozenset(said)
        self._places: list[Place] = []
        self._resumed: list[Position] = []
        self._held_out: tuple[object, object] = (None, None)
        self.registered = Registered()
        self.exports: dict[str, nn.Module] = {}
        """Other models that are written beside the trained one, in safetensors, by the names of their files."""
        self._fleet = fleet
        self._agreed = self._finished = False
        fleet.begin(self)

    # ---------------------------------------------------------------------------------------------------- data

    def loader(
        self,
        dataset: Dataset[Any] | RemoteData,
        batch_size: int | None = None,
        epochs: int | None = None,
        *,
        steps: int | None = None,
        collate_fn: Callable[[Any], Any] = default_collate,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> Loader:
        """This worker's batches of `batch_size` samples (if None the plan's batch, or what the feeder of remote data says where
        nobody has set that), for so many epochs, or steps of this worker; where it says neither, for the plan's steps.

        A dataset with a length is shuffled anew every epoch, by the seed; of a stream every worker takes its part in order. Every
        sample of an epoch is in one batch of one worker; smaller batches at an epoch's end count by their samples. After
        `load_state_dict`, or in a resumed run, it goes on where it was. Raises UsageError for neither or both lengths, and for
        a size or a length that is not the one that was said outside the script.
        """
        for name, value in (("batch_size", batch_size), ("epochs", epochs), ("steps", steps)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} is {value!r}; wanted a whole number from 1")
        epochs, steps = self._length(epochs, steps)
        asked = self.plan.job.batch
        if batch_size not in (None, asked) and ("job", "batch") in self._chosen:
            raise UsageError(f"--batch {asked}, and the loader has batch_size={batch_size}", "leave one of them out")
        if isinstance(dataset, RemoteData):
            if num_workers:
                raise UsageError("num_workers changes nothing here: feeders load", "give rt.feed processes=")
            if batch_size is None and ("job", "batch") not in self._said:
                batch_size = self._fleet.supply.remote(dataset).batch
        share = Share(self.rank, self.world_size, batch_size or asked, self.plan.job.seed, len(self._places))
        place = self._new_place()
        own = torch.Generator().manual_seed(
            self.plan.job.seed
        )  # of loading processes: none of the loop's numbers is drawn
        options = {"collate_fn": collate_fn, "num_workers": num_workers, "pin_memory": pin_memory, "generator": own}
        return Loader(dataset, share, place, (epochs, steps), options, self._fleet.supply)

    def fed_loader(self, source: str, batches: int, epochs: int) -> FedLoader:
        """This worker's batches of a loader elsewhere that has `batches` in each of `epochs`: feeders have them as `source`."""
        share = FedShare(source, self.rank, self.world_size, batches, epochs)
        return FedLoader(share, self._new_place(), self._fleet.supply)

    def hold_out(self, data: Dataset[Any] | RemoteData | None, collate_fn: Callable[[Any], Any]) -> None:
        """These will be looked at amid the training: feeders are to have them too."""
        self._held_out = data, collate_fn
        if data is not None and not isinstance(data, RemoteData):
            samples_of(data, HELD_OUT, collate_fn, self._fleet.beside)

    def looked_at(self, data: Dataset[Any] | RemoteData, collate_fn: Callable[[Any], Any]) -> Samples:
        """Samples by their numbers. Those that were held out are made by feeders, where there are any."""
        held, collate = self._held_out
        fed = isinstance(data, RemoteData) or (data is held and collate_fn is collate)
        return samples_of(data, HELD_OUT, collate_fn, self._fleet.beside if fed else OwnSupply.strict())

    def _new_place(self) -> Place:
        number = len(self._places)
        place = Place(self, self._resumed[number] if number < len(self._resumed) else Position())
        self._places.append(place)
        return place

    def _length(self, epochs: int | None, steps: int | None) -> tuple[int | None, int | None]:
        """Epochs or steps of a loader that was asked for these."""
        key, asked = ("job", "steps"), self.plan.job.steps
        if epochs is None and steps is None and key in self._said:
            return None, asked
        if (epochs is None) == (steps is None):
            raise UsageError("a loader takes epochs= or steps=", "say one of them")
        if key in self._chosen and steps != asked:
            own = f"epochs={epochs}" if steps is None else f"steps={steps}"
            raise UsageError(f"--steps {asked}, and the loader has {own}", "leave one of them out")
        return epochs, steps

    def took(self, samples: int) -> None:
        """The next forward and backward are on so many samples. The loader says so; say it where another one is used."""
        self._fleet.took(samples)

    # ------------------------------------------------------------------------------------------------ the loop

    def no_sync(self) -> AbstractContextManager[None]:
        """For gradient accumulation in ssgd: gradients that are made inside are agreed on with the next ones made outside."""
        return self._fleet.agreement.no_sync()

    def sync_backward(self, on: bool) -> None:
        """What `no_sync` says for a block, from now on: whether ssgd agrees on gradients in the backward pass that makes them."""
        self._fleet.agreement.sync_backward(on)

    def log(self, **figures: float | Tensor) -> None:
        """Figures of this step, such as loss=..., for metrics.jsonl and the screen."""
        self._fleet.log(
            {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in figures.items()}
        )

    def register(self, **objects: Any) -> None:
        """Objects with `state_dict` and `load_state_dict`, such as a scheduler, that checkpoints keep. In a resumed run each is
        given its state at once."""
        self.registered.add(objects)

    def together(self, evaluation: str, chunks: int, compute: Callable[[int], bytes]) -> tuple[bytes, ...]:
        """What `compute` finds of each of so many chunks, up to 64, of which every worker that says the same name computes some.

        The name stands for all that the figures depend on. A worker that is lost, or never asks, is not waited for; all that ask
        have the same bytes: for each chunk those that came first.
        """
        return self._fleet.together(evaluation, chunks, compute)

    # ---------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write the run's checkpoint; every worker calls it after the same step. `roadtrain run --resume` goes on from it."""
        self._fleet.save()

    @property
    def owners_step(self) -> bool:
        """Whether the fragments' owners step (asgd, ssp), and not this worker's optimizer."""
        return self._fleet.agreement.owners_step

    @property
    def agreed(self) -> int:
        """Steps up to which this worker has agreed with the others; beyond it, it has trained by itself."""
        return self._fleet.agreed

    def agreed_values(self) -> dict[str, Tensor]:
        """The parameters and averaged buffers by name, on the CPU, as all agreed on them last; empty where this worker never
        trains beyond that by itself."""
        return self._fleet.agreed_values()

    @property
    def folder(self) -> Path | None:
        """Where the run leaves what it has made; None of a script that plain Python has started."""
        return self._fleet.folder

    @property
    def writes(self) -> bool:
        """Whether this is the worker that writes for all: the first one that lives."""
        return self._fleet.writes

    def event(self, name: str, **details: Any) -> None:
        """Something happened that belongs into the run's events."""
        self._fleet.event(name, **details)

    @property
    def finished(self) -> bool:
        """Whether the last agreement is over."""
        return self._agreed

    @property
    def position(self) -> Position:
        """Where in its data this worker is, by the loader made last."""
        return self._places[-1].position if self._places else Position()

    @property
    def positions(self) -> list[list[int]]:
        """Where each loader is: epoch, batch of the epoch, batches in all."""
        return [[place.position.epoch, place.position.batch, place.position.steps] for place in self._places]

    def go_on_from(self, positions: Sequence[Sequence[int]]) -> None:
        """Let the loaders that will be made begin there."""
        self._resumed = [Position(*(int(number) for number in position)) for position in positions]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of one's own needs beside the model's and the optimizer's state: where in its data this worker is,
        and what its agreement remembers."""
        return {"positions": self.positions, "agreement": self._fleet.local_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; after attaching, before the loader is made. Model and optimizer are loaded before
        attaching: all workers begin with what the first one has then."""
        self.go_on_from(state["positions"])
        self._fleet.load_local_state(state["agreement"])

    # -------------------------------------------------------------------------------------------------- the end

    def report(self) -> dict[str, Any]:
        """What this worker has counted: steps, samples, seconds computed and waited, bytes."""
        return self._fleet.counted()

    def finish(self) -> None:
        """The last agreement: all workers hold the same model then. Waits for those that have more batches."""
        self.conclude({})

    def agree_finally(self) -> None:
        """The last agreement alone, for figures of the model that all hold: `conclude` follows."""
        if not self._agreed:
            self._agreed = True
            self._fleet.agree_finally()

    def conclude(self, figures: dict[str, float]) -> None:
        """`finish`, with `figures` for the report, such as loss on held-out samples."""
        self.agree_finally()
        if not self._finished:
            self._finished = True
            self._fleet.conclude(figures)

    def end(self) -> None:
        """The script is over."""
        if not self._fleet.stopped:
            self.finish()
        self._fleet.end()

    def __enter__(self) -> Attached:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
