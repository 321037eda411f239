"""Sees a run through: serves the coordinator, watches, handles Ctrl-C, and puts the report together."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from roadtrain.checkpoint.folder import steps_in
from roadtrain.errors import Interrupted
from roadtrain.fleet.serving import Elsewhere, Serving
from roadtrain.launch.process_server import WARNING, hearing
from roadtrain.launch.run_control import RunControl
from roadtrain.launch.run_request import RunRequest
from roadtrain.launch.snapshot import RunSnapshot, snapshot_of
from roadtrain.membership.phase import Phase
from roadtrain.report import Report
from roadtrain.wire.credentials import Credentials

POLL_S = 0.25
"""How often the driver looks whether its workers live, and shows how far they are."""
Watcher = Callable[[RunSnapshot], None]
Renew = Callable[[Sequence[str]], None]


class Supervisor:
    """One run's coordinator at `listener`, from its first worker to its report. `elsewhere`: it takes another's place."""

    def __init__(
        self, order: RunRequest, credentials: Credentials, listener: socket.socket, elsewhere: Elsewhere | None = None
    ) -> None:
        self.control = RunControl(order, credentials, recalls=elsewhere is not None)
        self.coordinator = self.control.coordinator
        self.serving = Serving(self.control.sessions, listener, elsewhere)

    @property
    def order(self) -> RunRequest:
        """The run; of a script, with the plan that it has said by its end."""
        return self.control.order

    @property
    def returns(self) -> bool:
        """Whether lost workers may come back."""
        return self.control.returns

    def watch(self, dead: Callable[[], list[str]], watcher: Watcher, renew: Renew | None = None) -> None:
        """Until the run is over. `dead`: workers whose process has ended since it was last asked. `renew` starts some again."""
        while self.coordinator.phase is not Phase.OVER:
            for worker in dead():
                self.serving.exited(worker)
            wanted = self.coordinator.restarts.wanted
            if renew is not None and wanted:
                renew(wanted.popleft())
            watcher(snapshot_of(self.coordinator, self.serving.page))
            self.serving.sessions.over.wait(POLL_S)
        watcher(snapshot_of(self.coordinator, self.serving.page))

    def wait(self) -> None:
        """Until the run is over, in a process that has done its own part in it."""
        with self.hearing_ctrl_c():
            while not (self.coordinator.phase is Phase.OVER or self.serving.has_yielded):
                self.serving.sessions.over.wait(POLL_S)

    @contextmanager
    def hearing_ctrl_c(self) -> Iterator[None]:
        """Around all that workers are started and watched in: one that is half started when an exception comes would be left. The
        first Ctrl-C (or SIGTERM, or a terminal that closes, or a batch system's warning) asks the run to save and stop;
        the second stops at once, unless it is another warning. What is ignored, such as under nohup, stays so."""
        asked = 0

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            asked += number not in WARNING
            if asked > 1:
                self.serving.abort(self._stopped_at_once())
            else:
                self.serving.interrupt()

        with hearing(handle):
            yield

    def _stopped_at_once(self) -> Interrupted:
        saved = steps_in(self.order.checkpoints)
        if not saved:
            return Interrupted("stopped at once, nothing saved")
        again = f"go on with: roadtrain run --resume {self.order.folder}"
        return Interrupted(f"stopped at once, nothing saved since step {saved[-1]}", again)

    def failed(self, error: BaseException) -> None:
        """As in `RunControl`."""
        self.control.failed(error)

    def finish(self) -> Report:
        """Serve no longer; as in `RunControl`."""
        self.serving.close()
        return self.control.finish()
