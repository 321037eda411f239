"""`ssgd:allreduce`: gradients meet in torch.distributed's all-reduce (DDP on Gloo or NCCL); every worker steps its own optimizer.

When a member dies, the collective fails; the rest destroy their group at once (which lets everybody know), wait for the next
view, meet in a new group and take over the state of whoever got furthest. A collective that fails though all are alive
(a broken connection) costs the same meeting, without the new view.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.nn.parallel import DistributedDataParallel

from roadtrain.errors import RunFailed
from roadtrain.message import View
from roadtrain.sync.fragment import travelling
from roadtrain.sync.ledger import all_finite
from roadtrain.sync.rule import RuleSpec, set_lr, torch_optimizer
from roadtrain.trainer.control import Control
from roadtrain.trainer.sockets import SocketBytes
from roadtrain.trainer.tally import Tally
from roadtrain.trainer.task import Batch, Task

GROUP_TIMEOUT = datetime.timedelta(seconds=60)
"""A collective that takes longer counts as failed."""
VIEW_TIMEOUT_S = 8.0
"""How long to wait for the coordinator's word on who is left, before the same members meet again: longer than it waits
for a silent worker."""
MEETINGS = 5
"""How many meetings may fail in a row."""
ATTEMPTS = 4
"""How often one step is tried."""


class AllReduceStep:
    """A replica that agrees by all-reduce. `host`: the address where this worker can be met."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        control: Control,
        view: View,
        host: str,
        inner: RuleSpec,
        tally: Tally,
        autocast: Callable[[], Any] = nullcontext,
    ) -> None:
        self.step = 0
        self._task, self._model, self._control, self._host = task, model, control, host
        self._autocast = autocast
        self._inner, self._tally = inner, tally
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._buffers = list(travelling(model)[1].values())
        self._optimizer = torch_optimizer(inner, list(self._trained.values()))
        self._sockets = SocketBytes()
        self._view = view
        self._wrapped: nn.Module = model
        self._gradients_done_s = 0.0
        for parameter in self._trained.values():
            parameter.register_post_accumulate_grad_hook(self._gradient_done)

    def start(self) -> None:
        """Meet the others, and agree on the state if some are ahead."""
        self._regroup(self._view)

    def _meet(self, view: View) -> None:
        """Make a process group of the view's members, and wrap the model for it."""
        self._view = view
        size, rank = len(view.members), view.peers.index(self._control.me)
        if size == 1:
            self._wrapped = self._model
            return
        self._sockets.mark()
        store = self._store(view, rank)
        backend = "nccl" if next(self._model.parameters()).is_cuda and torch.cuda.device_count() >= size else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=GROUP_TIMEOUT)
        self._wrapped = DistributedDataParallel(self._model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def _store(self, view: View, rank: int) -> Store:
        """A key-value store for this view alone, at its first member."""
        if rank == 0:
            server = TCPStore(self._host, 0, None, True, timeout=GROUP_TIMEOUT, wait_for_workers=False)
            self._control.meeting_point(view, f"{self._host}:{server.port}")
            return PrefixStore(f"view{view.number}", server)
        host, _, port = self._control.meeting_point(view, None).rpartition(":")
        client = TCPStore(host, int(port), None, False, timeout=GROUP_TIMEOUT)
        return PrefixStore(f"view{view.number}", client)

    # -------------------------------------------------------------------------------------------------- step

    def compute(self, batch: Batch, step: int) -> Tensor:
        """As `LocalStep`; a step whose collective failed is done again in a new group.

        An error that is not the network's fails every time, and is raised in the end.
        """
        for attempt in count(1):
            try:
                return self._compute(batch, step)
            except RuntimeError:
                if len(self._view.members) == 1 or not dist.is_initialized() or attempt == ATTEMPTS:
                    raise
            self._regroup(self._part())  # out of the handler: the traceback refers to the wrapper, and so to the group
            if self.step >= step:
                break  # another replica had done this step; its state is ours now
        return torch.tensor(float("nan"))

    def _compute(self, batch: Batch, step: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._task.loss(self._wrapped, batch)
        loss.backward()  # returns when the last all-reduce has: what follows the last gradient is waiting
        self._average_buffers()
        self._tally.sync_wait_s += time.perf_counter() - self._gradients_done_s
        if all(all_finite(p.grad) for p in self._trained.values() if p.grad is not None):
            set_lr(self._optimizer, self._inner.lr_at(step))
            self._optimizer.step()
        else:
            self._tally.refused += 1  # the mean is the same everywhere, so all replicas leave this step out
        self.step = step
        return loss.detach()

    def _gradient_done(self, _: Tensor) -> None:
        self._gradients_done_s = time.perf_counter()

    def _average_buffers(self) -> None:
        size = len(self._view.members)
        for buffer in self._buffers if size > 1 else ():
            dist.all_reduce(buffer)
            buffer.div_(size)

    def _regroup(self, view: View) -> None:
        """Meet in `view`, or in the one after it, until a meeting succeeds, and agree on one state.

        A meeting fails when a member dies in it, which the next view tells; and sometimes for no reason that lasts, as when a
        connection is refused under load. So when no view comes, the same members meet again.
        """
        for _ in range(MEETINGS):
            if self._control.me not in view.peers:
                raise RunFailed("this worker was taken for lost while it was silent")
            try:
                self._meet(view)
                self._level()
                return
            except RuntimeError as error:
                self._control.event("meeting_failed", view=view.number, reason=str(error).partition("\n")[0])
            view = self._part()
        raise RunFailed(f"the workers failed {MEETINGS} times in a row to meet for a collective")

    def _part(self) -> View:
        """After a collective failed: leave the group, and find the view to meet in next."""
        self._leave()
        with contextlib.suppress(TimeoutError):
            return self._control.next_view(self._view.number, VIEW_TIMEOUT_S)
        return self._view

    def _leave(self) -> None:
        """Destroy the group; whoever waits in one of its collectives is woken by an error.

        The connections close when nothing refers to the group any more, and the wrapper does, in a cycle of references.
        """
        self._sockets.settle()
        self._wrapped = self._model
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
            gc.collect()

    def _level(self) -> None:
        """Everyone takes the state of the member that has done most steps."""
        if len(self._view.members) == 1:
            return
        steps = [torch.zeros(1, dtype=torch.int64) for _ in self._view.members]
        dist.all_gather(steps, torch.tensor([self.step]))
        furthest = max(int(s) for s in steps)
        if all(int(s) == furthest for s in steps):
            return
        source = next(rank for rank, s in enumerate(steps) if int(s) == furthest)
        self._materialise(steps, source)
        for tensor in self._state_tensors():
            dist.broadcast(tensor, source)
        self.step = furthest

    def _materialise(self, steps: list[Tensor], source: int) -> None:
        """Give the optimizer its state tensors where it has none yet, so that there is something to receive into."""
        if not self._optimizer.state and int(steps[source]) > 0:
            for parameter in self._trained.values():
                parameter.grad = torch.zeros_like(parameter)
            set_lr(self._optimizer, 0.0)
            self._optimizer.step()

    def _state_tensors(self) -> list[Tensor]:
        moments = [t for p in self._trained.values() for _, t in sorted(self._optimizer.state[p].items())]
        return [*(p.data for p in self._trained.values()), *self._buffers, *(t for t in moments if torch.is_tensor(t))]

    def agree(self, step: int, samples: int) -> None:
        """Nothing to do: the gradients have met in backward."""

    def finish(self) -> None:
        """Every step has been shared already."""

    # ------------------------------------------------------------------------------------------------- state

    def reached(self) -> int:
        return self.step

    def local_state(self) -> dict[str, Any]:
        return {}

    def load_local_state(self, state: dict[str, Any]) -> None:
        """All state is shared state."""

    def rule_state(self) -> dict[str, dict[str, Tensor]]:
        """The optimizer's tensors by parameter name."""
        return {name: dict(self._optimizer.state.get(p, {})) for name, p in self._trained.items()}

    def load_rule_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take up what a checkpoint has of the optimizer."""
        for name, tensors in state.items():
            if tensors:
                self._optimizer.state[self._trained[name]] = dict(tensors)

    def carried_bytes(self) -> tuple[int, int]:
        return self._sockets.totals()

    def state_bytes(self) -> int:
        moments = [t for s in self._optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
        gradients = [p.grad for p in self._trained.values() if p.grad is not None]
        tensors = [*self._trained.values(), *self._buffers, *gradients, *moments]
        return sum(t.numel() * t.element_size() for t in tensors)

    def close(self) -> None:
        """Leave the group."""
        self._leave()
