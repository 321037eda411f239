"""The real carrier: protocol messages between processes and hosts, over gRPC.

Public: `GrpcCarrier`, `Credentials`, `Shaper`, `Meter`.

Invariant: knows messages, not strategies; and never builds an object out of received bytes but those of `message`, whose
sizes were checked first.
"""

from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials, is_loopback
from roadtrain.wire.meter import Meter
from roadtrain.wire.shaper import Shaper

__all__ = ["Credentials", "GrpcCarrier", "Meter", "Shaper", "is_loopback"]
