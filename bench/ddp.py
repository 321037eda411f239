"""Plain torch DistributedDataParallel on Gloo, the yardstick: the same model, data and optimizer as `roadtrain run gpt`.

Started by torchrun or anything that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; rank 0 prints one JSON line.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from roadtrain.plan import load
from roadtrain.sync.owner_optimizer import OptimizerSpec, set_lr, torch_optimizer
from roadtrain.trainer.sampler import Sampler
from roadtrain.trainer.task import make_task


def main() -> None:
    """Train and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("layers", "width", "heads", "context", "batch", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    flags: dict[tuple[str, str], object] = {("job", name): getattr(given, name) for name in ("steps", "batch")}
    flags |= {("settings", name): getattr(given, name) for name in ("layers", "width", "heads", "context")}
    plan = load("gpt", None, {}, flags)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
    rank, world = dist.get_rank(), dist.get_world_size()
    task = make_task(plan)
    torch.manual_seed(plan.job.seed)
    model = DistributedDataParallel(task.build(), gradient_as_bucket_view=True)
    spec = OptimizerSpec.from_plan(plan)
    optimizer = torch_optimizer(spec, list(model.parameters()))
    sampler = Sampler(len(task), given.batch, world, plan.job.seed)
    dist.barrier()
    sent_before, began = _sent(), time.perf_counter()
    for step in range(given.steps):
        batch = task.batch(sampler.indices(step, rank))
        optimizer.zero_grad(set_to_none=True)
        loss = task.loss(model, batch)
        loss.backward()
        set_lr(optimizer, spec.lr_at(step + 1))
        optimizer.step()
    wall = time.perf_counter() - began
    dist.barrier()
    if rank == 0:
        tokens = given.steps * given.batch * world * given.context
        result = {"tokens_per_s": tokens / wall, "step_s": wall / given.steps, "bytes_sent": _sent() - sent_before}
        result |= {"tokens": tokens, "val_loss": task.validate(model.module)}
        print(json.dumps(result), flush=True)
    dist.barrier()
    dist.destroy_process_group()


def _sent() -> int:
    """Bytes that this host's interface has sent (meaningful where each rank is a host of its own)."""
    name = os.environ.get("WANLAB_IFNAME", "lo")
    try:
        with open(f"/sys/class/net/{name}/statistics/tx_bytes") as file:
            return int(file.read())
    except OSError:
        return 0


if __name__ == "__main__":
    main()
