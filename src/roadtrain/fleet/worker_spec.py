"""Where a worker is put. Imports nothing heavy: whoever starts workers need not load what they load."""

from __future__ import annotations

from dataclasses import dataclass

from roadtrain.wire.credentials import Credentials


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker process is started with.

    `local`: its number on its machine. `threads`: of torch's CPU kernels; 0 leaves them as they are."""

    url: str
    token: str
    secure: bool
    slot: int
    host: str
    local: int
    threads: int

    def credentials(self) -> Credentials:
        """What the token gives."""
        return Credentials(self.token, self.secure)
