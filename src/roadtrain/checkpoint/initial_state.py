"""The state that a run begins with: the model's own, or a checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from roadtrain.checkpoint.assembly import fragment_state
from roadtrain.checkpoint.checkpoint import Shared
from roadtrain.checkpoint.folder import SAME_MODEL
from roadtrain.errors import UsageError
from roadtrain.lease import Runs, WorkState
from roadtrain.plan import Plan
from roadtrain.sync.fragment import Fragment
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.strategy import Aggregation, Payload, Strategy
from roadtrain.view import PeerId, View


class InitialState:
    """`saved`: the checkpoint, None for a fresh run. `slot`: of this worker. `lossy`: states are published compressed.

    `step`: steps that the agreed state stands for; what a worker had trained on top of it is its own part of the checkpoint.
    `version`: of the state. Where every step is a round, the two are one number, whatever strategy made the state: schedules
    count by it.
    """

    def __init__(self, saved: Shared | None, strategy: Strategy, slot: int, optimizer: str, *, lossy: bool) -> None:
        """`optimizer`: the name of the one that steps."""
        self.saved, self._strategy = saved, strategy
        self.step = 0 if saved is None else self._step_of(saved, str(slot))
        self.version = 0 if saved is None else _version(strategy, self.step, saved.version)
        if saved is not None and saved.rule_name != optimizer:
            saved.rule = {}
        if saved is not None and not saved.published and lossy:
            saved.published = saved.model

    @classmethod
    def of_others(cls, strategy: Strategy, step: int, version: int) -> InitialState:
        """The beginning of a run that goes on already, whose state comes from its owners."""
        made = cls(None, strategy, 0, "", lossy=False)
        made.step, made.version = step, _version(strategy, step, version)
        return made

    def _step_of(self, saved: Shared, slot: str) -> int:
        if saved.agreed is not None:
            return saved.agreed
        if self._strategy.aggregation is Aggregation.ROUND or slot not in saved.steps:
            return min(saved.steps.values(), default=0)
        return saved.steps[slot]

    @property
    def rule(self) -> dict[str, dict[str, Tensor]]:
        """State of the optimizer that makes versions, by parameter."""
        return {} if self.saved is None else self.saved.rule

    def work(self, plan: Plan) -> WorkState:
        """What is to be computed from here on: `plan.job.steps` slices for each worker in all, where nothing else is known.

        Where the run had others workers or steps before, what was left of it is left in the same part.
        """
        workers, steps = plan.place.workers, plan.job.steps
        if self.saved is None:
            return WorkState(steps * workers, self.step)
        if self.saved.work is None:  # a checkpoint of before work was given out: each worker took its own, step by step
            taken = [range(slot, workers * self._step_of(self.saved, str(slot)), workers) for slot in range(workers)]
            done = Runs()
            done.add(number for numbers in taken for number in numbers)
            return WorkState(steps * workers, self.step, tuple(done))
        found = self.saved.work.resumed(steps, workers, plan.job.batch, plan.job.order)
        return found._replace(step=self.step) if self._strategy.aggregation is Aggregation.ROUND else found

    def load_into(self, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
        """Give a model's tensors their values, those too that do not travel. Raises UsageError when they are another model's."""
        if self.saved is None:
            return
        lacking = [name for name in tensors if name not in self.saved.model]
        if lacking:
            raise UsageError(f"the checkpoint is of another model, which has no {lacking[0]}", SAME_MODEL)
        held, kept = self.saved.held(), model.state_dict()
        lacking = [name for name in held if name not in tensors and name not in kept]
        if lacking:
            raise UsageError(f"the checkpoint is of another model, which has {lacking[0]} besides", SAME_MODEL)
        for name in tensors:
            _load(name, tensors[name], held[name])
        for name, value in {**held, **self.saved.rest}.items():
            if name in kept and name not in tensors:
                _load(name, kept[name], value)

    def restore(self, ledger: TensorLedger, fragment: Fragment) -> None:
        """Give an owner's or standby's ledger its state."""
        if self.saved is not None:
            ledger.restore(self.version, fragment_state(self.saved, fragment))

    def number(self, ledger: TensorLedger, fragment: Fragment) -> None:
        """Let a ledger that begins anew count on from the versions before."""
        ledger.version = self.version

    def clocks(self, view: View) -> dict[PeerId, int]:
        """Contributions of each worker that the state holds already."""
        if self.saved is None:
            return {}
        if self._strategy.aggregation is Aggregation.ROUND:
            return dict.fromkeys(view.peers, self.version)
        return {peer: self._strategy.contributions(self._step_of(self.saved, peer[1:])) for peer in view.peers}


def _load(name: str, tensor: Tensor, value: Tensor) -> None:
    if value.shape != tensor.shape:
        raise UsageError(
            f"the checkpoint's {name} has shape {list(value.shape)}, the model's has {list(tensor.shape)}", SAME_MODEL
        )
    tensor.copy_(value)


def _version(strategy: Strategy, step: int, version: int) -> int:
    every_step = strategy.aggregation is Aggregation.ROUND and strategy.payload is Payload.GRADIENT
    return step if every_step else version
