"""The two codecs of a run: of contributions, on the way up, and of answers, on the way down."""

from __future__ import annotations

from roadtrain.codec.codec import Codec, parse
from roadtrain.errors import UsageError
from roadtrain.plan import Plan, SyncSpec


def pair(up: str, down: str = "") -> tuple[Codec, Codec]:
    """The codecs of contributions and of answers. Where `down` is empty, answers go as contributions do, if they can.

    Raises UsageError where `parse` does, and for answers by a codec that is for gradients alone.
    """
    codec = parse(up)
    if not down:
        return codec, codec.answering or codec
    answers = parse(down)
    if answers.answering is not None:
        raise UsageError(
            f"codec '{answers.spec}' keeps a momentum, and answers have none",
            f"answers can have --codec-down {answers.answering.spec}",
        )
    return codec, answers


def codecs_of(plan: Plan) -> tuple[Codec, Codec]:
    """The plan's codecs. Raises UsageError where `pair` does, and where its optimizer or strategy does not suit them."""
    up, down = pair(plan.codec.up, plan.codec.down)
    if up.answering is not None:
        _check_momentum(plan, up)
    return up, down


def _check_momentum(plan: Plan, up: Codec) -> None:
    """A codec that keeps the momentum of gradients is for gradients, and for an optimizer without one."""
    optimizer = plan.optimizer
    if SyncSpec.parse(plan.sync.strategy).name in ("localsgd", "diloco"):
        raise UsageError(
            f"codec '{up.spec}' is for gradients, and {plan.sync.strategy} sends parameter changes",
            f"choose --codec {up.answering.spec if up.answering else 'topk:0.01'}, or --sync ssgd",
        )
    if optimizer.name != "sgd" or optimizer.momentum:
        chosen = optimizer.name if optimizer.name != "sgd" else f"--momentum {optimizer.momentum}"
        raise UsageError(
            f"codec '{up.spec}' keeps the momentum itself, which {chosen} would count twice",
            "choose --optimizer sgd without --momentum",
        )
