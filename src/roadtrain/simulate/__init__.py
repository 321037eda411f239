"""The virtual-clock carrier: the protocol of `sync/`, unchanged, in one process and by seed.

Public: `simulate`, `Fleet`, `Faults`, `Quadratic`, `Trace`.

Invariant: no second implementation of anything that runs on real hosts; only time, links and faults are made up here.
"""

from roadtrain.simulate.faults import Faults
from roadtrain.simulate.link import Fleet
from roadtrain.simulate.run import Trace, simulate
from roadtrain.simulate.workload import Quadratic, Workload

__all__ = ["Faults", "Fleet", "Quadratic", "Trace", "Workload", "simulate"]
