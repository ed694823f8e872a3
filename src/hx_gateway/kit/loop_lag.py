"""How late the event loop comes back to who waits: what blocks it makes every request late."""

from __future__ import annotations

from collections.abc import Callable

from hx_gateway.kit.clock import Clock, SystemClock

INTERVAL_SECONDS = 0.5


async def watch_loop_lag(observe: Callable[[float], None], *, clock: Clock | None = None) -> None:
    """Call ``observe`` with seconds of delay, every ``INTERVAL_SECONDS``, until cancelled."""
    clock = clock or SystemClock()
    while True:
        due = clock.monotonic() + INTERVAL_SECONDS
        await clock.sleep(INTERVAL_SECONDS)
        observe(max(0.0, clock.monotonic() - due))
