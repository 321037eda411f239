"""Tensors to packets and back.

Purpose: make what travels between replicas small, and let nothing from the network reach memory unchecked.

Public names: `parse` reads a spec into a `Codec`; `chain` composes two; `CODECS` lists the names. `Codec.encode`
makes a `Packet` of a vector, `check` accepts or refuses a packet from a peer, `Codec.decode` gives the vector back.
`Feedback` adds error feedback. `DTYPES` names the dtypes that a fragment may have.

Invariant: a NaN or an infinity in a vector survives every codec, so the receiver can see it and refuse the
contribution.
"""

from roadtrain.codec.codec import CODECS, Codec, chain, parse
from roadtrain.codec.feedback import Feedback
from roadtrain.codec.packet import DTYPES, Packet, check, raw_bytes

__all__ = ["CODECS", "DTYPES", "Codec", "Feedback", "Packet", "chain", "check", "parse", "raw_bytes"]
