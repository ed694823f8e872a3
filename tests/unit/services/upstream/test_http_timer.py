from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, cast

import pytest

from hx_gateway.services.upstream.http_timer import CallTimer


class FakeLoop:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.rung = 0
        self._due: list[tuple[float, int, asyncio.TimerHandle]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, cast(asyncio.AbstractEventLoop, self))
        heapq.heappush(self._due, (when, len(self._due), handle))
        return handle

    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, handle = heapq.heappop(self._due)
            if not handle.cancelled():
                self.rung += 1
                handle._run()
        self.now = end


class Watched:
    """A timer and how often it expired."""

    def __init__(self, total: float = 100.0) -> None:
        self.loop = FakeLoop()
        self.expired = 0
        self.timer = CallTimer(cast(asyncio.AbstractEventLoop, self.loop), total, self._expire)

    def _expire(self) -> None:
        self.expired += 1


@pytest.fixture
def watched() -> Watched:
    made = Watched()
    made.timer.start(5.0)
    return made


def test_it_expires_once_when_the_server_says_nothing(watched: Watched) -> None:
    watched.loop.advance(4.9)
    assert watched.expired == 0
    watched.loop.advance(0.2)
    assert watched.expired == 1
    watched.loop.advance(200)
    assert watched.expired == 1


def test_every_wait_has_the_whole_limit(watched: Watched) -> None:
    for _ in range(10):
        watched.loop.advance(4.0)
        watched.timer.wait()
    assert watched.expired == 0
    watched.loop.advance(5.1)
    assert watched.expired == 1


def test_a_pause_is_not_counted(watched: Watched) -> None:
    watched.timer.pause()
    watched.loop.advance(50)
    watched.timer.wait()
    watched.loop.advance(4.9)
    assert watched.expired == 0
    watched.loop.advance(0.2)
    assert watched.expired == 1


def test_the_whole_time_counts_pauses() -> None:
    watched = Watched(total=20)
    watched.timer.start(5.0)
    watched.timer.pause()
    watched.loop.advance(19.9)
    assert watched.expired == 0
    watched.loop.advance(0.2)
    assert watched.expired == 1


def test_the_whole_time_counts_from_before_the_start() -> None:
    watched = Watched(total=20)
    watched.loop.advance(18)
    watched.timer.start(5.0)
    watched.loop.advance(2.1)
    assert watched.expired == 1


def test_a_start_with_a_shorter_limit_expires_in_time(watched: Watched) -> None:
    watched.timer.start(1.0)
    watched.loop.advance(1.1)
    assert watched.expired == 1


def test_nothing_expires_after_the_stop(watched: Watched) -> None:
    watched.timer.stop()
    watched.timer.stop()
    watched.loop.advance(200)
    assert watched.expired == 0


def test_many_waits_ring_seldom(watched: Watched) -> None:
    for _ in range(5000):
        watched.timer.wait()
        watched.loop.advance(0.01)
    assert watched.loop.rung <= 20
