"""The tensors behind a replica: what it holds of each fragment, and what compression has left unsent.

`held` is the published state as this worker last received it. It is the anchor that deltas are taken from and what a
compressed answer adds to; where answers carry the values themselves and gradients travel, nothing need be held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from roadtrain.codec import Codec, Feedback, Memory, Packet, check, parse
from roadtrain.errors import PacketError
from roadtrain.sync.fragment import Fragment, Piece
from roadtrain.sync.ledger import NONE, TensorLedger
from roadtrain.sync.onebit_adam import SIGNS, RepeatedLedger
from roadtrain.sync.strategy import Payload, Strategy

BUFFER_CODEC = parse("none")
"""Buffers are few and small: they travel uncompressed."""


def _places(fragment: Fragment) -> list[str]:
    return [f"{piece.name}@{piece.start}" for piece in fragment.pieces]


def _lengths(fragment: Fragment) -> list[int]:
    return [piece.stop - piece.start for piece in fragment.pieces]


def _extent(fragment: Fragment) -> str:
    """The name of a fragment that no other cut has, unless it has this very fragment."""
    first, last = fragment.pieces[0], fragment.pieces[-1]
    return f"{first.name}@{first.start}-{last.name}@{last.stop}"


class _Runs:
    """Saved values of parameters, in whatever pieces they were."""

    def __init__(self, saved: Mapping[str, Memory]) -> None:
        self._runs: dict[str, list[tuple[int, Memory]]] = {}
        for place, memory in saved.items():
            name, _, start = place.rpartition("@")
            if start.isdigit():
                self._runs.setdefault(name, []).append((int(start), memory))

    def values(self, fragment: Fragment, name: str) -> Tensor | None:
        """What is remembered as `name` of all values of a fragment; None where some of it is not there."""
        parts = [self._part(piece, name) for piece in fragment.pieces]
        whole = [part for part in parts if part is not None]
        return torch.cat(whole) if len(whole) == len(parts) else None

    def _part(self, piece: Piece, name: str) -> Tensor | None:
        at, found = piece.start, list[Tensor]()
        for start, memory in sorted(self._runs.get(piece.name, []), key=lambda run: run[0]):
            value = memory.get(name)
            if value is not None and start <= at < min(piece.stop, start + len(value)):
                found.append(value[at - start : piece.stop - start])
                at += len(found[-1])
        return torch.cat(found) if at == piece.stop and found else None


class ReplicaBuffers:
    """Encoders and held values of one worker, by fragment."""

    def __init__(self, fragments: Sequence[Fragment], up: Codec, down: Codec) -> None:
        ups = [BUFFER_CODEC if f.buffers else up for f in fragments]
        self._downs = [BUFFER_CODEC if f.buffers else down for f in fragments]
        self._feedback = [Feedback(c, f.numel, f.dtype) for c, f in zip(ups, fragments, strict=True)]
        self._fragments = fragments
        self._twins: dict[int, RepeatedLedger] = {}
        self.held: list[Tensor | None] = [None] * len(fragments)
        self._late = False

    def begin(
        self, strategy: Strategy, value_of: Callable[[int], Tensor], ledger_for: Callable[[int], TensorLedger]
    ) -> None:
        """Hold what the strategy and the codecs want held of the state that the run starts from: values, or ledgers."""
        self._late = strategy.backup > 0
        for number, (fragment, down) in enumerate(zip(self._fragments, self._downs, strict=True)):
            if fragment.buffers:
                continue
            ledger = ledger_for(number) if strategy.repeats else None
            if isinstance(ledger, RepeatedLedger):
                self.follow(number, ledger)
            elif strategy.payload is Payload.DELTA or down.spec != NONE.spec:
                self.hold(number, value_of(number))

    def encode(self, fragment: int, value: Tensor) -> Packet:
        """A packet of `value` plus what earlier packets left out.

        Where rounds close without the slowest, it has bytes of its own: the state may come, and `value` be used again, while the
        packet is still on its way.
        """
        if self._late:
            value = value.clone()
        twin = self._twins.get(fragment)
        if twin is None:
            return self._feedback[fragment].encode(value)
        made = twin.contribution(value)
        return self._feedback[fragment].encode(made) if twin.up.biased else twin.up.encode(made)

    def rehearse(self, fragment: int) -> Packet:
        """A packet of no values in particular, encoded and decoded once; nothing is remembered."""
        shape, twin = self._fragments[fragment], self._twins.get(fragment)
        codec = self._feedback[fragment].codec if twin is None else twin.up
        packet = codec.encode(torch.zeros(shape.numel, dtype=shape.dtype))
        codec.decode(packet)
        return packet

    def install(self, fragment: int, packet: Packet, full: bool, version: int) -> Tensor:
        """The new state of a fragment. Raises PacketError when the packet does not fit it."""
        twin = self._twins.get(fragment)
        if twin is not None:
            twin.take_over(packet, version) if full else twin.repeat(packet)
            return twin.theta
        shape = self._fragments[fragment]
        codec = NONE if full else self._downs[fragment]
        check(packet, codec, shape.numel, shape.dtype)
        held = self.held[fragment]
        if held is None or full:
            return codec.decode(packet, held)
        codec.add(packet, held)
        return held

    def accepts(self, fragment: int, packet: Packet, full: bool) -> None:
        """Raises PacketError when a peer's answer is no state of the fragment."""
        if not 0 <= fragment < len(self._fragments):
            raise PacketError(f"there is no fragment {fragment}")
        shape = self._fragments[fragment]
        if fragment not in self._twins:
            check(packet, NONE if full else self._downs[fragment], shape.numel, shape.dtype)

    def follow(self, fragment: int, twin: RepeatedLedger) -> None:
        """Repeat on `twin`, which is at the state that this worker holds, what the owner of a fragment commits."""
        self._twins[fragment] = twin
        self._feedback[fragment] = Feedback(SIGNS, twin.numel, twin.theta.dtype)

    def state_bytes(self) -> int:
        """Bytes of what is held to repeat commits."""
        return sum(twin.state_bytes() for twin in self._twins.values())

    def residuals(self) -> dict[str, Memory]:
        """What the encoders remember (above all what compression left unsent), for a checkpoint: values of parameters by where
        they are, so that fragments may be cut otherwise; what belongs to one fragment by which one it is."""
        kept: dict[str, Memory] = {}
        for fragment, feedback in zip(self._fragments, self._feedback, strict=True):
            for name, value in feedback.state().items():
                if value.shape == (fragment.numel,):
                    for place, part in zip(_places(fragment), torch.split(value, _lengths(fragment)), strict=True):
                        kept.setdefault(place, {})[name] = part
                else:
                    kept.setdefault(_extent(fragment), {})[name] = value
        return kept

    def load_residuals(self, residuals: Mapping[str, Memory]) -> None:
        """Take up what a checkpoint's encoders remembered; an encoder for which it does not say all begins anew."""
        runs = _Runs(residuals)
        for fragment, feedback in zip(self._fragments, self._feedback, strict=True):
            own = residuals.get(_extent(fragment), {})
            found: Memory = {}
            for name, value in feedback.state().items():
                saved = runs.values(fragment, name) if value.shape == (fragment.numel,) else own.get(name)
                if saved is not None and saved.shape == value.shape:
                    found[name] = saved.to(value.dtype)
            if found.keys() == feedback.state().keys():
                feedback.load(found)

    def hold(self, fragment: int, value: Tensor) -> None:
        """Remember `value` as the published state that this worker holds."""
        self.held[fragment] = value
