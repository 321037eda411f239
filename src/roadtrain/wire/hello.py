"""The first message of either side of a stream: who speaks, and in which version of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from google.protobuf.message import DecodeError

from roadtrain.errors import PacketError, PeerError
from roadtrain.view import PeerId
from roadtrain.wire import roadtrain_pb2 as pb

PROTOCOL = 4
"""Raised by every change to `roadtrain.proto` that another version would not understand."""
NAME_BYTES = 256
"""Of a peer's id, or a release's name, at most."""


class OtherVersion(PeerError):
    """A peer whose roadtrain speaks another version of the protocol."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A process that takes part. `incarnation` grows with every start of the process behind the name."""

    peer: PeerId
    incarnation: int

    def encode(self) -> bytes:
        """For the other end of a stream."""
        made = pb.Hello(protocol=PROTOCOL, release=version("roadtrain"), peer=self.peer, incarnation=self.incarnation)
        return made.SerializeToString()

    @classmethod
    def decode(cls, raw: bytes) -> Hello:
        """Raises PacketError for what is none, and OtherVersion."""
        try:
            said = pb.Hello.FromString(raw)
        except DecodeError as error:
            raise PacketError("a stream that does not begin with a hello") from error
        if not said.peer or max(len(said.peer), len(said.release)) > NAME_BYTES:
            raise PacketError("a stream that does not begin with a hello")
        if said.protocol != PROTOCOL:
            raise OtherVersion(
                f"{said.peer} has roadtrain {said.release}, which speaks version {said.protocol} of the protocol between "
                f"workers; this is roadtrain {version('roadtrain')}, with version {PROTOCOL}",
                "install the same roadtrain everywhere",
            )
        return cls(said.peer, said.incarnation)
