"""Listens on a channel of a server for as long as the process lives, and says when it could not."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import asyncpg
from redis.exceptions import RedisError

from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.services.base import FailureKind
from hx_gateway.services.failures import classify

CONNECT_SECONDS = 3.0
# How often a silent connection is asked for a sign of life, and how long that may take.
BEAT_SECONDS = 2.0
BEAT_TIMEOUT_SECONDS = 1.5
_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    RedisError,
    OSError,
    EOFError,
    TimeoutError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom to tell what comes. The callbacks must not raise.

    ``heard`` gets each message. ``healed`` is called each time the subscription stands, ``lost`` each time it ends or
    its first attempt fails: between the two, messages may be missed, and nobody repeats them. A connection that hangs
    counts as lost after ``beat`` and ``beat_timeout`` seconds.
    """

    heard: Callable[[str], None]
    lost: Callable[[FailureKind], None]
    healed: Callable[[], None]
    beat: float = BEAT_SECONDS
    beat_timeout: float = BEAT_TIMEOUT_SECONDS


class Listener(ABC):
    """One subscription on a connection of its own, opened again whenever it ends."""

    def __init__(self, channel: str, ears: Ears) -> None:
        self._channel = channel
        self._ears = ears
        self._backoff = Backoff(first=0.2, most=2.0)
        self._tried = asyncio.Event()
        self._stands = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; return once the first attempt has succeeded or failed."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await self._tried.wait()

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks([task])

    async def _run(self) -> None:
        while True:
            kind = FailureKind.LOST
            try:
                await self._listen()
            except _ERRORS as error:
                kind = classify(error).kind
            if self._stands or not self._tried.is_set():
                self._ears.lost(kind)
            self._stands = False
            self._tried.set()
            await asyncio.sleep(self._backoff.next())

    def _stand(self) -> None:
        """Say that the subscription stands."""
        self._stands = True
        self._backoff.reset()
        self._ears.healed()
        self._tried.set()

    @abstractmethod
    async def _listen(self) -> None:
        """Connect, subscribe, call :meth:`_stand`, and return or raise when the connection is over."""
