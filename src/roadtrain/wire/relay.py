"""Where workers meet that cannot dial each other, and what is said there: three WebSockets.

| path | opened by | carries |
|---|---|---|
| `/relay/wait?peer=ID&incarnation=N` | whoever can be called | from the relay: the number of each call, as text |
| `/relay/dial?peer=ID` | who calls | the bytes of one connection, both ways, as binary messages of any length |
| `/relay/accept?call=N` | who is called | the same bytes |

The relay pairs the last two and copies. What they carry is the TLS connection between the two workers; it has no key to that.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from roadtrain.wire.credentials import NAME, Credentials

WAIT, DIAL, ACCEPT = "/relay/wait", "/relay/dial", "/relay/accept"
UNAUTHORISED, SUPERSEDED, NOBODY, SILENT = 4401, 4409, 4410, 4408
"""Codes with which the relay closes: another token; a later process waits as that peer; nobody waits so, or calls so; nothing has
come for long."""
COPIED_BYTES = 128 << 10
"""What is copied at once, at most: so long whatever else a relay does must wait."""


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay as workers reach it. `url`: ws:// or wss://, without the paths above. `authorization`: what it is shown.

    `authority`: the certificate, PEM, that has signed the relay's, which then names no host; "": any that this machine trusts.
    """

    url: str
    authorization: str = field(repr=False)
    authority: str = ""

    @classmethod
    def with_token(cls, url: str, credentials: Credentials) -> Relay:
        """One that has the same token as `credentials`, and the certificates that follow from it."""
        authority = credentials.authority_pem.decode() if credentials.secure else ""
        return cls(url, credentials.metadata[0][1], authority)

    def tls(self) -> ssl.SSLContext | None:
        """With what to connect."""
        if not self.url.startswith("wss:"):
            return None
        return ssl.create_default_context(cadata=self.authority or None)

    @property
    def name(self) -> str | None:
        """What its certificate must name; None: the host of the url."""
        return NAME if self.authority else None
