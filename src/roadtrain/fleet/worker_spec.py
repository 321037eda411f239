"""Where a worker is put. Imports nothing heavy: whoever starts workers need not load what they load."""

from __future__ import annotations

from dataclasses import dataclass

from roadtrain.wire.credentials import Credentials
from roadtrain.wire.relay import Relay


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker process is started with.

    `local`: its number on its machine. `threads`: of torch's CPU kernels; 0 leaves them as they are. `relay`: where it meets
    workers that it cannot dial, and that cannot dial it. Not `listens`: it opens no port; others reach it through the relay."""

    url: str
    token: str
    secure: bool
    slot: int
    host: str
    local: int
    threads: int
    relay: Relay | None = None
    listens: bool = True

    def credentials(self) -> Credentials:
        """What the token gives."""
        return Credentials(self.token, self.secure)
