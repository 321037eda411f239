"""What `rt.attach` returns: the run, as a person's loop sees it. Underneath is a worker of a fleet, or a fleet of one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, default_collate

from roadtrain.errors import PacketError, RunFailed, UsageError
from roadtrain.message import Left
from roadtrain.plan import Plan, dumps
from roadtrain.session.control import Joined, JoinRequest
from roadtrain.session.joining import Address, Built, Terms, build
from roadtrain.session.model_tensors import flat_bytes, load_bytes
from roadtrain.session.session import Session
from roadtrain.sync.strategy import Aggregation, Payload
from roadtrain.trainer.agreement import AfterStep, Agreement, Alone, BeforeStep, InBackward
from roadtrain.trainer.attached_checkpoint import AttachedCheckpoint, Registered
from roadtrain.trainer.device import peak_memory_bytes
from roadtrain.trainer.export import export
from roadtrain.trainer.loader import Loader, Position, Share
from roadtrain.trainer.worker_context import ScriptContext

LINGER_S = 30.0
"""How long a worker serves its state at the end when the coordinator is gone."""
FINAL = "final"
"""The name under which the worker that took part longest gives its weights at the end."""


class Stopped(BaseException):
    """The person stopped the run (Ctrl-C): what there is has been saved. No script's `except Exception` takes it."""


class Fleet(Protocol):
    """Who else trains."""

    rank: int
    world: int
    stopped: bool
    agreement: Agreement

    def begin(self, attached: Attached) -> None:
        """Everything is made: go on from what was saved, if anything was."""
        ...

    def save(self) -> None: ...

    def agree_finally(self) -> None:
        """No step will follow."""
        ...

    def conclude(self, figures: dict[str, float]) -> None:
        """All hold the same model: write what the run ends with."""
        ...

    def end(self) -> None:
        """The script is over."""
        ...

    def local_state(self) -> dict[str, Any]: ...

    def load_local_state(self, state: dict[str, Any]) -> None: ...

    def counted(self) -> dict[str, Any]: ...

    def log(self, record: dict[str, Any]) -> None: ...


class Attached:
    """A run that a loop takes part in. `rank` of `world_size` workers; `position`: where in its data this one is."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, plan: Plan, fleet: Fleet) -> None:
        """`rt.attach` makes it."""
        self.model, self.optimizer, self.plan = model, optimizer, plan
        self.rank, self.world_size = fleet.rank, fleet.world
        self.position = Position()
        self.registered = Registered()
        self._fleet = fleet
        self._agreed = self._finished = False
        fleet.begin(self)

    # ---------------------------------------------------------------------------------------------------- data

    def loader(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        epochs: int | None = None,
        *,
        steps: int | None = None,
        collate_fn: Callable[[Any], Any] = default_collate,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> Loader:
        """This worker's batches of `batch_size` samples, for so many epochs, or steps of this worker.

        A dataset with a length is shuffled anew every epoch, by the seed; of a stream every worker takes its part in order. Every
        sample of an epoch is in one batch of one worker; smaller batches at an epoch's end count by their samples. After
        `load_state_dict`, or in a resumed run, it goes on where it was. Raises UsageError for neither or both lengths.
        """
        if (epochs is None) == (steps is None):
            raise UsageError("a loader takes epochs= or steps=", "say one of them")
        for name, value in (("batch_size", batch_size), ("epochs", epochs), ("steps", steps)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} is {value!r}; wanted a whole number from 1")
        share = Share(self.rank, self.world_size, batch_size, self.plan.job.seed)
        own = torch.Generator().manual_seed(
            self.plan.job.seed
        )  # of loading processes: it draws none of the loop's numbers
        options = {
            "collate_fn": collate_fn,
            "num_workers": num_workers,
            "pin_memory": pin_memory,
            "generator": own,
        }
        return Loader(dataset, share, self, (epochs, steps), options)

    def took(self, samples: int) -> None:
        """The next forward and backward are on so many samples. The loader says so; say it where another one is used."""
        self._fleet.agreement.took(samples)

    # ------------------------------------------------------------------------------------------------ the loop

    def no_sync(self) -> AbstractContextManager[None]:
        """For gradient accumulation in ssgd: gradients that are made inside are agreed on with the next ones made outside."""
        return self._fleet.agreement.no_sync()

    def log(self, **figures: float | Tensor) -> None:
        """Figures of this step, such as loss=..., for metrics.jsonl and the screen."""
        self._fleet.log({name: float(value) for name, value in figures.items()})

    def register(self, **objects: Any) -> None:
        """Objects with `state_dict` and `load_state_dict`, such as a scheduler, that checkpoints keep. In a resumed run each is
        given its state at once."""
        self.registered.add(objects)

    # ---------------------------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write the run's checkpoint; every worker calls it after the same step. `roadtrain run --resume` goes on from it."""
        self._fleet.save()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of one's own needs beside the model's and the optimizer's state: where in its data this worker is,
        and what its agreement remembers."""
        at = self.position
        return {"position": [at.epoch, at.batch, at.steps], "agreement": self._fleet.local_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; after attaching, before the loader begins."""
        self.position = Position(*(int(number) for number in state["position"]))
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


