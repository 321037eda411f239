"""A process that makes batches of data that are known by a name."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing.connection import Connection

import msgspec

from roadtrain.data.feed_server import FeedServer
from roadtrain.data.offered import Offered
from roadtrain.data.remote_data import SOURCE
from roadtrain.membership.sharing import INCARNATION
from roadtrain.orchestrate.data_meeting import DataMeeting, Way
from roadtrain.session.cpu_threads import use_threads

LOOK_S = 0.5
"""How often it looks whether whoever has started it lives."""


class Refused(msgspec.Struct, frozen=True):
    """Why it has ended, and another one would too."""

    message: str
    hint: str


def be_data_feeder(way: Way, what: Offered, parent: Connection) -> None:
    """Feed until SIGTERM, or the end of the process that has started this one. `parent` is told why, where it is refused."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    use_threads(1)
    meeting = DataMeeting(way, what.offer)
    server = FeedServer(meeting.line, {SOURCE: what.source}.get)
    signal.signal(signal.SIGTERM, lambda number, frame: server.end())
    server.start(meeting.name, INCARNATION)
    meeting.start(lambda others, offer: server.see(others))
    threading.Thread(target=_watch, args=(meeting, server, os.getppid()), name="end", daemon=True).start()
    try:
        server.serve()
    finally:
        meeting.close()
        meeting.line.close()
    error = meeting.error()
    if error is not None:
        parent.send_bytes(msgspec.json.encode(Refused(error.message, error.hint)))


def _watch(meeting: DataMeeting, server: FeedServer, parent: int) -> None:
    while not meeting.wait(LOOK_S) and os.getppid() == parent:
        pass
    server.end()
