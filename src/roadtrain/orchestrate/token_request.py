"""What `roadtrain token create` asks."""

from __future__ import annotations

from typing import Literal

import msgspec


class TokenRequest(msgspec.Struct, frozen=True):
    """`expires_s`: how long it lets in; None: as long as it is not revoked. `uses`: how often; None: any number."""

    role: Literal["worker", "feeder", "viewer", "driver"]
    expires_s: float | None = None
    uses: int | None = None
