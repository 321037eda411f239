"""Whether a contribution is far from what is usual, as those of a machine are that computes wrongly.

The size of a mean is looked at on a sample of its values, in every commit. Only where it is far above the usual one,
contributions are looked at one by one: far is one that is a thousand times as large as the usual mean, and as the others of its
round. Where more than half are, the training has changed, and none is.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Mapping

from torch import Tensor

from roadtrain.view import PeerId

SAMPLE = 65_536
"""Values that are looked at, at most."""
HISTORY, KNOWN = 31, 5
"""Sizes that are remembered, and how many it takes to say what is usual."""
SUSPECT, FAR = 8.0, 1000.0
"""Times the usual size: from where on contributions are looked at, and refused."""
TOO_LARGE = "times as large as others"
STRIKES, STRIKES_TOO_LARGE = 16, 3
"""Contributions in a row that were refused, while those of others counted, after which nothing more of a worker is wanted. What
is not finite may be a loss scale of fp16 that has to fall, by a half each time; what is too large is no accident that often."""


class Screen:
    """Of one fragment, at its owner."""

    def __init__(self) -> None:
        self._sizes: deque[float] = deque(maxlen=HISTORY)
        self._strikes: Counter[PeerId] = Counter()
        self._passed: set[PeerId] = set()
        """Workers with refusals in a row, since the first of which something of another counted."""

    def is_usual(self, mean: Tensor) -> bool:
        """Whether a mean is as large as means are; what is too new to say is."""
        size = _size(mean)
        usual = self._usual()
        if usual is not None and size > SUSPECT * usual:
            return False
        self._sizes.append(size)
        return True

    def far(self, contributions: Mapping[PeerId, Tensor]) -> dict[PeerId, str]:
        """Those of one round that are far from usual, and why they are refused. A contribution that is alone has no others to be
        compared with: when half of the last ones were like it, it is usual."""
        usual = self._usual()
        assert usual is not None, "something was usual"
        sizes = {worker: _size(value) for worker, value in contributions.items()}
        found: dict[PeerId, str] = {}
        for worker, size in sizes.items():
            others = [other for name, other in sizes.items() if name != worker]
            limit = max(usual, statistics.median(others)) if others else usual
            if size > FAR * limit:
                found[worker] = f"it is {size / limit:.0e} {TOO_LARGE}"
        alone = len(sizes) == 1
        if alone or not found or 2 * len(found) > len(sizes):
            self._sizes.append(statistics.median(sizes.values()))
        return found if alone or 2 * len(found) <= len(sizes) else {}

    def strike(self, worker: PeerId, reason: str | None) -> bool:
        """A contribution counts, or was refused for that reason; whether it was the last straw. Where nothing of others counts
        meanwhile, none is."""
        if reason is None:
            del self._strikes[worker]
            self._passed = set(self._strikes)
            return False
        self._strikes[worker] += 1
        most = STRIKES_TOO_LARGE if reason.endswith(TOO_LARGE) else STRIKES
        return self._strikes[worker] >= most and worker in self._passed

    def forget(self, worker: PeerId) -> None:
        """A worker of this name comes back as a newcomer."""
        del self._strikes[worker]
        self._passed.discard(worker)

    def _usual(self) -> float | None:
        """None: not known yet, or nothing, as in a fragment without gradients."""
        return (statistics.median(self._sizes) or None) if len(self._sizes) >= KNOWN else None


def _size(value: Tensor) -> float:
    """The norm of some values, evenly taken."""
    return float(value[:: 1 + value.numel() // SAMPLE].float().square().sum().sqrt())
