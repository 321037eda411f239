"""What a script trains is attached to the run, though the script does not say so."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from roadtrain.errors import UsageError
from roadtrain.loop.attach import attach_to
from roadtrain.loop.attached import Attached
from roadtrain.plan import SyncSpec
from roadtrain.session.worker_context import ScriptContext
from roadtrain.torchrun.agreed_state import give_agreed
from roadtrain.torchrun.optimizers import Optimizers, Together
from roadtrain.torchrun.skipped_steps import count_skipped

OWNERS_STEP = ("asgd", "ssp")
"""Strategies in which fragments' owners step, with the settings of one optimizer."""


def attach_script(
    context: ScriptContext,
    model: nn.Module,
    optimizers: Optimizers,
    strategy: str,
    settings: Mapping[str, object] | None = None,
    *,
    first_buffers: bool = False,
) -> Attached:
    """Attach `model` with all that steps it; `settings` and `first_buffers` as in `attach_to`. Raises UsageError for what cannot
    be."""
    if context.resume is not None:
        raise UsageError("a script without rt.attach goes on from what it has saved itself", "leave --resume out")
    own = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    optimizer = optimizers.of(own)[0] if owners_step(strategy) else Together(optimizers, own)
    attached = attach_to(model, optimizer, None, settings or {}, written_out=True, first_buffers=first_buffers)
    if isinstance(optimizer, Together):
        count_skipped()
    give_agreed(model, attached.agreed_values)
    return attached


def owners_step(strategy: str) -> bool:
    """Whether it takes a single optimizer, which then changes nothing here."""
    return SyncSpec.parse(strategy).name in OWNERS_STEP
