"""Before a script begins: hook on what it may have that is torch's."""

from __future__ import annotations

from roadtrain.session.worker_context import ScriptContext
from roadtrain.torchrun.process_group import watch


class Hooks:
    """What this process is hooked on. `met`: the script has asked for a process group."""

    def __init__(self, context: ScriptContext) -> None:
        self._control = context.control
        self.met = False

    def meets(self) -> None:
        """The script asks for a process group."""
        if not self.met:
            self.met = True
            self._control.unmodified()


def prepare(context: ScriptContext) -> Hooks:
    """Hook on what the script may have."""
    hooks = Hooks(context)
    watch(hooks.meets, context.control.warn)
    return hooks
