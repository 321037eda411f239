"""A codec of the person's own: a class named FILE.py:CLASS that has

    encode(self, x: Tensor) -> tuple[Tensor, ...]                 sections of x, float32 [n]: tensors of any dtype
    decode(self, sections: tuple[Tensor, ...], numel: int)        the values, float32 [numel]; sections are bytes (uint8)
    nbytes_max(self, numel: int) -> int                           optional: most bytes of all sections (8 n + 1024)
    feedback = True                                               optional: whether to send later what decode lost

One object of it serves all fragments and threads, so it keeps nothing between calls. `load` tries it out; afterwards it
is a `Format` like any other, and what the class need not think of is done here: it never sees a value that is not finite
(the first section, one byte, says that there was one), may change what it is given, and whatever it raises while
decoding, or gives back, becomes a PacketError.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from roadtrain.codec.packet import Format, Memory, Parts, as_bytes
from roadtrain.errors import PacketError, UsageError
from roadtrain.plan.plugin import Plugin, told

METHODS = {"encode": "encode(x)", "decode": "decode(sections, numel)"}
TRIED = (1, 3, 64, 1001)
"""Lengths of the vectors that a codec is tried with."""
FINITE, NOT_FINITE = (torch.tensor([flag], dtype=torch.uint8) for flag in (1, 0))


def load(own: Plugin) -> tuple[str, Format]:
    """The name that packets carry, which is the class's and its file's content's, and the format.

    Runs the file. Raises UsageError where there is no such class, it lacks a method, or does not bring a vector back.
    """
    cls, digest = own.load()
    missing = [call for name, call in METHODS.items() if not callable(getattr(cls, name, None))]
    if missing:
        raise UsageError(f"{own} is no codec: it has no {' and no '.join(missing)}", "see docs/own_codec.md")
    try:
        codec = cls()
    except Exception as error:
        raise UsageError(f"{own} cannot be made: {told(error)}", "it is made without arguments") from error
    adapter = Adapter(codec, str(own))
    adapter.try_out()
    feedback = adapter.feedback if getattr(codec, "feedback", True) else None
    format = Format(
        layout=adapter.layout, encode=adapter.encode, decode=adapter.decode, verify=adapter.verify, feedback=feedback
    )
    return f"{own.name}@{digest}", format


class Adapter:
    """The functions of a `Format` around the person's object. `sections`: how many it writes, the same for all vectors."""

    def __init__(self, codec: Any, name: str) -> None:
        self._codec, self._name = codec, name
        self._sections = len(self._written(torch.zeros(1)))

    def layout(self, numel: int, dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
        return ((1, 1), *((0, self._nbytes_max(numel)),) * self._sections)

    def encode(self, x: Tensor) -> Parts:
        values = x.to(torch.float32, copy=True)
        if not values.numel() or not bool(values.isfinite().all()):
            flag = NOT_FINITE if values.numel() else FINITE
            return (flag.clone(), *(torch.empty(0, dtype=torch.uint8) for _ in range(self._sections)))
        sections = self._written(values)
        size, most = sum(section.numel() for section in sections), self._nbytes_max(x.numel())
        if len(sections) != self._sections:
            raise UsageError(f"{self._name} wrote {len(sections)} sections, and {self._sections} of another vector")
        if size > most:
            raise UsageError(f"{self._name} wrote {size} bytes of {x.numel()} values; its nbytes_max is {most}")
        return (FINITE.clone(), *sections)

    def decode(self, parts: Parts, numel: int, dtype: torch.dtype, out: Tensor | None) -> Tensor:
        out = torch.empty(numel, dtype=dtype) if out is None else out
        if not parts[0].item():
            return out.fill_(math.nan)
        return out.copy_(self._read(parts[1:], numel)) if numel else out

    def verify(self, parts: Parts, numel: int, dtype: torch.dtype) -> None:
        size, most = sum(part.numel() for part in parts[1:]), self._nbytes_max(numel)
        if parts[0].item() > 1 or size > most:
            raise PacketError(f"a packet of {size} bytes by {self._name}, which are {most} at most, or with a bad flag")

    def feedback(self, x: Tensor, memory: Memory) -> Parts:
        residual = memory["residual"].add_(x)
        parts = self.encode(residual)
        residual.sub_(self.decode(parts, x.numel(), x.dtype, None))
        return parts

    def try_out(self) -> None:
        """There and back with a few vectors. Raises UsageError where that fails."""
        generator = torch.Generator().manual_seed(0)
        for numel in TRIED:
            for x in (torch.zeros(numel), torch.randn(numel, generator=generator)):
                try:
                    y = self._read(self.encode(x)[1:], numel)
                except PacketError as error:
                    raise UsageError(error.message, "see docs/own_codec.md") from error
                if not bool(y.isfinite().all()):
                    raise UsageError(f"{self._name} made values that are not finite of {numel} finite ones")

    def _written(self, x: Tensor) -> Parts:
        try:
            sections: object = self._codec.encode(x)
        except Exception as error:
            raise UsageError(f"{self._name} cannot encode {x.numel()} values: {told(error)}") from error
        given = cast(tuple[object, ...], sections) if isinstance(sections, tuple) else ()
        tensors = [section for section in given if isinstance(section, Tensor)]
        if not tensors or len(tensors) < len(given):
            raise UsageError(f"{self._name}: encode gave something else than a tuple of tensors")
        return tuple(as_bytes(section.detach().cpu().reshape(-1)) for section in tensors)

    def _read(self, parts: Parts, numel: int) -> Tensor:
        """The values float32 [numel]. The sections are copies: aligned for any dtype, and not the packet's own."""
        try:
            values: object = self._codec.decode(tuple(part.clone() for part in parts), numel)
        except Exception as error:
            raise PacketError(f"{self._name} cannot decode {numel} values: {told(error)}") from error
        if not isinstance(values, Tensor):
            raise PacketError(f"{self._name}: decode gave a {type(values).__name__}; wanted a float32 tensor [numel]")
        if values.shape != (numel,) or values.dtype is not torch.float32:
            given = f"{values.dtype} {list(values.shape)}".removeprefix("torch.")
            raise PacketError(f"{self._name}: decode gave {given} of {numel} values; wanted float32 [{numel}]")
        return values.detach()

    def _nbytes_max(self, numel: int) -> int:
        if not hasattr(self._codec, "nbytes_max"):
            return 8 * numel + 1024
        try:
            most: object = self._codec.nbytes_max(numel)
        except Exception as error:
            raise UsageError(f"{self._name}: nbytes_max({numel}) failed: {told(error)}") from error
        if not isinstance(most, int):
            raise UsageError(f"{self._name}: nbytes_max({numel}) gave {most!r}; wanted a whole number of bytes")
        return most
