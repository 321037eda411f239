"""A worker's process that comes to be the coordinator, as the one before is lost: it sees the run through to its report."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from roadtrain.errors import RoadtrainError
from roadtrain.fleet.serving import Elsewhere, Serving
from roadtrain.launch.last_heirs import LastHeirs
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.supervisor import Supervisor
from roadtrain.launch.verdict import interrupted
from roadtrain.membership.messages import RunSpec
from roadtrain.view import PeerId
from roadtrain.wire.credentials import Credentials


class RunHeir:
    """Of the worker `name`. Its folder is the run's, on this host."""

    def __init__(self, name: str, credentials: Credentials, last: LastHeirs | None = None) -> None:
        """`last`: what an earlier process of this rank was told, under a launcher that may start it again."""
        self._name, self._credentials, self._last = name, credentials, last
        self._supervisor: Supervisor | None = None

    def rise(self, spec: RunSpec, listener: socket.socket, others: list[str], before: list[str]) -> Serving:
        """See `Heir`."""
        order = RunRequest.of_spec(spec)
        order.folder.mkdir(parents=True, exist_ok=True)
        self._supervisor = Supervisor(order, self._credentials, listener, Elsewhere(others, before))
        print(f"{self._name}: the coordinator is lost; it asks to take its place", file=sys.stderr, flush=True)
        return self._supervisor.serving

    def remember(self, heirs: Mapping[PeerId, str]) -> None:
        """See `Heir`."""
        if self._last is not None:
            self._last.write(heirs)

    def remembered(self) -> Mapping[PeerId, str]:
        """See `Heir`."""
        return {} if self._last is None else self._last.read()

    def see_through(self) -> int | None:
        """If this process came to be the coordinator: wait for the end of the run, and write its report. Returns the exit code of
        the run, None where this process is not its coordinator."""
        supervisor = self._supervisor
        if supervisor is None or supervisor.serving.has_yielded:
            return None
        try:
            supervisor.wait()
            supervisor.finish()
            if supervisor.coordinator.interrupted:
                raise interrupted(supervisor.order)
        except RoadtrainError as error:
            print(f"{self._name}: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"hint: {error.hint}", file=sys.stderr)
            return error.exit_code
        return 0
