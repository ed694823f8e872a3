"""Time as an argument, so that whatever waits or expires can be tested without waiting."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, monotonic seconds, and sleep."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return aware UTC time."""
        return datetime.now(UTC)

    # Seconds that never step back.
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(seconds)


def system_us() -> int:
    """Return the machine's wall time, in microseconds since 1970."""
    return time.time_ns() // 1000
