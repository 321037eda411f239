"""The real carrier: protocol messages between processes and hosts, over gRPC.

Public: `GrpcCarrier`, `Credentials`, `Shaper`, `Meter`.

Invariant: knows messages, not strategies; and never builds an object out of received bytes but those of `message`, whose
sizes were checked first.
"""

import os

# A person's DataLoader forks the worker: gRPC's handlers of forks crash the child, and without them it works. And of a
# connection that ends in peace nothing need be said.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from roadtrain.wire.carrier import GrpcCarrier
from roadtrain.wire.credentials import Credentials, is_loopback
from roadtrain.wire.meter import Meter
from roadtrain.wire.shaper import Shaper

__all__ = ["Credentials", "GrpcCarrier", "Meter", "Shaper", "is_loopback"]
