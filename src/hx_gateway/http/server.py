"""uvicorn's server with our way to stop: refuse new work at once, let running work finish, then go."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from hx_gateway.http.drain import Drain


class GatewayServer(uvicorn.Server):
    """Stops in order: ``/readyz`` turns 503, running requests finish within ``drain_seconds``, the listener closes.

    The listener stays open while draining, so that whoever asks ``/readyz`` is told and whoever calls a model gets
    a 503 to retry elsewhere. A second signal stops at once. Signals are not raised again at the end: what the caller
    of :meth:`run` has to stop, it can.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain: Drain,
        drain_seconds: float,
        pre_stop_seconds: float,
        on_second: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._on_second = on_second
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._pre_stop_seconds = pre_stop_seconds
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Start as uvicorn does, remembering the loop for the signal handler."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # type: ignore[arg-type]

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second, and our own work once."""
        if self._on_second is not None and counter % 10 == 0:
            self._on_second()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; stop at once on the second signal."""
        if self._drain.draining or self._loop is None or not self.started:
            self.should_exit = self.force_exit = True
            return
        self._drain.draining = True
        pre_stop = 0.0 if sig == signal.SIGINT else self._pre_stop_seconds
        self._loop.call_soon_threadsafe(self._begin, pre_stop)

    def _begin(self, pre_stop: float) -> None:
        self._draining = asyncio.create_task(self._stop_in_order(pre_stop))

    async def _stop_in_order(self, pre_stop: float) -> None:
        began = time.monotonic()
        await self._drain.wait(self._drain_seconds)
        await asyncio.sleep(max(0.0, pre_stop - (time.monotonic() - began)))
        self.should_exit = True
