"""`rt.remote_data`: data that other machines feed, for a loop or a trainer on this one."""

from __future__ import annotations

from roadtrain.data.remote_data import RemoteData
from roadtrain.membership.sharing import check_data_name
from roadtrain.orchestrate.data_feeds import DATA
from roadtrain.orchestrate.data_meeting import DataMeeting, ask_way
from roadtrain.orchestrate.ticket import Ticket

WAIT_S = 600.0
"""How long whoever takes data waits while nobody feeds them."""


def remote_data(
    ticket: str | None = None,
    name: str = DATA,
    *,
    wait_s: float = WAIT_S,
    host: str = "",
    listens: bool = True,
) -> RemoteData:
    """The data `name` that other machines feed with `rt.feed`, for `fit`, `validate` and `predict` of an `rt.Trainer`, or for
    `sync.loader`: in a plain script as in every worker of `roadtrain run`. Nothing of them need be here.

    `ticket`: as for `rt.feed`. Nothing is opened before they are used. Where no batch comes that is needed, it is said for whom
    is waited and for how long; after `wait_s` seconds without any feeder that ends in RunFailed. `host`, `listens`: as for
    `rt.feed`. Raises UsageError for a ticket or a name that is none.
    """
    found = Ticket.given(ticket)
    check_data_name(name)
    return RemoteData(
        name, lambda: DataMeeting(ask_way(found, name, feeds=False, host=host, listens=listens), None), wait_s
    )
