"""Qdrant over HTTP: for now its health."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import aiohttp

from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.health import HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS
from hx_gateway.services.watched import WatchedService


class QdrantService(WatchedService):
    """One server. ``url`` with or without a trailing slash; healthy means that ``GET /collections`` answers 200."""

    key: ClassVar[str] = "qdrant"
    display_name: ClassVar[str] = "Qdrant"

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 3.0,
        heartbeat: float = HEARTBEAT_SECONDS,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT_SECONDS,
    ) -> None:
        self._link = _QdrantLink(f"{url.rstrip('/')}/collections", api_key)
        super().__init__(
            self._link,
            connect_timeout=timeout,
            health_timeout=timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )

    async def _close_pool(self) -> None:
        await self._link.close()

    def _terminate_pool(self) -> None:
        """The session was closed by then, or its connections end with the loop."""


class _QdrantLink:
    """A session with one connection kept open between heartbeats."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.lost = asyncio.Event()
        self._url = url
        self._headers = {"api-key": api_key} if api_key is not None else {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        await self.ask()

    async def beat(self) -> None:
        await self.ask()

    async def drop(self) -> None:
        await self.close()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def ask(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        async with self._session.get(self._url, headers=self._headers, allow_redirects=False) as response:
            await response.read()
            if response.status in (401, 403):
                raise DependencyError("Qdrant", FailureKind.AUTH, retryable=False)
            if response.status != 200:
                raise DependencyError("Qdrant", FailureKind.PROTOCOL)
