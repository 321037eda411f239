"""Before a script begins: hook on what it may have that is torch's."""

from __future__ import annotations

from collections.abc import Mapping

from roadtrain.errors import UsageError
from roadtrain.loop.attach import attached_here
from roadtrain.session.worker_context import ScriptContext
from roadtrain.torchrun.ddp import reroute
from roadtrain.torchrun.optimizers import Optimizers
from roadtrain.torchrun.process_group import watch
from roadtrain.torchrun.rerouting import Rerouting
from roadtrain.torchrun.saving import write_whole
from roadtrain.torchrun.single import OF_ONE, Single

AS_TORCH = "ssgd:allreduce"
"""What DistributedDataParallel does anyway."""


class Hooks:
    """What this process is hooked on. `single`: the script knows of no other process; `met`: it has asked for a process group."""

    def __init__(self, context: ScriptContext) -> None:
        self._control = context.control
        self.single = bool(context.chosen.get("place", {}).get("shard_data"))
        self.met = False

    def meets(self) -> None:
        """The script asks for a process group. Raises UsageError where it was to know of no others."""
        if self.single:
            raise UsageError(f"{OF_ONE}, and this one makes a process group", "leave --shard-data out")
        if not self.met:
            self.met = True
            self._control.unmodified()


def prepare(context: ScriptContext) -> Hooks:
    """Hook on what the script may have; on its DistributedDataParallel where somebody said how gradients are to travel."""
    hooks = Hooks(context)
    watch(hooks.meets, context.control.warn, agree_finally)
    what = rerouted_by(context.chosen)
    if hooks.single or what:
        optimizers = Optimizers()
        optimizers.watch()
        if hooks.single:
            context.control.unmodified()
            write_whole()
            Single(context, what or "ssgd", optimizers)
        else:
            reroute(Rerouting(context, what, optimizers))
    return hooks


def agree_finally() -> None:
    """The script's processes part: what comes after, such as the last file of weights, has what all agreed on."""
    attached = attached_here()
    if attached is not None:
        attached.agree_finally()


def rerouted_by(chosen: Mapping[str, Mapping[str, object]]) -> str:
    """The strategy by which the script's gradients travel, "" where they stay torch's. A codec, a link or a norm to clip by that
    was chosen without a strategy would have no effect there either."""
    said = chosen.get("sync") or chosen.get("codec") or chosen.get("place", {}).get("link")
    strategy = str(chosen.get("sync", {}).get("strategy", "ssgd"))
    clipped = chosen.get("optimizer", {}).get("clip")
    return strategy if (said or clipped) and strategy != AS_TORCH else ""
