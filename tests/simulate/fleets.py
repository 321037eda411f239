"""Fleets and workloads in a line, for tests."""

from __future__ import annotations

from roadtrain.codec import parse as codec
from roadtrain.plan import Link, Region, Straggler, Topology
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


def homes(ups: tuple[float, ...], *, downs: tuple[float, ...] = (), delay_s: float = 0.01) -> Topology:
    """Workers behind a line of their own each, which sends and receives so many bytes per second (default: as many)."""
    here = Link(None, 0.0)
    lines = list(zip(ups, downs or ups, strict=True))
    regions = tuple(Region(f"home{number}", 1, here, *line) for number, line in enumerate(lines))
    names = [region.name for region in regions]
    return Topology(regions, {(one, other): Link(None, delay_s) for one in names for other in names if one != other})


def workload(problem: Problem, strategy: Strategy, spec: str = "none", inner: OptimizerSpec = INNER) -> TensorWorkload:
    """A problem under a strategy, with one codec both ways."""
    return TensorWorkload(problem, strategy, (codec(spec), codec(spec)), inner)
