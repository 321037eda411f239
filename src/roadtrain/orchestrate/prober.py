"""A machine's part in what the fleet's machines measure of each other: one measurement at a time, and lets itself be measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from roadtrain.errors import UsageError
from roadtrain.orchestrate.identity import Identity
from roadtrain.orchestrate.machine import Door, Orders, Probed, ProbeOrder
from roadtrain.orchestrate.probe import ProbeServer, measure


class Prober:
    """`folder`: where its key is; `changed` is called when there is something to report. Lives on one asyncio loop."""

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self._folder, self._changed = folder, changed
        self._server: ProbeServer | None = None
        self._order: ProbeOrder | None = None
        self._measuring: asyncio.Task[None] | None = None
        self.probed: Probed | None = None

    async def open(self, host: str, say: Callable[[str], None]) -> None:
        """Let others measure this machine. Where no port can be had, it measures others alone."""
        server = ProbeServer(Identity.of(self._folder))
        try:
            await server.open(host)
        except UsageError as error:
            say(f"others cannot measure how they reach this machine: {error.message}")
            return
        self._server = server

    def door(self, host: str) -> Door | None:
        """Where others find it."""
        return None if self._server is None else self._server.door(host)

    def take(self, orders: Orders) -> None:
        """Whom to measure, and who may measure this machine, as its coordinator says now."""
        if self._server is not None:
            self._server.expect(orders.admits)
        order = orders.probe
        if order is None or order == self._order:
            return
        if self._measuring is not None:
            self._measuring.cancel()
        self._order = order
        self._measuring = asyncio.create_task(self._measure(order))

    async def _measure(self, order: ProbeOrder) -> None:
        self.probed = await measure(order)
        self._changed()

    async def close(self) -> None:
        """Measure nobody, and be measured by nobody."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)
        if self._server is not None:
            await self._server.close()
