"""Sparse gradients with the momentum at the sender: `dgc:F` (Deep Gradient Compression, Lin et al. 2018, 1712.01887).

    velocity = 0.9 * velocity + gradient
    unsent   = unsent + velocity           the F * n largest of it are sent
    both are set to zero where something was sent (momentum factor masking)

So a value that waits gathers momentum as it would in the optimizer, and one that is sent late does not push in an old
direction. The receiver applies what comes as plain SGD; an optimizer with momentum would count it twice. While the
weights still change fast more is sent: the share begins at 25% and falls exponentially to F over the first 100 packets
of a sender. How many values a packet holds is therefore its own, between F * n and 25% of n, and is checked.

Without a memory (and for values that error feedback refuses) it is `topk:F`.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from roadtrain.codec.packet import Format, Memory, Parts, check_parts
from roadtrain.codec.topk import ESCAPE, gaps_of, indices_of, largest, share_of, topk, verify_gaps
from roadtrain.errors import PacketError

MOMENTUM = 0.9
FIRST_SHARE = 0.25
WARMUP = 100
"""Packets until the share is F. The paper's four epochs, on problems that have hundreds of steps in an epoch or less."""


def dgc(fraction: Fraction, values: Format) -> Format:
    """Keep the share `fraction`, in (0, 1], in the end, and write what is kept with the format `values`."""

    def least(numel: int) -> int:
        return share_of(fraction, numel)

    def most(numel: int) -> int:
        return max(least(numel), share_of(FIRST_SHARE, numel))

    def layout(numel: int, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
        low, high = least(numel), most(numel)
        kept = zip(values.layout(low, dtype), values.layout(high, dtype), strict=True)
        return ((low, high + (numel - high) // ESCAPE), *((few, many) for (few, _), (_, many) in kept))

    def decode(parts: Parts, numel: int, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        out = torch.zeros(numel, dtype=dtype) if out is None else out.zero_()
        indices = indices_of(parts[0])
        out[indices] = values.decode(parts[1:], indices.numel(), dtype, None)
        return out

    def verify(parts: Parts, numel: int, dtype: torch.dtype) -> None:
        count = verify_gaps(parts[0], numel)
        if not least(numel) <= count <= most(numel):
            raise PacketError(f"a packet of {count} indices, not {least(numel)} to {most(numel)}")
        check_parts(parts[1:], values, count, dtype)

    def memory(numel: int, dtype: torch.dtype) -> Memory:
        empty = torch.zeros(numel, dtype=dtype)
        return {"velocity": empty, "unsent": empty.clone(), "packets": torch.zeros(1, dtype=torch.int64)}

    def feedback(x: Tensor, memory: Memory) -> Parts:
        velocity = memory["velocity"].mul_(MOMENTUM).add_(x)
        unsent = memory["unsent"].add_(velocity)
        share = share_at(int(memory["packets"]), float(fraction))
        kept = min(most(x.numel()), max(least(x.numel()), share_of(share, x.numel())))
        indices = largest(unsent, kept)
        chosen = unsent[indices]
        parts = values.encode(chosen)
        unsent[indices] = chosen - values.decode(parts, kept, x.dtype, None)
        velocity[indices] = 0
        memory["packets"] += 1
        return (gaps_of(indices), *parts)

    plain = topk(fraction, values)
    return replace(plain, layout=layout, decode=decode, verify=verify, feedback=feedback, memory=memory)


def share_at(packet: int, last: float) -> float:
    """The share that a sender's packet number 0, 1, ... keeps."""
    if last >= FIRST_SHARE or packet >= WARMUP:
        return last
    return FIRST_SHARE * (last / FIRST_SHARE) ** (packet / WARMUP)
