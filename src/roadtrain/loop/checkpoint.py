"""Checkpoints of a person's own loop, in the run's folder and format: what all share, and what each worker alone knows.

All share the model, and the state of whatever steps it (the person's optimizer in ssgd, else the owners'). A worker alone knows
where in its data it is, its random numbers, what it has trained since the last agreement, and its own optimizer where that
takes local steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from roadtrain.checkpoint.assembly import assemble
from roadtrain.checkpoint.checkpoint import Checkpoints, Shared
from roadtrain.checkpoint.initial_state import InitialState
from roadtrain.errors import UsageError
from roadtrain.loop.registered import Tensors
from roadtrain.plan import Plan
from roadtrain.session.entrance import Asked, Given
from roadtrain.session.joining import Begun, Built
from roadtrain.session.session import Session
from roadtrain.session.worker_context import ScriptContext
from roadtrain.sync.strategy import Aggregation, Payload

if TYPE_CHECKING:
    from roadtrain.loop.attached import Attached


LACKING = "lacking"
"""Where a worker says why what it gives is not enough to go on from."""


class AttachedCheckpoint:
    """One worker's part in the checkpoints of a run."""

    def __init__(
        self, context: ScriptContext, plan: Plan, built: Built, model: nn.Module, optimizer: Optimizer
    ) -> None:
        self._context, self._built, self._model, self._optimizer = context, built, model, optimizer
        self._strategy = built.terms.strategy
        self._checkpoints = Checkpoints(context.worker.folder, plan.watch.keep)
        self._lossy = built.terms.codecs[1].spec != "none" and not built.terms.mean
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._local: dict[str, Any] = {}
        self._plain: dict[str, Any] = {}
        self._kept_tensors: Tensors = {}
        self._left_behind = ""
        """The optimizer of the checkpoint, where it is another than the script makes now."""

    @property
    def _slot(self) -> int:
        return self._context.worker.slot

    # ------------------------------------------------------------------------------------------------- going on

    def fresh(self) -> Begun:
        """A run that begins."""
        return Begun()

    def load(self, step: int) -> Begun:
        """Take up the checkpoint of `step`. Raises UsageError where it is another model's."""
        saved = self._checkpoints.load(step)
        initial = InitialState(saved, self._strategy, self._slot, self._steps_by, lossy=self._lossy)
        initial.load_into(self._built.tensors, self._model)
        self._local = self._checkpoints.load_local(self._slot, step)
        self._plain = self._checkpoints.local_plain(self._slot, step)
        self._kept_tensors = saved.registered
        if self._plain.get("optimizer", self._optimizer_name) != self._optimizer_name:
            # Another class has settings and a state of its own: what the old one had would be wrong there.
            self._left_behind = str(self._plain["optimizer"])
            self._plain.pop("groups", None)
            self._local.pop("inner", None)
        self._load_optimizer(saved.rule if self._built.terms.mean else self._local.get("inner", {}))
        rounds = self._strategy.aggregation is Aggregation.ROUND
        progress = self._local.get("progress")
        return Begun(
            step=initial.step if rounds or progress is None else int(progress["agreed"]),
            clock=initial.version if rounds else self._strategy.contributions(initial.step),
            version=initial.version,
            restore=initial.number if self._built.terms.mean else initial.restore,
            clocks=initial.clocks,
        )

    def take_over(self, given: Given) -> str:
        """Go on from what another worker gave: where the loop is in its data, and what steps. Returns what is lacking, if that
        cannot be."""
        if not given.plain["positions"]:
            return "the script has its data from elsewhere than sync.loader, so nobody knows where to go on"
        if given.plain[LACKING]:
            return given.plain[LACKING]
        self._plain = given.plain
        self._kept_tensors = given.registered()
        if self._built.terms.mean:
            self._load_optimizer(given.optimizer())
        else:
            self._load_groups(self._optimizer.param_groups)
        return ""

    def of_others(self) -> Begun:
        """A run that goes on already: its state is the others'."""
        step, version = self._context.worker.begun
        others = InitialState.of_others(self._strategy, step, version)
        rounds = self._strategy.aggregation is Aggregation.ROUND
        clock = others.version if rounds else self._strategy.contributions(step)
        return Begun(step=step, clock=clock, version=others.version, restore=others.number)

    def given(self, asked: Asked, attached: Attached) -> Given:
        """For a newcomer: what `take_over` wants."""
        plain = {"positions": attached.positions, LACKING: ""}
        try:
            plain |= self._kept(attached)
            self._check_optimizer()
        except UsageError as error:  # the newcomer's trouble, not this worker's
            plain[LACKING] = error.message
        given = self._built.given(asked, plain, self._session.rules).with_registered(attached.registered.tensors())
        return given.with_optimizer(self._optimizer_state()) if self._built.terms.mean else given

    def _check_optimizer(self) -> None:
        """Raises UsageError where it keeps more than tensors and numbers of a parameter."""
        for state in self._optimizer.state.values() if self._built.terms.mean else ():
            for name, value in state.items():
                if not isinstance(value, Tensor | int | float):
                    raise UsageError(
                        f"the optimizer keeps its {name} as a {type(value).__name__}, which is not given away"
                    )

    def _kept(self, attached: Attached) -> dict[str, Any]:
        """Where this worker is, as plain values."""
        return {
            "positions": attached.positions,
            "registered": attached.registered.plain(),
            "optimizer": self._optimizer_name,
            "groups": [_plain(group) for group in self._optimizer.param_groups],
        }

    def attach(self, session: Session) -> None:
        """The session that goes on. What was trained since the last agreement comes on top of what was agreed on: anchors are
        there, and the weights of the first worker have been taken."""
        self._session = session
        if self._local:
            session.load_local_state(self._local)

    def restore(self, attached: Attached) -> None:
        """Give back where the worker was in its data, and its random numbers. What cannot be given back is told."""
        if self._left_behind and self._slot == 0:
            self._context.control.event("left_behind", optimizer=self._left_behind, now=self._optimizer_name)
        if self._plain:
            attached.go_on_from(self._plain["positions"])
            # A scheduler that was made after attaching has begun anew with the learning rates.
            attached.registered.load(
                self._plain["registered"],
                self._kept_tensors,
                lambda: self._load_groups(self._optimizer.param_groups),
            )
        if "random" in self._local:
            torch.set_rng_state(self._local["random"].to(torch.uint8))

    # --------------------------------------------------------------------------------------------------- saving

    def save(self, attached: Attached, step: int) -> None:
        """Write what this worker knows, and, at the first one, what all share; wait until it is there."""
        session = self._session
        session.settle()
        plain = self._kept(attached)
        local: dict[str, Any] = {**session.local_state(), "random": torch.get_rng_state()}
        if self._strategy.payload is Payload.DELTA:
            local["inner"] = self._optimizer_state()
        self._checkpoints.save_local(self._slot, step, local, plain=plain)
        if self._context.control.is_first():
            shared = replace(self._shared(step), registered=attached.registered.tensors())
            self._checkpoints.save(shared, lambda folder: self._tell(step, folder.name))
        self._checkpoints.settle()

    def _tell(self, step: int, folder: str) -> None:
        self._context.control.event("checkpoint", step=step, folder=folder)

    def _shared(self, step: int) -> Shared:
        session, rounds = self._session, self._strategy.aggregation is Aggregation.ROUND
        steps = {str(slot): step for slot in range(self._context.worker.slots)}
        agreed = session.rules.agreed if rounds else None
        parts = tuple(sorted(int(peer[1:]) for peer in session.members()))
        rest = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._built.tensors.rest().items()}
        if self._built.terms.mean:
            state = self._optimizer_state()
            return Shared(
                self._values(), state, self._steps_by, session.rules.version, steps, {}, rest, step, agreed, parts
            )
        snapshots = session.collect()
        model, published, rule = assemble(snapshots, self._built.fragments, self._built.tensors)
        version = max(snapshot.version for snapshot in snapshots)
        return Shared(model, rule, self._steps_by, version, steps, published, rest, step, agreed, parts)

    @property
    def _steps_by(self) -> str:
        """The name of what steps the shared state."""
        return self._optimizer_name if self._built.terms.mean else self._strategy.rule.name

    @property
    def _optimizer_name(self) -> str:
        return type(self._optimizer).__name__

    def _values(self) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._built.tensors.items()}

    # ---------------------------------------------------------------------------------------------- the optimizer

    def _optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """By parameter name. Numbers become tensors of no dimension."""
        found: dict[str, dict[str, Tensor]] = {}
        for parameter, state in self._optimizer.state.items():
            found[self._names[id(parameter)]] = {
                name: value.detach().clone() if isinstance(value, Tensor) else torch.tensor(float(value))
                for name, value in state.items()
                if isinstance(value, Tensor | int | float)
            }
        return found

    def _load_optimizer(self, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        state = {
            number: {name: value.clone() for name, value in saved[self._names[id(p)]].items()}
            for number, p in enumerate(parameters)
            if saved.get(self._names[id(p)])
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._load_groups(groups)
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        for number, parameter in enumerate(parameters):
            for name, value in state.get(number, {}).items():
                if value.ndim:  # torch gives every other one its parameter's dtype
                    self._optimizer.state[parameter][name] = value.to(parameter.device)

    def _load_groups(self, groups: Iterable[dict[str, Any]]) -> None:
        for group, kept in zip(groups, self._plain.get("groups", ()), strict=False):
            for name, value in kept.items():
                group[name] = tuple(value) if isinstance(group.get(name), tuple) else value


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group that are numbers or words."""
    plain = {name: float(v) if isinstance(v, Tensor) and v.numel() == 1 else v for name, v in group.items()}
    kinds = (bool, int, float, str)
    return {
        name: value
        for name, value in plain.items()
        if name != "params"
        and (isinstance(value, kinds) or (isinstance(value, tuple) and all(isinstance(v, kinds) for v in value)))
    }
