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
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import torch
from safetensors.torch import load, save
from torch import Tensor

from roadtrain.errors import PacketError, RunFailed
from roadtrain.session.control import Control, Joined
from roadtrain.session.listener import Listener
from roadtrain.view import PeerId
from roadtrain.wire.state_transfer import Giver

ASK, IN = "enter ", "entered "
"""What the names begin with under which a newcomer asks for a state, and says that it is in."""
HOLD_S = 30.0
"""So long a newcomer that has asked is waited for while nothing is sent to it."""
ASK_POLL_S = 0.1
"""How often a newcomer looks whether its source lives."""
RELEASE_S = 5.0
"""Longest attempt to tell the source that its newcomer is in."""
POLL_S = 0.005
PLAIN, OPTIMIZER, REGISTERED = "plain", "optimizer ", "registered "
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

    def with_registered(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Given:
        """Tensors of what a loop has registered, by name and key, too."""
        return Given(self.plain, self.tensors | {REGISTERED + name: dict(state) for name, state in tensors.items()})

    def registered(self) -> dict[str, dict[str, Tensor]]:
        """What `with_registered` was given."""
        return {
            kind.removeprefix(REGISTERED): tensors
            for kind, tensors in self.tensors.items()
            if kind.startswith(REGISTERED)
        }


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
    """Where newcomers ask this worker. `members`: of the run, as far as this worker knows, with their incarnations; `over`:
    whether nothing can be agreed on any more."""

    def __init__(
        self, listener: Listener, members: Callable[[], Mapping[PeerId, int]], over: Callable[[], bool]
    ) -> None:
        self._listener, self._members, self._over = listener, members, over
        self._offered: dict[str, Asked] = {}

    @property
    def asked(self) -> bool:
        """Whether a newcomer waits for what this worker holds."""
        return bool(self._listener.carrier.offers.awaited) and bool(self._listener.awaited(ASK))

    def serve(self, state: Callable[[Asked], Given], *, hold: bool) -> None:
        """Between two steps: give those who ask `state`; where `hold`, return when all of them are in, or lost, or nothing has
        moved for a while."""
        self._withdraw()
        self._offer(state)
        seen = set[tuple[PeerId, int]]()
        moved_at, moved = time.monotonic(), 0
        while hold and not self._over() and time.monotonic() - moved_at < HOLD_S:
            members = self._members()
            seen.update(members.items())
            if all(self._is_done(asked, members, seen) for asked in self._offered.values()):
                break
            time.sleep(POLL_S)
            self._offer(state)
            if self._listener.carrier.meter.sent != moved:
                moved_at, moved = time.monotonic(), self._listener.carrier.meter.sent
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

    def _is_done(self, asked: Asked, members: Mapping[PeerId, int], seen: set[tuple[PeerId, int]]) -> bool:
        """Whether this worker need not wait for it: it is in, or was a member and is none any more."""
        now = members.get(asked.peer, 0)
        if now == asked.incarnation:
            return _in(asked.peer, asked.incarnation) in self._listener.awaited(IN)
        return now > asked.incarnation or (asked.peer, asked.incarnation) in seen

    def _withdraw(self) -> None:
        for name, asked in self._offered.items():
            self._listener.withdraw(name)
            self._listener.offer(_in(asked.peer, asked.incarnation), [])
        self._offered.clear()


class Arrival(NamedTuple):
    """A newcomer that has been given a state, and is not in yet. `source`: who gave it."""

    listener: Listener
    me: PeerId
    incarnation: int
    source: Giver
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


def ask(listener: Listener, joined: Joined, control: Control, most: int, *, frozen: bool) -> Arrival:
    """The state, of at most so many bytes, of whoever has been in the run for longest. Raises RunFailed when nobody gives it."""
    me, incarnations = control.me, joined.view.incarnations
    asked = Asked(me, incarnations[me], frozen)
    earlier = sorted((number, peer) for peer, number in incarnations.items() if number < asked.incarnation)
    why = "nobody has been here for longer"
    for number, source in earlier:
        giver = Giver(source, joined.addresses[source])
        coming = listener.fetching(giver, asked.name(), me, most)
        try:
            while not _ready(coming):
                view = control.newer_view(joined.view.number)
                if control.is_over:
                    raise RunFailed("the run ended before this worker was in it")
                if view is not None and view.incarnations.get(source) != number:
                    raise PacketError(f"{source} is lost")
            return Arrival(listener, me, asked.incarnation, giver, Given.unpacked(bytes(coming.result())))
        except PacketError as error:
            why = error.message
        finally:
            coming.cancel()
    raise RunFailed(f"no worker gave this one the state of the run: {why}")


def _ready(coming: Future[bytearray]) -> bool:
    """Whether there is a result, or an error, after a moment."""
    return coming in wait([coming], timeout=ASK_POLL_S).done


def _in(peer: PeerId, incarnation: int) -> str:
    return f"{IN}{peer} {incarnation}"


def load_tensors(into: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Write each that is given in place. Raises RunFailed where one is missing, or has another form."""
    with torch.no_grad():
        for name, tensor in into.items():
            if name not in given or given[name].shape != tensor.shape:
                raise RunFailed(f"the state of the run that came has no {name} of shape {list(tensor.shape)}")
            tensor.copy_(given[name])
