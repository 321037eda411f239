"""Fleets and workloads in a line, for tests."""

from __future__ import annotations

from roadtrain.codec import parse as codec
from roadtrain.plan import Link, Straggler, Topology
from roadtrain.simulate import Fleet, Problem, TensorWorkload
from roadtrain.simulate.tensors import INNER
from roadtrain.sync.owner_optimizer import OptimizerSpec
from roadtrain.sync.strategy import Strategy


def fleet(
    workers: int,
    *,
    step_s: float = 0.1,
    speeds: tuple[float, ...] = (),
    rate_bytes_per_s: float | None = None,
    delay_s: float = 0.01,
    stragglers: tuple[Straggler, ...] = (),
) -> Fleet:
    """Machines in one region."""
    topology = Topology.single(workers, Link(rate_bytes_per_s, delay_s))
    return Fleet(topology=topology, step_s=step_s, speeds=speeds, stragglers=stragglers)


def workload(problem: Problem, strategy: Strategy, spec: str = "none", inner: OptimizerSpec = INNER) -> TensorWorkload:
    """A problem under a strategy, with one codec both ways."""
    return TensorWorkload(problem, strategy, (codec(spec), codec(spec)), inner)
