"""A strategy of one's own: local steps, agreed on by the sign of what the workers have changed.

roadtrain run digits --workers 2 --steps 40 --sync examples/my_strategy.py:SignedDelta
"""

from torch import Tensor


class SignedDelta:
    """The outer step has the size of the average change and the sign of a running mean (Lion, Chen et al. 2023, 2302.06675)."""

    every = 5
    payload = "delta"
    applied = "round"
    staleness = 0

    def update(self, theta: Tensor, mean: Tensor, step: int, share: float, state: dict[str, Tensor]) -> None:
        """theta [numel] changes in place; `mean` is what the workers' local steps took away from it."""
        running = state.setdefault("running", mean.clone())
        running.mul_(0.5).add_(mean, alpha=0.5)
        theta.sub_(running.sign() * mean.abs())
