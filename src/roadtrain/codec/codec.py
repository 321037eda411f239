"""Codecs by name: `parse` reads a spec such as "int8" or "topk:0.01+onebit", `chain` composes two codecs.

A codec is a value: its spec says all about it, it holds no state (what a sender remembers is in `Feedback`), and
threads may share it. To add one, write its `Format` and give it a line in `CODECS`; a person's own is in a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial, reduce

import torch
from torch import Tensor

from roadtrain.codec import custom, dgc, half, onebit, powersgd, quantize, topk
from roadtrain.codec.arithmetic import add_scaled
from roadtrain.codec.blockwise import blocks
from roadtrain.codec.packet import DTYPE_NAMES, DTYPES, Format, Packet, check_parts
from roadtrain.errors import PacketError, UsageError, nearest
from roadtrain.plan.plugin import Plugin, split


@dataclass(frozen=True, slots=True)
class Codec:
    """How a vector becomes a packet and back. Equal specs are equal codecs.

    `ahead` writes what this codec keeps of a vector with the format of the next codec; those that keep only a part have
    it. `answering` is there where this codec is for gradients alone: the one to use for answers.
    """

    spec: str
    format: Format = field(compare=False, repr=False)
    ahead: Callable[[Format], Format] | None = field(default=None, compare=False, repr=False)
    answering: Codec | None = field(default=None, compare=False, repr=False)

    @property
    def biased(self) -> bool:
        """Whether what the packet leaves out must be kept and sent later (see `Feedback`)."""
        return self.format.feedback is not None

    @property
    def rounding(self) -> bool:
        """Whether no value changes by more than a rounding."""
        return self.format.rounding

    def encode(self, x: Tensor) -> Packet:
        """The packet of x [n], float32 or float64, contiguous, on the CPU. x is not modified; "none" aliases it.

        If x holds a NaN or an infinity, so does what the packet decodes to. Raises ValueError for any other tensor.
        """
        return Packet(self.spec, _dtype_name(x), x.numel(), self.format.encode(x.detach()))

    def decode(self, packet: Packet, out: Tensor | None = None) -> Tensor:
        """The values [numel] of the packet, of its dtype: in `out` where given, else new ("none" aliases the packet).

        Raises PacketError if the sections do not fit the packet's own numel. Whether that numel is the right one is for
        `check` to say, which every packet of a peer must pass first. Raises ValueError if `out` does not fit.
        """
        dtype = self._accept(packet, out)
        return self.format.decode(packet.parts, packet.numel, dtype, out)

    def add(self, packet: Packet, out: Tensor, share: float = 1.0) -> None:
        """Add `share` times the packet's values to `out` [numel], of its dtype. Raises as `decode` does."""
        self._accept(packet, out)
        if self.format.add is not None:
            self.format.add(packet.parts, out, share)
        else:
            add_scaled(out, self.format.decode(packet.parts, packet.numel, out.dtype, None), share)

    def approach(self, held: Tensor, target: Tensor) -> Packet:
        """The packet of target - held; it is added to `held`, as it will be by who held the same.

        Both are [n], float32 or float64, contiguous, on the CPU; target is not modified. Raises ValueError for any others.
        """
        name = _dtype_name(held)
        if _dtype_name(target) != name or target.shape != held.shape:
            raise ValueError(f"{held.dtype} {list(held.shape)} cannot approach {target.dtype} {list(target.shape)}")
        if self.format.approach is not None:
            return Packet(self.spec, name, held.numel(), self.format.approach(held, target))
        packet = self.encode(target - held)
        self.add(packet, held)
        return packet

    def _accept(self, packet: Packet, out: Tensor | None) -> torch.dtype:
        """The dtype of a packet whose values can be had. Raises as `decode` does."""
        dtype = DTYPES.get(packet.dtype)
        if packet.codec != self.spec or dtype is None or packet.numel < 0:
            raise PacketError(f"a packet of {packet.numel} values of {packet.dtype[:80]!r} by {packet.codec[:80]!r}")
        check_parts(packet.parts, self.format, packet.numel, dtype)
        if out is not None and (out.shape != (packet.numel,) or out.dtype is not dtype or not out.is_contiguous()):
            raise ValueError(f"{packet.numel} {dtype} values do not fit {out.dtype} {list(out.shape)}")
        return dtype

    def nbytes_max(self, numel: int, dtype: torch.dtype) -> int:
        """Upper bound of `Packet.nbytes` for a vector of `numel` values; exact where all packets are of one size."""
        return sum(greatest for _, greatest in self.format.layout(numel, dtype))


def _dtype_name(x: Tensor) -> str:
    """The name of the dtype of a vector that can be encoded. Raises ValueError for any other tensor."""
    name = DTYPE_NAMES.get(x.dtype)
    if name is None or x.dim() != 1 or not x.is_contiguous() or x.device.type != "cpu":
        raise ValueError(f"a codec wants a contiguous float vector on the CPU, not {x.dtype} {list(x.shape)}")
    return name


