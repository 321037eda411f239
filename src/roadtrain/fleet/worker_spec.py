"""Where a worker is put. Imports nothing heavy: whoever starts workers need not load what they load."""

from __future__ import annotations

from dataclasses import dataclass

from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay


@dataclass(frozen=True, slots=True)
class OwnFolder:
    """The `folder` of a run on a machine that is lent to a coordinator: a worker writes nowhere else because of what that says,
    and reads nothing else. `files`: where files of the driver were unpacked, the folder that the worker is in. `takes_code`:
    code of the driver's may run.
    """

    folder: str
    files: str
    takes_code: bool


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker process is started with.

    `local`: its number on its machine. `threads`: of torch's CPU kernels; 0 leaves them as they are. `coordinator`: the
    certificate (PEM) of one that has a key of its own. `own`: what a machine that was lent allows of it; None where the run is
    the machine's own. `relay`: where it meets workers that it cannot dial, and that cannot dial it. Not `listens`: it opens no
    port; others reach it through the relay.
    """

    url: str
    token: str
    secure: bool
    slot: int
    host: str
    local: int
    threads: int
    coordinator: str = ""
    own: OwnFolder | None = None
    relay: Relay | None = None
    listens: bool = True

    def credentials(self) -> Credentials:
        """What the token gives."""
        return Credentials(self.token, self.secure, self.coordinator)
