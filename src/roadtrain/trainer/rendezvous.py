"""How the ranks of a region meet in a process group of torch.distributed, and part when a collective has failed.

When a member dies, the collective fails at its neighbours; they destroy the group at once, which lets everybody know. A
collective that fails though all are alive (a broken connection) costs the same meeting, without a new view.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import threading
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from roadtrain.layout import host_group
from roadtrain.session.control import Control
from roadtrain.session.device import backend_of, identity
from roadtrain.trainer.group_sockets import GroupSockets
from roadtrain.view import PeerId, View

GROUP_TIMEOUT = datetime.timedelta(seconds=60)
"""A collective that takes longer counts as failed."""
VIEW_TIMEOUT_S = 8.0
"""How long to wait for the coordinator's word on who is left, before the same members meet again: longer than it waits
for a silent worker."""


class Rendezvous:
    """This worker's membership in the group of `view`. `host`: the address where this worker can be met.

    `crew`: those who meet, where only the first of them is a member of the view.
    """

    def __init__(self, control: Control, view: View, host: str, crew: Sequence[PeerId] = ()) -> None:
        self.view = view
        self._control, self._host, self._crew = control, host, crew
        self._sockets = GroupSockets()
        self._meeting = threading.Lock()

    @property
    def peers(self) -> Sequence[PeerId]:
        """Those who meet, in the order of their ranks."""
        return self._crew or self.view.peers

    @property
    def size(self) -> int:
        return len(self.peers)

    @property
    def whole(self) -> bool:
        """Whether this worker, and if it is one of a crew, all of the crew, are in the run."""
        return (self._crew or [self._control.me])[0] in self.view.peers

    def meet(self, view: View, device: torch.device) -> None:
        """Make a process group of those who meet; one alone needs none."""
        with self._meeting:
            self.view = view
            self._sockets.mark()
        if self.size == 1:
            return
        rank = self.peers.index(self._control.me)
        store = self._store(view, rank)
        store.set(f"device{rank}", identity(device))
        devices = store.multi_get([f"device{member}" for member in range(self.size)])
        backend = backend_of([device.decode() for device in devices], host_group.NAME)
        dist.init_process_group(backend, store=store, rank=rank, world_size=self.size, timeout=GROUP_TIMEOUT)

    def _store(self, view: View, rank: int) -> Store:
        """A key-value store for this view alone, at its first member."""
        if rank == 0:
            server = TCPStore(self._host, 0, None, True, timeout=GROUP_TIMEOUT, wait_for_workers=False)
            self._control.meeting_point(view, f"{self._host}:{server.port}")
            return PrefixStore(f"view{view.number}", server)
        host, _, port = self._control.meeting_point(view, None).rpartition(":")
        client = TCPStore(host, int(port), None, False, timeout=GROUP_TIMEOUT)
        return PrefixStore(f"view{view.number}", client)

    def leave(self) -> None:
        """Destroy the group; whoever waits in one of its collectives is woken by an error.

        The connections close when nothing refers to the group any more, and torch's wrappers do, in cycles of references: the
        caller has let go of its own.
        """
        self._sockets.settle()
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
            gc.collect()

    @property
    def is_outdated(self) -> bool:
        """Whether there is a newer view than the one that this group has met in."""
        return self._control.newer_view(self.view.number) is not None

    def view_changed(self, view: View) -> None:
        """The coordinator announced a view. Whoever waits in a collective for one that is lost, and may only stand still, waits
        no longer. Any thread may say so."""
        with self._meeting:
            waited_for = self.peers[:1] if self._crew else self.peers
            if view.number > self.view.number and not set(waited_for) <= set(view.peers):
                self._sockets.cut()

    def next_view(self) -> View:
        """The view to meet in after this one; the same when nobody turns out to be lost. Raises RunFailed when the run ends."""
        with contextlib.suppress(TimeoutError):
            return self._control.next_view(self.view.number, VIEW_TIMEOUT_S)
        return self.view

    def carried_bytes(self) -> tuple[int, int]:
        """Bytes (sent, received) in groups so far."""
        return self._sockets.totals()
