"""The real carrier: protocol messages between processes and hosts, over gRPC.

Public: `carrier.GrpcCarrier`, `limits.Limits`, `credentials.Credentials`, `shaper.Shaper`, `meter.Meter`. Who imports one of them
imports no other: credentials need no torch.

Invariant: knows messages, not strategies; and never builds an object out of received bytes but those of `message`, whose
sizes were checked first.
"""

import logging
import os

# Processes that load a script's data may be forked. They use no connections, and gRPC, which would tidy up those of their
# parent, ends some with a segmentation fault. It reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Of a connection that ends in peace nothing need be said; what is wrong in what serves a stream is told by `GrpcCarrier.failed`.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
