"""Tensors to packets and back.

Purpose: make what travels between replicas small, and let nothing from the network reach memory unchecked.

Public names: `parse` reads a spec into a `Codec`; `chain` composes two; `CODECS` lists the names; `codecs_of` gives a
plan's two. `Codec.encode` makes a `Packet` of a vector, `check` accepts or refuses a packet from a peer, `Codec.decode`
gives the vector back. `Feedback` adds error feedback, and has the `Memory` of one sender. `DTYPES` names the dtypes that
a fragment may have. `add_scaled` adds as `Codec.add` does.

Invariant: a NaN or an infinity in a vector survives every codec, so the receiver can see it and refuse the
contribution.
"""

from roadtrain.codec.arithmetic import add_scaled
from roadtrain.codec.codec import CODECS, Codec, chain, check, parse
from roadtrain.codec.directions import codecs_of, pair
from roadtrain.codec.feedback import Feedback
from roadtrain.codec.packet import DTYPES, Memory, Packet, raw_bytes

__all__ = [
    "CODECS",
    "DTYPES",
    "Codec",
    "Feedback",
    "Memory",
    "Packet",
    "add_scaled",
    "chain",
    "check",
    "codecs_of",
    "pair",
    "parse",
    "raw_bytes",
]
