"""Follows the changes of a registry over as many connections as it takes, and misses none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from hx_gateway.cli.client import Parameters, Refused
from hx_gateway.cli.registry.requests import PREFIX
from hx_gateway.cli.server_sent_events import EventReader, EventTooLarge, ServerEvent
from hx_gateway.kit.backoff import Backoff
from hx_gateway.services.upstream.base import UpstreamDisconnected, UpstreamError, UpstreamRefused, UpstreamTimeout

EVENTS = f"{PREFIX}/events"
FIRST_SECONDS = 0.25
MOST_SECONDS = 10.0
# After a stream that ended as streams do, where the server does not say.
RETRY_SECONDS = 1.0
TOO_MANY = 429


class Streams(Protocol):
    """What is asked for streams: a ``GatewayClient``."""

    def stream(
        self, path: str, parameters: Parameters | None = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """Yield an answer as it comes. Raises ``Refused`` and ``UpstreamError``."""
        ...


class ChangeFollower:
    """The changes that ``parameters`` pass, each once and in order, until its reader stops.

    ``on_away`` is told why once the gateway is gone, ``on_back`` once it is there again. What goes wrong before the
    first answer came, and a refusal that waiting does not change, is raised as it is.
    """

    def __init__(
        self,
        gateway: Streams,
        parameters: Parameters,
        *,
        on_away: Callable[[str], None],
        on_back: Callable[[], None],
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gateway = gateway
        self._parameters = parameters
        self._on_away = on_away
        self._on_back = on_back
        self._backoff = backoff or Backoff(first=FIRST_SECONDS, most=MOST_SECONDS)
        self._sleep = sleep
        self._last_id = ""
        self._began = False
        self._away = False

    async def events(self) -> AsyncIterator[ServerEvent]:
        """Yield changes as they are told. Raises ``Refused`` and ``UpstreamError``, as said above."""
        while True:
            reader = EventReader(self._last_id)
            try:
                async for chunk in self._gateway.stream(EVENTS, self._parameters, self._headers()):
                    self._there()
                    for event in reader.feed(chunk):
                        self._last_id = event.id
                        yield event
                    # Ids of blocks without data lead on over what is not wanted.
                    self._last_id = reader.last_id
            except (Refused, UpstreamError, EventTooLarge) as error:
                if not self._began or not _passes(error):
                    raise
                wait = self._gone(error)
            else:
                wait = RETRY_SECONDS if reader.retry_seconds is None else reader.retry_seconds
            await self._sleep(wait)

    def _headers(self) -> dict[str, str]:
        return {"accept": "text/event-stream", **({"last-event-id": self._last_id} if self._last_id else {})}

    def _there(self) -> None:
        self._began = True
        self._backoff.reset()
        if self._away:
            self._away = False
            self._on_back()

    def _gone(self, error: Exception) -> float:
        if not self._away:
            self._away = True
            self._on_away(_reason(error))
        return self._backoff.next()


def _reason(error: Exception) -> str:
    """Return why the gateway is away, in words for people."""
    match error:
        case UpstreamRefused():
            return "nothing listens there"
        case UpstreamDisconnected():
            return "the connection ended"
        case UpstreamTimeout():
            return "it does not answer"
        case _:
            return str(error)


def _passes(error: Exception) -> bool:
    """Return whether it may be otherwise if asked again."""
    return not isinstance(error, Refused) or error.status >= 500 or error.status == TOO_MANY
