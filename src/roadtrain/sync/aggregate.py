"""Contributions to one fragment become their weighted mean; those that cannot be accepted are left out, and named.

All are added up first, and looked at one by one only where that fails: to look at each would be a pass over its values, and
nearly always none is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from roadtrain.errors import PacketError
from roadtrain.message import Part, Push
from roadtrain.sync.ledger import TensorLedger
from roadtrain.sync.screen import Screen
from roadtrain.view import PeerId


def aggregate(
    ledger: TensorLedger, pushes: Sequence[tuple[PeerId, Push]], screen: Screen
) -> tuple[Tensor | None, dict[PeerId, str]]:
    """The mean [numel], None where nobody adds anything, and what is wrong with the contributions of those refused."""
    refused: dict[PeerId, str] = {}
    while True:
        good = [(worker, push) for worker, push in pushes if worker not in refused]
        try:
            mean = _mean(ledger, [push for _, push in good])
        except PacketError as error:
            refused |= _faults(ledger, good) or {worker: str(error) for worker, _ in good}
            continue
        far = {} if mean is None or screen.is_usual(mean) else screen.far(_values(ledger, good))
        if not far:
            return mean, refused
        refused |= far


def learning_rate(contributions: Sequence[Push] | Sequence[Part]) -> float | None:
    """The learning rate that came with them, by the first that adds something; None where the owner keeps the schedule."""
    return next((each.lr for each in contributions if each.lr > 0 and each.weight > 0), None)


def _mean(ledger: TensorLedger, pushes: Sequence[Push]) -> Tensor | None:
    """The mean of those that add something. Raises PacketError when one of them cannot be accepted."""
    for push in pushes:
        if not 0 <= push.weight < math.inf:  # also true for NaN
            raise PacketError(f"a contribution of weight {push.weight}")
    counted = [(push.packet, push.weight) for push in pushes if push.packet is not None and push.weight]
    return ledger.aggregate([packet for packet, _ in counted], [weight for _, weight in counted]) if counted else None


def _values(ledger: TensorLedger, pushes: Sequence[tuple[PeerId, Push]]) -> dict[PeerId, Tensor]:
    """What each adds. One at a time would do where memory is short; this is for once in a while."""
    return {worker: ledger.up.decode(push.packet) for worker, push in pushes if push.packet is not None and push.weight}


def _faults(ledger: TensorLedger, pushes: Sequence[tuple[PeerId, Push]]) -> dict[PeerId, str]:
    """What is wrong with each that cannot be accepted by itself."""
    faults: dict[PeerId, str] = {}
    for worker, push in pushes:
        try:
            _mean(ledger, [push])
        except PacketError as error:
            faults[worker] = str(error)
    return faults