def check(packet: Packet, codec: Codec, numel: int, dtype: torch.dtype) -> None:
    """Accept `packet` as `codec`'s encoding of `numel` values of `dtype`, or raise PacketError. Copies nothing.

    A packet that passes can be decoded without reading beyond its sections or writing beyond `numel` values.
    """
    if packet.codec != codec.spec:
        raise PacketError(f"a packet of codec {packet.codec[:80]!r} where '{codec.spec}' was agreed")
    if packet.numel != numel or DTYPES.get(packet.dtype) is not dtype:
        wanted = DTYPE_NAMES.get(dtype, str(dtype))
        raise PacketError(f"a packet of {packet.numel} {packet.dtype[:80]!r} values instead of {numel} {wanted}")
    check_parts(packet.parts, codec.format, numel, dtype)


def chain(first: Codec, second: Codec) -> Codec:
    """`first` keeps part of a vector, `second` writes what is kept. Raises UsageError where they do not compose."""
    if first.ahead is None:
        raise UsageError(
            f"codec '{first.spec}' cannot stand before '{second.spec}'", "only topk, dgc and powersgd leave something"
        )
    if second.spec == "none":
        raise UsageError("codec 'none' cannot be in a chain", f"'{first.spec}' alone sends its values as they are")
    if second.answering is not None:
        raise UsageError(
            f"codec '{second.spec}' cannot stand behind '{first.spec}'", "it keeps a momentum of gradients"
        )
    if first.answering is None:
        return Codec(f"{first.spec}+{second.spec}", first.ahead(second.format))
    if second.ahead is not None:
        raise UsageError(f"'{first.spec}' wants all that it keeps written, not '{second.spec}'", "for example +int8")
    return Codec(f"{first.spec}+{second.spec}", first.ahead(second.format), answering=chain(first.answering, second))


def parse(spec: str) -> Codec:
    """The codec that `spec` names: one of `CODECS`, with its argument after ":", FILE.py:CLASS, or a chain with "+".

    Raises UsageError for an unknown name, a bad argument, codecs that do not compose, and a file or class that is no
    codec. Runs the file that is named, so `spec` is never a peer's.
    """
    codecs = [_parse_one(part) for part in split(spec)]
    return reduce(lambda rest, first: chain(first, rest), reversed(codecs))


def _parse_one(text: str) -> Codec:
    own = Plugin.parse(text)
    if own is not None:
        return Codec(*custom.load(own))
    name, _, argument = text.partition(":")
    if name not in CODECS:
        raise UsageError(f"unknown codec '{name}'", nearest(name, CODECS))
    return CODECS[name](argument)


def _plain(name: str, format: Format, argument: str) -> Codec:
    if argument:
        raise UsageError(f"codec '{name}' takes no argument, but got '{argument}'", f"write '{name}'")
    return Codec(name, format)


def _topk(argument: str) -> Codec:
    fraction = _share("topk", argument)
    ahead = partial(topk.topk, fraction)
    return Codec(f"topk:{float(fraction)}", ahead(half.NONE), ahead)


def _dgc(argument: str) -> Codec:
    fraction = _share("dgc", argument)
    ahead = partial(dgc.dgc, fraction)
    return Codec(f"dgc:{float(fraction)}", ahead(half.NONE), ahead, answering=_topk(argument))


def _share(name: str, argument: str) -> Fraction:
    try:
        fraction = float(argument)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise UsageError(f"{name} keeps a share of the values in (0, 1], not '{argument}'", f"for example {name}:0.01")
    return Fraction(str(fraction))


def _powersgd(argument: str) -> Codec:
    numbers = argument.split(":")
    if len(numbers) > 2 or not all(re.fullmatch("[1-9][0-9]{0,5}", number, re.ASCII) for number in numbers):
        raise UsageError(
            f"powersgd takes a rank, and perhaps a width, not '{argument}'", "for example powersgd:4 or powersgd:4:768"
        )
    ahead = partial(powersgd.powersgd, int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else None)
    return Codec(f"powersgd:{argument}", ahead(half.NONE), ahead)


CODECS: dict[str, Callable[[str], Codec]] = {
    "none": partial(_plain, "none", half.NONE),
    "fp16": partial(_plain, "fp16", half.half(torch.float16)),
    "bf16": partial(_plain, "bf16", half.half(torch.bfloat16)),
    "int8": partial(_plain, "int8", blocks(quantize.INT8, rounding=True)),
    "int4": partial(_plain, "int4", blocks(quantize.INT4, rounding=True)),
    "onebit": partial(_plain, "onebit", blocks(onebit.ONEBIT)),
    "topk": _topk,
    "dgc": _dgc,
    "powersgd": _powersgd,
}
"""Name of a codec to its constructor, which is given the text after ":" (empty where there is none)."""
