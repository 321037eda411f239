"""The batches of one worker, each in its turn: of feeders where there are any, else made here."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from roadtrain.batches.work import Made, Work
from roadtrain.data.feed_client import LOOK_S, FeedClient
from roadtrain.data.line import FeedLine
from roadtrain.data.remote_data import SOURCE, RemoteData
from roadtrain.data.samples import Samples
from roadtrain.data.source import Source, make
from roadtrain.data.waiting import ALONE_S, NOBODY
from roadtrain.errors import DataFailed, RunFailed
from roadtrain.membership.feeding import consumer_of
from roadtrain.session.control import Control
from roadtrain.session.joining import Address
from roadtrain.view import PeerId, Place


class Supply(Protocol):
    """Whoever has batches."""

    @property
    def fed(self) -> bool:
        """Whether there are feeders."""
        ...

    def know(self, name: str, source: Source) -> None:
        """Batches of `source` will be taken as `name`: feeders are to have it too."""
        ...

    def take(self, name: str, source: Source, upcoming: Callable[[int], Sequence[Work]]) -> Made:
        """The batch of the first of `upcoming(n)`: the next n works of `source`, which feeders know as `name`, or as many as
        there are. Raises DataFailed for samples that cannot be made, and whatever the source raises where each by itself can."""
        ...

    def receive(self, name: str, upcoming: Callable[[int], Sequence[Work]]) -> Made:
        """The same of a source that feeders alone have: it is waited for. Raises RunFailed where none comes."""
        ...

    def remote(self, data: RemoteData) -> Samples:
        """Those of data that feeders of no run have, which are waited for. Raises as `RemoteData.offer`."""
        ...


class OwnSupply:
    """Made here alone. `skips`: samples that cannot be made are left out, and told to `bad`; else they end the run."""

    fed = False

    def __init__(self, *, skips: bool, bad: Callable[[int, str], None]) -> None:
        self._skips, self._tell = skips, bad
        self._bad: set[int] = set()

    @classmethod
    def strict(cls) -> OwnSupply:
        """One for which samples that cannot be made end it."""
        return cls(skips=False, bad=lambda index, why: None)

    def know(self, name: str, source: Source) -> None:
        """See `Supply`: there are none."""

    def take(self, name: str, source: Source, upcoming: Callable[[int], Sequence[Work]]) -> Made:
        """See `Supply`."""
        return self.judged(make(source, upcoming(1)[0]))

    def receive(self, name: str, upcoming: Callable[[int], Sequence[Work]]) -> Made:
        """See `Supply`."""
        raise RunFailed(NOBODY)

    def remote(self, data: RemoteData) -> Samples:
        """See `Supply`."""
        offer = data.offer()
        return Samples(SOURCE, offer.size, lambda upcoming: self.judged(data.take(upcoming)), offer.batch)

    def judged(self, made: Made) -> Made:
        """`made`, where it can be used. Raises DataFailed."""
        if made.bad and not self._skips:
            first = made.bad[0]
            hint = "leave it out with --bad-samples skip"
            raise DataFailed(f"sample {first.index} cannot be made: {first.why}", hint)
        if made.batch is None and made.bad:
            raise DataFailed(f"no sample of a batch can be made; {made.bad[0].index}: {made.bad[0].why}")
        for each in made.bad:
            if each.index not in self._bad:
                self._bad.add(each.index)
                self._tell(each.index, each.why)
        return made


class WorkerSupply:
    """Of the worker of `control`, which has joined. `address`: where it listens for feeders, once there is one. `skips`: as in
    `OwnSupply`. `by`: samples by the feeder that made them."""

    def __init__(self, control: Control, address: Address, *, skips: bool) -> None:
        self.by: Counter[PeerId] = Counter()
        self._own = OwnSupply(skips=skips, bad=control.bad_sample)
        self._control, self._address = control, address
        self._client: FeedClient | None = None
        self._over = ""
        self._remote: list[RemoteData] = []
        self._lock = threading.Lock()
        self._places: Mapping[PeerId, Place] = {}
        control.on_feeders(self._told)

    @property
    def fed(self) -> bool:
        """See `Supply`."""
        return bool(self._places)

    def know(self, name: str, source: Source) -> None:
        """See `Supply`: they run the same script, and so know it by themselves."""

    def take(self, name: str, source: Source, upcoming: Callable[[int], Sequence[Work]]) -> Made:
        """See `Supply`."""
        return self.take_any(name, source, upcoming, 0)[1]

    def take_any(
        self, name: str, source: Source, upcoming: Callable[[int], Sequence[Work]], window: int
    ) -> tuple[Work, Made]:
        """The same of whichever of them is there first, and which that is: none is overtaken by more than `window`."""
        client = self._reached()
        if client is None:
            return upcoming(1)[0], self._own.take(name, source, upcoming)
        work, made = client.take_any(name, upcoming, lambda work: make(source, work), window)
        if made.by:
            self.by[made.by] += made.samples
        return work, self._own.judged(made)

    def receive(self, name: str, upcoming: Callable[[int], Sequence[Work]]) -> Made:
        """See `Supply`."""
        return self.receive_any(name, upcoming, 0)[1]

    def receive_any(self, name: str, upcoming: Callable[[int], Sequence[Work]], window: int) -> tuple[Work, Made]:
        """As `take_any`, of a source that feeders alone have."""
        until = time.monotonic() + ALONE_S
        while (client := self._reached()) is None:
            if self._over:
                raise RunFailed(self._over)
            if time.monotonic() > until:
                raise RunFailed(NOBODY)
            time.sleep(LOOK_S)
        work, made = client.take_any(name, upcoming, None, window)
        self.by[made.by] += made.samples
        return work, made

    def remote(self, data: RemoteData) -> Samples:
        """See `Supply`."""
        self._remote.append(data)
        return self._own.remote(data)

    # ------------------------------------------------------------------------------------------------------ feeders

    def _told(self, places: Mapping[PeerId, Place]) -> None:
        """These feeders are there now. Called on the control's thread."""
        with self._lock:
            self._places = places
            client = self._client
        if client is not None:
            client.see(places)

    def _reached(self) -> FeedClient | None:
        """The line to the feeders; it is opened, on the training thread, when there is one first."""
        if self._client is None and self._places:
            line = self._open()
            client = FeedClient(line, self._control.feeder_differs)
            client.start(consumer_of(self._control.me), self._control.incarnation)
            with self._lock:
                self._client = client
                client.see(self._places)
            self._control.feeds(line.address)
        return self._client

    def _open(self) -> FeedLine:
        at = self._address
        return FeedLine.open(at.credentials, at.host if at.listens else None, relay=at.relay)

    def fail(self, why: str) -> None:
        """The run is over: whoever waits for a batch waits no longer. Any thread may call."""
        self._over = why
        if self._client is not None:
            self._client.fail(why)
        for data in self._remote:
            data.fail(why)

    def close(self) -> None:
        """Take no more."""
        self._control.on_feeders(lambda places: None)
        if self._client is not None:
            self._client.close()
