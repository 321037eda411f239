"""The virtual-clock carrier: the protocol of `sync/`, unchanged, in one process and by seed.

    simulate, Simulation, Trace       a run in virtual time, and what it leaves
    Fleet, Links, Faults              the machines, what lies between them, what goes wrong
    TensorWorkload, CostWorkload      what is trained: with real numbers, or with none
    Problem, Quadratic                functions from values to gradients

Invariant: what owners, standbys, replicas and workers decide is `sync/`'s alone. Made up here are time, links, faults and the
coordinator's views; and `SimulatedWorker` and `TensorWorkload` carry out the orders of `sync/worker.py` on plain vectors, as
`session/` does on a model's tensors on real hosts.
"""

from roadtrain.simulate.cost import CostWorkload
from roadtrain.simulate.faults import Faults
from roadtrain.simulate.link import Links
from roadtrain.simulate.machine import Fleet
from roadtrain.simulate.quadratic import Quadratic
from roadtrain.simulate.run import Simulation, Trace, simulate
from roadtrain.simulate.tensors import Problem, TensorWorkload
from roadtrain.simulate.workload import Learner, Workload

__all__ = [
    "CostWorkload",
    "Faults",
    "Fleet",
    "Learner",
    "Links",
    "Problem",
    "Quadratic",
    "Simulation",
    "TensorWorkload",
    "Trace",
    "Workload",
    "simulate",
]
