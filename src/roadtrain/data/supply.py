"""The batches of one worker, each in its turn: of feeders where there are any, else made here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from roadtrain.data.feed_client import FeedClient
from roadtrain.data.line import FeedLine
from roadtrain.data.source import Source, make
from roadtrain.errors import DataFailed
from roadtrain.feed.work import Made, Work
from roadtrain.membership.feeding import consumer_of
from roadtrain.session.control import Control
from roadtrain.session.joining import Address
from roadtrain.view import PeerId, Place


class Supply:
    """Of the worker of `control`, which has joined. `address`: where it listens for feeders, once there is one. `skips`: samples
    that cannot be made are left out, and said; else they end the run. `by`: samples by the feeder that made them."""

    def __init__(self, control: Control, address: Address, *, skips: bool) -> None:
        self.by: Counter[PeerId] = Counter()
        self._control, self._address, self._skips = control, address, skips
        self._client: FeedClient | None = None
        self._lock = threading.Lock()
        self._places: Mapping[PeerId, Place] = {}
        self._bad: set[int] = set()
        control.on_feeders(self._told)

    def take(self, name: str, source: Source, upcoming: Callable[[int], Sequence[Work]]) -> Made:
        """The batch of the first of `upcoming(n)`: the next n works of `source`, which feeders know as `name`, or as many as
        there are. Raises DataFailed for samples that cannot be made, and whatever the source raises where each by itself can."""

        def own(work: Work) -> Made:
            return make(source, work)

        client = self._reached()
        made = own(upcoming(1)[0]) if client is None else client.take(name, upcoming, own)
        if made.by:
            self.by[made.by] += made.samples
        if made.bad:
            self._judge(made)
        return made

    def _judge(self, made: Made) -> None:
        first = made.bad[0]
        if not self._skips:
            raise DataFailed(
                f"sample {first.index} cannot be made: {first.why}", "leave it out with --bad-samples skip"
            )
        if made.batch is None:
            raise DataFailed(f"none of a batch's {len(made.bad)} samples can be made; {first.index}: {first.why}")
        for each in made.bad:
            if each.index not in self._bad:
                self._bad.add(each.index)
                self._control.bad_sample(each.index, each.why)

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
            client = FeedClient(line)
            client.start(consumer_of(self._control.me), self._control.incarnation)
            with self._lock:
                self._client = client
                client.see(self._places)
            self._control.feeds(line.address)
        return self._client

    def _open(self) -> FeedLine:
        at = self._address
        return FeedLine.open(at.credentials, at.host if at.listens else None, relay=at.relay)

    def close(self) -> None:
        """Take no more."""
        self._control.on_feeders(lambda places: None)
        if self._client is not None:
            self._client.close()
