"""How fast the devices of a pipeline are, measured before it is cut."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from roadtrain.layout.options import Options
from roadtrain.layout.survey import Survey

REPEATS = 5
"""Fewest forward passes that are timed; the fastest counts, as what else the machine does only adds to it."""
MEASURED_S = 0.3
"""And for so long: where ranks share processors, each should have had one to itself now and then."""
EVEN = 1.3
"""Devices whose speeds differ by less are equally fast: a measurement says no more, and every start should cut alike."""


def speeds_of(model: nn.Module, found: Survey, options: Options) -> tuple[float, ...]:
    """Relative speed of each rank along pp: as the person says, or measured. All ranks call it together.

    Of the ranks that share a stage the slowest counts, as the others wait for it.
    """
    if options.stage_speeds:
        return options.stage_speeds
    mine = torch.tensor([_seconds(model, found)], dtype=torch.float64)
    every = [torch.zeros_like(mine) for _ in range(options.spec.size)]
    dist.all_gather(every, mine)
    return relative([float(seconds) for seconds in every], options.spec.pp)


def relative(seconds: Sequence[float], stages: int) -> tuple[float, ...]:
    """Speeds from what a block took on each rank, those of a stage together; the slowest device's is 1."""
    each = len(seconds) // stages
    taken = [max(seconds[stage * each : (stage + 1) * each]) for stage in range(stages)]
    if max(taken) < EVEN * min(taken):
        return (1.0,) * stages
    return tuple(max(taken) / one for one in taken)


@torch.no_grad()
def _seconds(model: nn.Module, found: Survey) -> float:
    """What the forward of the costliest block takes here, of the sample that went through the model."""
    number = max(range(len(found.blocks)), key=lambda position: found.cost[position + 1])
    block, call = copy.deepcopy(model.get_submodule(found.blocks[number])), found.calls[number]
    device = next(model.parameters()).device
    best, passes, until = float("inf"), 0, time.perf_counter() + MEASURED_S
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        while passes <= REPEATS or time.perf_counter() < until:  # the first one warms up, and is never the fastest
            begin = time.perf_counter()
            block(*call.args, **call.kwargs)
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            best = min(best, time.perf_counter() - begin)
            passes += 1
    return best