class FleetOfOne:
    """Nobody else."""

    rank, world, stopped = 0, 1, False

    def __init__(self, optimizer: Optimizer) -> None:
        self.agreement: Agreement = Alone(optimizer, self._stepped)
        self._steps = 0

    def begin(self, attached: Attached) -> None:
        """Nothing is to be agreed on."""

    def _stepped(self) -> None:
        self._steps += 1

    def save(self) -> None:
        raise UsageError(
            "a script that plain Python has started has no run folder to save in",
            "start it with roadtrain run, or keep sync.state_dict() in a file of your own",
        )

    def agree_finally(self) -> None:
        self.agreement.remove()

    def conclude(self, figures: dict[str, float]) -> None:
        """There is no run to write down."""

    def end(self) -> None:
        """Nobody waits."""

    def local_state(self) -> dict[str, Any]:
        return {}

    def load_local_state(self, state: dict[str, Any]) -> None:
        """There is none."""

    def counted(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def log(self, record: dict[str, Any]) -> None:
        """There is no run to log in."""


class FleetWorker:
    """One of several workers of a run."""

    def __init__(
        self,
        context: ScriptContext,
        plan: Plan,
        model: nn.Module,
        optimizer: Optimizer,
        terms: Terms,
        address: Address,
    ) -> None:
        self.rank, self.world = context.worker.slot, context.worker.slots
        self._context, self._control, self._model, self._optimizer = context, context.control, model, optimizer
        self._built = build(model, terms, address)
        self._checkpoint = AttachedCheckpoint(context, plan, self._built, model, optimizer)
        begun = self._checkpoint.load() if context.resume else self._checkpoint.fresh()
        self._joined: Joined = self._control.join(self._request(plan))
        view, addresses = self._joined.view, self._joined.addresses
        self._built.take_first_weights(self._control.me, view, addresses, self._joined.first)
        self._session = self._built.join(self._control, view, addresses, begun, optimizer.state.clear)
        self._control.on_view(self._session.view_changed)
        self._control.on_end(self._session.client.fail)
        self.stopped = False
        self.agreement = _agreement(self._session, self._built, optimizer, self._stepped)
        self._began_s = self._computed_s = time.perf_counter()
        self._checkpoint.attach(self._session)

    def _request(self, plan: Plan) -> JoinRequest:
        built, terms = self._built, self._built.terms
        return JoinRequest(
            address=f"{self._context.worker.host}:{built.listener.port}",
            structure=built.tensors.structure(),
            digests=built.tensors.digests(),
            sizes=tuple(built.sizes),
            model_bytes=sum(built.sizes),
            sharded=plan.sync.owners == "sharded",
            rounds=terms.strategy.aggregation is Aggregation.ROUND,
            plan=dumps(plan),
        )

    def begin(self, attached: Attached) -> None:
        self._attached = attached
        self._checkpoint.restore(attached)

    def _stepped(self) -> None:
        """The optimizer has stepped."""
        stats, now = self._session.stats, time.perf_counter()
        stats.steps += 1
        stats.compute_s = now - self._began_s - stats.sync_wait_s
        if not self._control.may_step(self._session.step + 1):
            self._stop()

    def _stop(self) -> None:
        """The person wants the run to end here: save, and leave the loop."""
        self.save()
        self.agreement.remove()
        self._conclude({}, complete=False)
        self.stopped = True
        raise Stopped

    def save(self) -> None:
        self._checkpoint.save(self._attached, self._session.step)

    def log(self, record: dict[str, Any]) -> None:
        stats = self._session.stats
        stats.loss = record.get("loss", stats.loss)
        times = {"compute_s": round(stats.compute_s, 6), "sync_wait_s": round(stats.sync_wait_s, 6)}
        self._control.log({"step": self._session.step, "loss": stats.loss, **record, **times})

    def agree_finally(self) -> None:
        self.agreement.remove()
        with self._session.stats.timed("sync_wait_s"):
            left = self._session.finish(self._digest if self._built.terms.mean else lambda: 0)
        self._level(left)
        self._session.stats.wall_s = time.perf_counter() - self._began_s

    def conclude(self, figures: dict[str, float]) -> None:
        self._conclude(figures, complete=True)

    def _conclude(self, figures: dict[str, float], *, complete: bool) -> None:
        """Tell the coordinator; one worker writes what the run ends with."""
        self._session.stats.wall_s = self._session.stats.wall_s or time.perf_counter() - self._began_s
        self._control.done(self._session.step, complete=complete, stats=self.counted())
        order = self._control.await_end(LINGER_S)
        if order is not None:
            if order["evaluate"]:
                export(self._model, self._context.worker.folder)
            held_out = {f"val_{name}": value for name, value in figures.items()}
            self._control.result({"tokens_per_sample": 0, **held_out})
            self._control.await_end(LINGER_S)

    def _digest(self) -> int:
        return int(self._built.tensors.digests()["trained"], 16)

    def _level(self, left: list[Left]) -> None:
        """Where every worker steps by itself, those that had fewer batches take over what the others ended with."""
        furthest = next((each.furthest for each in left if each.furthest), "")
        if not furthest:
            return
        tensors = self._built.tensors.parts()["trained"]
        if furthest == self._control.me:
            self._built.listener.offer(FINAL, [memoryview(bytes(flat_bytes(tensor))) for tensor in tensors])
            return
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        try:
            body = self._built.listener.fetch(self._joined.addresses[furthest], FINAL, self._control.me, size)
        except PacketError as error:
            raise RunFailed(f"the model that the run ended with did not come: {error.message}") from error
        load_bytes(tensors, body)

    def end(self) -> None:
        self._control.farewell(self.counted())
        self._session.close()
        self._built.listener.close()

    def local_state(self) -> dict[str, Any]:
        return self._session.local_state()

    def load_local_state(self, state: dict[str, Any]) -> None:
        self._session.load_local_state(state)

    def counted(self) -> dict[str, Any]:
        stats, session = self._session.stats, self._session
        stats.bytes_sent, stats.bytes_received = session.carried_bytes()
        stats.state_bytes = self._state_bytes()
        stats.peak_memory_bytes = peak_memory_bytes(next(self._model.parameters()).device)
        stats.count(session.client.meter, session.client.counts)
        return stats.as_dict()

    def _state_bytes(self) -> int:
        """Parameters, gradients and optimizer state that are held here."""
        trained = list(self._built.tensors.trained.values())
        moments = [t for state in self._optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        held = sum(t.numel() * t.element_size() for t in (*self._built.tensors.values(), *trained, *moments))
        return held + self._session.held_bytes()


def _agreement(session: Session, built: Built, optimizer: Optimizer, stepped: Callable[[], None]) -> Agreement:
    if built.terms.mean:
        return InBackward(session, built, optimizer, stepped)
    if built.terms.strategy.payload is Payload.DELTA:
        return AfterStep(session, built, optimizer, stepped)
    return BeforeStep(session, built, optimizer, stepped)
