"""The limits on a call's time, kept by one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CallTimer:
    """Calls ``expire`` once when the server is waited for too long, or when the call's whole time is up.

    The timer is moved on when it rings, not made anew with every byte that arrives. While nobody waits for the
    server, because it is the reader or the sender of the request's body who is slow, only the whole time counts.
    """

    __slots__ = ("_expire", "_expires", "_handle", "_limit", "_loop", "_since")

    def __init__(self, loop: asyncio.AbstractEventLoop, total_seconds: float, expire: Callable[[], None]) -> None:
        self._loop = loop
        self._expires = loop.time() + total_seconds
        self._expire = expire
        self._since: float | None = None
        self._limit = total_seconds
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Begin to watch; no later wait has a limit under ``seconds`` without a new start."""
        if self._handle is not None:
            self._handle.cancel()
        self._limit = seconds
        self._since = now = self._loop.time()
        self._handle = self._loop.call_at(min(now + seconds, self._expires), self._ring)

    def wait(self) -> None:
        """Wait for the server from now on."""
        self._since = self._loop.time()

    def pause(self) -> None:
        """Wait for somebody else."""
        self._since = None

    def stop(self) -> None:
        """Watch no longer, and hold on to nobody: who ends and is still held is left to the garbage collector."""
        self._expire = _nothing
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        now = self._loop.time()
        since = now if self._since is None else self._since
        due = min(since + self._limit, self._expires)
        if now < due:
            self._handle = self._loop.call_at(due, self._ring)
            return
        self._handle = None
        self._expire()


def _nothing() -> None:
    return None
