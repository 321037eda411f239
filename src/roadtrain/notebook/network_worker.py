"""`rt.NetworkWorker`: `roadtrain join` from Python."""

from __future__ import annotations

from pathlib import Path

from roadtrain.errors import RunFailed
from roadtrain.orchestrate.agent import Lent, lend
from roadtrain.orchestrate.lending import in_folder, own_name
from roadtrain.orchestrate.ticket import Ticket


class NetworkWorker:
    """This machine, for the coordinator of `ticket`.

    `allow_code`: code that a driver sends may run here, which is what an `rt.Orchestrator` does. `name`, `host`: what others
    call this machine, and reach it by (found out where they are not given). `devices`: how many are lent, 0 for all.
    `listens`: others may dial this machine. `folder`: for what is written here; a temporary one where it is not given.
    """

    def __init__(
        self,
        ticket: str,
        *,
        allow_code: bool = True,
        name: str = "",
        host: str = "",
        devices: int = 0,
        listens: bool = True,
        folder: str | Path | None = None,
    ) -> None:
        """Raises UsageError for a ticket that is none."""
        self._ticket = Ticket.read(ticket)
        self._folder = None if folder is None else Path(folder)
        self._lent = Lent(
            name=name or own_name(),
            host=host,
            devices=devices,
            takes_code=allow_code,
            listens=listens,
            folder=Path(),
        )

    def connect_and_train(self) -> None:
        """Join, and compute what the coordinator's runs need, until this machine is asked to leave: by Ctrl-C, SIGTERM or
        `roadtrain leave`. A coordinator that is away is waited for. Blocks.

        Raises UsageError for what is refused, and RunFailed when at first nobody answers.
        """
        with in_folder(self._lent, self._folder) as lent:
            if lend(self._ticket, lent, _announce):
                raise RunFailed("the coordinator has let this machine go", "what it says is above")


def _announce(machine: str) -> None:
    print(f"this machine is {machine}; Ctrl-C has it leave", flush=True)
