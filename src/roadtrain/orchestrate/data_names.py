"""The data that are fed and taken at one coordinator, by name."""

from __future__ import annotations

import hashlib
import hmac

from roadtrain.membership.sharing import SharedData, check_data_name
from roadtrain.wire.credentials import Credentials

RETURN_S = 2.0
"""After so long those have come again who knew the coordinator before it was started again."""


class DataNames:
    """`secret`: of the coordinator. `from_s`: when callers are told first who is there, on the clock of time.monotonic."""

    def __init__(self, secret: bytes) -> None:
        self.from_s = 0.0
        self._secret = secret
        self._data: dict[str, SharedData] = {}

    def begin(self, now: float) -> None:
        """The coordinator has been started."""
        self.from_s = now + RETURN_S

    def of(self, name: str) -> SharedData:
        """Who feeds and takes the data of this name. Raises UsageError for what is no name."""
        check_data_name(name)
        return self._data.setdefault(name, SharedData())

    def credentials(self, name: str) -> Credentials:
        """What those of one name show. It outlives the coordinator, and is written nowhere."""
        return Credentials(hmac.new(self._secret, f"data/{name}".encode(), hashlib.sha256).hexdigest(), secure=True)

    def name_of(self, authorization: str) -> str | None:
        """The name that a caller may feed or take; None for a stranger."""
        return next((name for name in self._data if self.credentials(name).accepts(authorization)), None)
