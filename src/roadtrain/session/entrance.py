"""How a worker comes to a run whose state is not all at the fragments' owners: another worker gives it the rest.

| | the newcomer | its source |
|---|---|---|
| 1 | joins, and asks whoever has been in the run for longest | trains |
| 2 | takes the state | between two steps: offers what it holds |
| 3 | asks the owners, who wait for it from the next round on | waits, where every worker steps by itself |
| 4 | says that it is in | trains |

Where every worker steps by itself (`MeanGradients`) a newcomer must miss no mean. So its source contributes nothing to the next
round until the newcomer takes part in it, and the others wait in that round meanwhile: as long as the state takes to travel.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from roadtrain.errors import PacketError, RunFailed
from roadtrain.session.control import Joined
from roadtrain.session.sync_thread import Listener
from roadtrain.view import PeerId

ASK, IN = "enter ", "entered "
"""What the names begin with under which a newcomer asks for a state, and says that it is in."""
HOLD_S = 120.0
"""Longest wait for a newcomer that has asked."""
RELEASE_S = 5.0
"""Longest attempt to tell the source that its newcomer is in."""
POLL_S = 0.005
PLAIN, OPTIMIZER = "plain", "optimizer "
MOST = 16
"""Times the model's bytes that a state may have."""


class Given(NamedTuple):
    """What one worker gives another: plain values, and tensors by kind and name."""

    plain: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]

    def packed(self) -> bytes:
        """As bytes, in the format of safetensors."""
        flat = {
            f"{kind}/{name}": tensor.detach().to("cpu", copy=True).contiguous()
            for kind, tensors in self.tensors.items()
            for name, tensor in tensors.items()
        }
        return save(flat, {PLAIN: json.dumps(self.plain)})

    @classmethod
    def unpacked(cls, body: bytes) -> Given:
        """What `packed` made. Raises PacketError for other bytes."""
        try:
            flat = load(body)
            header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
            plain = json.loads(header["__metadata__"][PLAIN])
        except Exception as error:  # whatever safetensors makes of it
            raise PacketError(f"the state of a run that came is none ({type(error).__name__})") from error
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, tensor in flat.items():
            kind, _, rest = name.partition("/")
            tensors.setdefault(kind, {})[rest] = tensor
        return cls(plain, tensors)

    def with_optimizer(self, state: Mapping[str, Mapping[str, Tensor]]) -> Given:
        """The state of an optimizer, by parameter and kind, too."""
        kinds: dict[str, dict[str, Tensor]] = {}
        for name, values in state.items():
            for key, value in values.items():
                kinds.setdefault(OPTIMIZER + key, {})[name] = value
        return Given(self.plain, self.tensors | kinds)

    def optimizer(self) -> dict[str, dict[str, Tensor]]:
        """What `with_optimizer` was given."""
        state: dict[str, dict[str, Tensor]] = {}
        for kind, values in self.tensors.items():
            if kind.startswith(OPTIMIZER):
                for name, value in values.items():
                    state.setdefault(name, {})[kind.removeprefix(OPTIMIZER)] = value
        return state


class Asked(NamedTuple):
    """A newcomer's question. `frozen`: its weights that are not trained are others than the run's."""

    peer: PeerId
    incarnation: int
    frozen: bool

    def name(self) -> str:
        """Under which it is asked."""
        return f"{ASK}{self.peer} {self.incarnation} {int(self.frozen)}"

    @classmethod
    def of(cls, name: str) -> Asked | None:
        """Whose question `name` is; None for what is none."""
        match name.removeprefix(ASK).split():
            case [peer, number, frozen] if number.isdecimal():
                return cls(peer, int(number), frozen == "1")
            case _:
                return None


class Entrance:
    """Where newcomers ask this worker. `members`: of the run, as far as this worker knows."""

    def __init__(self, listener: Listener, members: Callable[[], Collection[PeerId]]) -> None:
        self._listener, self._members = listener, members
        self._offered: dict[str, Asked] = {}

    @property
    def asked(self) -> bool:
        """Whether a newcomer waits for what this worker holds."""
        return bool(self._listener.carrier.offers.awaited) and bool(self._listener.awaited(ASK))

    def serve(self, state: Callable[[Asked], Given], *, hold: bool) -> None:
        """Between two steps: give those who ask `state`; where `hold`, return when all of them are in, or lost."""
        self._withdraw()
        self._offer(state)
        began, seen = time.monotonic(), set[PeerId]()
        while hold and time.monotonic() - began < HOLD_S:
            members = set(self._members())
            seen |= members
            if all(self._is_in(asked, members, seen) for asked in self._offered.values()):
                break
            time.sleep(POLL_S)
            self._offer(state)
        if hold:
            self._withdraw()

    def close(self) -> None:
        """This worker gives nothing any more: it trains no more."""
        self._withdraw()
        self._listener.refuse(ASK)

    def _offer(self, state: Callable[[Asked], Given]) -> None:
        for name in self._listener.awaited(ASK):
            asked = Asked.of(name)
            if asked is not None and name not in self._offered:
                self._offered[name] = asked
                self._listener.offer(name, [memoryview(state(asked).packed())])

    def _is_in(self, asked: Asked, members: set[PeerId], seen: set[PeerId]) -> bool:
        """Whether this worker need not wait for it: it is in, or was a member and is none any more."""
        came = _in(asked.peer, asked.incarnation) in self._listener.awaited(IN)
        return (came and asked.peer in members) or (asked.peer in seen and asked.peer not in members)

    def _withdraw(self) -> None:
        for name, asked in self._offered.items():
            self._listener.withdraw(name)
            self._listener.offer(_in(asked.peer, asked.incarnation), [])
        self._offered.clear()


class Arrival(NamedTuple):
    """A newcomer that has been given a state, and is not in yet. `source`: the address of whoever gave it."""

    listener: Listener
    me: PeerId
    incarnation: int
    source: str
    given: Given

    @property
    def step(self) -> int:
        """The step that the state stands for."""
        return int(self.given.plain["step"])

    @property
    def version(self) -> int:
        """Of the round that it stands for."""
        return int(self.given.plain["version"])

    def is_in(self) -> None:
        """Let the source go on. If it has died meanwhile, there is nobody to tell."""
        name = _in(self.me, self.incarnation)
        with contextlib.suppress(PacketError):
            self.listener.fetch(self.source, name, self.me, 0, within_s=RELEASE_S)


def ask(listener: Listener, joined: Joined, me: PeerId, most: int, *, frozen: bool) -> Arrival:
    """The state, of at most so many bytes, of whoever has been in the run for longest. Raises RunFailed when nobody gives it."""
    incarnations, addresses = joined.view.incarnations, joined.addresses
    asked = Asked(me, incarnations[me], frozen)
    why = "there is no other worker"
    for source in sorted(set(incarnations) - {me}, key=lambda peer: incarnations[peer]):
        try:
            body = listener.fetch(addresses[source], asked.name(), me, most, exact=False)
            return Arrival(listener, me, asked.incarnation, addresses[source], Given.unpacked(bytes(body)))
        except PacketError as error:
            why = error.message
    raise RunFailed(f"no worker gave this one the state of the run: {why}")


def _in(peer: PeerId, incarnation: int) -> str:
    return f"{IN}{peer} {incarnation}"


def load_tensors(into: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Write each that is given in place. Raises RunFailed where one is missing, or has another form."""
    with torch.no_grad():
        for name, tensor in into.items():
            if name not in given or given[name].shape != tensor.shape:
                raise RunFailed(f"the state of the run that came has no {name} of shape {list(tensor.shape)}")
            tensor.copy_(given[name])
