"""Qdrant over HTTP: its health, and calls of its REST API."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

import aiohttp
import msgspec

from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.failures import classify, dependency_error
from hx_gateway.services.health import HEARTBEAT_SECONDS, HEARTBEAT_TIMEOUT_SECONDS
from hx_gateway.services.watched import WatchedService

CALL_SECONDS = 5.0
MAX_CONNECTIONS = 16
# Qdrant closes connections that are idle for 5 s: ours are closed before it could happen while a call is on its way.
KEPT_SECONDS = 3.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
# These say that the server itself is gone, not that it is slow or minds what it was asked.
_TELLING = frozenset({FailureKind.LOST, FailureKind.REFUSED})


class QdrantRefused(Exception):
    """The server answered, and will not do it; ``status`` is the HTTP status: 404 no such collection, 409 there is."""

    def __init__(self, status: int) -> None:
        super().__init__(f"Qdrant answered {status}")
        self.status = status


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
        self._root = url.rstrip("/")
        self._headers = {"api-key": api_key} if api_key is not None else {}
        self._link = _QdrantLink(f"{self._root}/collections", self._headers)
        self._session: aiohttp.ClientSession | None = None
        super().__init__(
            self._link,
            connect_timeout=timeout,
            health_timeout=timeout,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float = CALL_SECONDS,
    ) -> Any:
        """Call the REST API (https://api.qdrant.tech) and return the ``result`` of its answer.

        ``body`` is sent as JSON. Raises ``DependencyError``, at once while the server is known to be away, and
        ``QdrantRefused`` for an answer of 4xx.
        """
        return (await self._answer(method, path, body, query=query, timeout=timeout)).result

    async def version(self) -> str | None:
        """Return the version that the server tells; raises as :meth:`ask` does."""
        return (await self._answer("GET", "/", timeout=CALL_SECONDS)).version

    async def _answer(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        timeout: float,
    ) -> _Answer:
        if not self.sample.healthy:
            raise DependencyError(self.display_name, self.sample.failure or FailureKind.REFUSED)
        if self._session is None:
            self._session = _session(limit=MAX_CONNECTIONS)
        headers = {**self._headers, "content-type": "application/json"}
        data = msgspec.json.encode(body) if body is not None else None
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(
                    method, self._root + path, data=data, headers=headers, params=query, allow_redirects=False
                ) as response,
            ):
                return await _read(response)
        except (aiohttp.ClientError, OSError) as error:
            kind = classify(error).kind
            if kind in _TELLING:
                self.report_failure(kind)
            raise dependency_error(self.display_name, error) from error

    async def _close_pool(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self._link.close()

    def _terminate_pool(self) -> None:
        """The session was closed by then, or its connections end with the loop."""


class _Answer(msgspec.Struct):
    """``version`` is what ``GET /`` has beside no ``result``."""

    result: Any = None
    version: str | None = None


async def _read(response: aiohttp.ClientResponse) -> _Answer:
    """Return what an answer holds, or raise for what it is."""
    if response.status in (401, 403):
        raise DependencyError("Qdrant", FailureKind.AUTH, retryable=False)
    if 400 <= response.status < 500:
        raise QdrantRefused(response.status)
    if response.status != 200:
        raise DependencyError("Qdrant", FailureKind.PROTOCOL)
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise DependencyError("Qdrant", FailureKind.PROTOCOL)
    try:
        return msgspec.json.decode(data, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DependencyError("Qdrant", FailureKind.PROTOCOL) from error


def _session(*, limit: int) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=limit, keepalive_timeout=KEPT_SECONDS)
    return aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


class _QdrantLink:
    """A session with one connection kept open between heartbeats."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.lost = asyncio.Event()
        self._url = url
        self._headers = headers
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
            self._session = _session(limit=1)
        async with self._session.get(self._url, headers=self._headers, allow_redirects=False) as response:
            await response.read()
            if response.status in (401, 403):
                raise DependencyError("Qdrant", FailureKind.AUTH, retryable=False)
            if response.status != 200:
                raise DependencyError("Qdrant", FailureKind.PROTOCOL)
