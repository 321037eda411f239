"""One of several workers of a run that a script has attached to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from roadtrain.checkpoint.export import export, export_as
from roadtrain.data.supply import Supply, WorkerSupply
from roadtrain.errors import PacketError, RunFailed, StaysAway
from roadtrain.loop.agreement import AfterStep, Agreement, BeforeStep, InBackward, Turns
from roadtrain.loop.attached import Attached, Stopped
from roadtrain.loop.checkpoint import AttachedCheckpoint
from roadtrain.loop.clip import Clip
from roadtrain.loop.together import evaluate_together
from roadtrain.membership.messages import JoinRequest
from roadtrain.message import Left
from roadtrain.plan import Plan, dumps
from roadtrain.session.control import Joined
from roadtrain.session.device import peak_memory_bytes
from roadtrain.session.joining import Address, Built, Terms, build
from roadtrain.session.model_tensors import flat_bytes, load_bytes
from roadtrain.session.session import Session
from roadtrain.session.worker_context import ScriptContext
from roadtrain.sync.strategy import Aggregation, Payload
from roadtrain.view import PeerId, View
from roadtrain.wire.state_transfer import Giver

LINGER_S = 30.0
"""How long a worker serves its state at the end when the coordinator is gone."""
FINAL = "final"
"""The name under which the worker that took part longest gives its weights at the end."""


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
        self._built = build(model, terms, address, context.worker.folder)
        self._checkpoint = AttachedCheckpoint(context, plan, self._built, model, optimizer)
        begun = self._checkpoint.fresh() if context.resume is None else self._checkpoint.load(context.resume)
        joined = self._control.join(self._request(plan))
        self._addresses = joined.addresses
        if joined.late:  # the last checkpoint is not what the run began with, nor what it has now
            begun = self._checkpoint.of_others()
        else:
            self._built.take_first_weights(self._control.me, joined)
        self._session = self._built.join(self._control, joined, begun, optimizer.state.clear)
        self._control.on_view(self._view_changed)
        self.supply = WorkerSupply(self._control, address, skips=plan.job.bad_samples == "skip")
        self._control.on_end(self._run_is_over)
        if joined.late:
            self._come(joined)
        self.stopped = False
        clip = Clip(optimizer, self._built.tensors.trained.values(), plan.optimizer.clip)
        turns = Turns(self._begins, clip, self._stepped)
        self.agreement = _agreement(self._session, self._built, optimizer, turns)
        self._stopping = self._asked = False
        self._began_s = time.perf_counter()
        self._checkpoint.attach(self._session)

    def _request(self, plan: Plan) -> JoinRequest:
        built, terms = self._built, self._built.terms
        return JoinRequest(
            address=built.listener.address,
            structure=built.tensors.structure(),
            digests=built.tensors.digests(),
            sizes=tuple(built.sizes),
            model_bytes=sum(built.sizes),
            sharded=plan.sync.owners == "sharded",
            rounds=terms.strategy.aggregation is Aggregation.ROUND,
            period=terms.strategy.every,
            plan=dumps(plan),
        )

    def _come(self, joined: Joined) -> None:
        """Come to a run that goes on: what the owners do not have is another worker's to give. Raises StaysAway where the loop
        would begin its data anew, and all others wait for it at the end."""
        arrival = self._built.arrive(self._control, joined)
        why = self._checkpoint.take_over(arrival.given)
        if why:
            self._session.close()
            raise StaysAway(why)
        self._session.enter(arrival)

    def _view_changed(self, view: View, addresses: dict[PeerId, str]) -> None:
        """The coordinator announced a view. Called on its thread."""
        self._addresses = addresses
        self._session.view_changed(view, addresses)

    def _run_is_over(self, why: str) -> None:
        """While this worker trains. Called on the coordinator's thread."""
        self._session.client.fail(why)
        self.supply.fail(why)

    @property
    def beside(self) -> Supply:
        return self.supply

    def begin(self, attached: Attached) -> None:
        self._attached = attached
        self._checkpoint.restore(attached)

    @property
    def agreed(self) -> int:
        return self._session.rules.agreed

    def agreed_values(self) -> dict[str, Tensor]:
        return self._session.agreed_values()

    @property
    def folder(self) -> Path:
        return self._context.worker.folder

    @property
    def writes(self) -> bool:
        return self._control.is_first()

    def event(self, name: str, **details: Any) -> None:
        self._control.event(name, **details)

    def _stepped(self) -> None:
        """The optimizer has stepped."""
        stats, now = self._session.stats, time.perf_counter()
        stats.steps += 1
        stats.compute_s = now - self._began_s - stats.sync_wait_s
        self._stopping = not self._control.may_step(self._session.step + 1)
        self._asked = self._session.asked

    def _begins(self) -> None:
        """The next step is about to be agreed on, or to be given its data: all that follows the step before has been done."""
        if self._stopping:
            self._stop()
        if self._asked:
            self._asked = False
            self._session.admit(lambda asked: self._checkpoint.given(asked, self._attached))

    def took(self, samples: int) -> None:
        self._begins()
        self.agreement.took(samples)
        self._session.stats.samples += samples

    def _stop(self) -> None:
        """The person wants the run to end here: save, and leave the loop."""
        self._session.close_entrance()
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
        known = "loss" in record or math.isfinite(stats.loss)
        done = stats.figures() | {"bytes_sent": self._session.carried_bytes()[0]}
        self._control.log({"step": self._session.step, "loss": stats.loss if known else None, **record, **done})

    def together(self, evaluation: str, chunks: int, compute: Callable[[int], bytes]) -> tuple[bytes, ...]:
        if self.world == 1:
            return tuple(map(compute, range(chunks)))
        return evaluate_together(self._control, evaluation, chunks, compute)

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
            if order.evaluate:
                export(self._model, self._context.worker.folder)
                for name, model in self._attached.exports.items():
                    export_as(model, self._context.worker.folder / name)
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
            giver = Giver(furthest, self._addresses[furthest])
            body = self._built.listener.fetch(giver, FINAL, self._control.me, size)
        except PacketError as error:
            raise RunFailed(f"the model that the run ended with did not come: {error.message}") from error
        load_bytes(tensors, body)

    def end(self) -> None:
        self._control.farewell(self.counted())
        self.supply.close()
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
        stats.fed = dict(self.supply.by)
        stats.peak_memory_bytes = peak_memory_bytes(next(self._model.parameters()).device)
        stats.count(session.client.meter, session.client.incidents.counts())
        return stats.as_dict()

    def _state_bytes(self) -> int:
        """Parameters, gradients and optimizer state that are held here."""
        trained = list(self._built.tensors.trained.values())
        moments = [t for state in self._optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        held = sum(t.numel() * t.element_size() for t in (*self._built.tensors.values(), *trained, *moments))
        return held + self._session.held_bytes()


def _agreement(session: Session, built: Built, optimizer: Optimizer, turns: Turns) -> Agreement:
    if built.terms.mean:
        return InBackward(session, built, optimizer, turns)
    if built.terms.strategy.payload is Payload.DELTA:
        return AfterStep(session, built, optimizer, turns)
    return BeforeStep(session, built, optimizer, turns)
