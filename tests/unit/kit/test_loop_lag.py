"""How late the event loop comes back."""

from __future__ import annotations

import pytest

from hx_gateway.kit.loop_lag import INTERVAL_SECONDS, watch_loop_lag


class LateClock:
    """A clock whose sleeps take longer than asked, by so much each, and raise when there is no more."""

    def __init__(self, *late: float) -> None:
        self.late = list(late)
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds + self.late.pop(0)


async def test_what_a_sleep_took_too_long_is_the_lag() -> None:
    seen: list[float] = []
    with pytest.raises(IndexError):
        await watch_loop_lag(seen.append, clock=LateClock(0.0, 0.25, -INTERVAL_SECONDS))  # type: ignore[arg-type]
    assert seen == [0.0, 0.25, 0.0]
