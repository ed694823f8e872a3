"""aiohttp's connections and their pool, taught to say what accounting asks and to trust no server.

Leans on parts of aiohttp that are not its public interface; a contract test names each.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, lru_cache, partial
from typing import Any

import aiohttp
from aiohttp import ClientRequest
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from yarl import URL

from hx_gateway.services.upstream.base import CallFacts

MAX_LINE_BYTES = 16 * 1024
MAX_FIELDS = 128
# aiohttp stops reading at twice this, so a call holds at most 128 KiB and one read of the loop's (256 KiB).
READ_BUFFER_BYTES = 64 * 1024
# How much of an answer that is cut off is looked at for what it cost.
LAST_READ_BYTES, MAX_LAST_READS = 256 * 1024, 4
_LINGER_NOT = struct.pack("ii", 1, 0)


class HttpConnection(ResponseHandler):
    """A connection that counts for the call it serves, and serves nobody once a server speaks out of turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._facts: CallFacts | None = None
        self._served = False

    def begin(self, facts: CallFacts, *, method: str) -> None:
        """Serve a call: count for ``facts`` and read one answer to ``method``."""
        facts.connection_reused = self._served
        self._served = True
        self._facts = facts
        self.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_FIELDS,
        )

    def end(self) -> None:
        """Belong to no call: whatever comes from now on was not asked for."""
        self._facts = None

    def send(self, data: bytes | memoryview) -> None:
        """Write and count. Raises ``ConnectionResetError`` when the connection is gone."""
        transport, facts = self.transport, self._facts
        if transport is None or facts is None or transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        facts.bytes_written += len(data)
        transport.write(data)

    async def drained(self) -> None:
        """Wait until the socket takes more. Raises ``ConnectionError`` when the connection is gone."""
        await self._drain_helper()

    def take_arrived(self, payload: StreamReader) -> bytes:
        """Return what came of ``payload`` and was not read, what the loop has yet to fetch from the socket too."""
        peer = self.transport.get_extra_info("socket") if self.transport is not None else None
        if peer is not None and self.transport is not None and self.transport.get_extra_info("ssl_object") is None:
            with suppress(OSError):  # nothing there, or nothing any more
                for _ in range(MAX_LAST_READS):
                    if not (data := os.read(peer.fileno(), LAST_READ_BYTES)):
                        break
                    self.data_received(data)
        return payload._read_nowait(-1) if payload._buffer else b""  # noqa: SLF001

    def fail(self, error: Exception) -> None:
        """Close at once, in whatever state, and wake whoever waits for this connection."""
        payload, transport = self._payload, self.transport
        self.set_exception(error)
        if payload is not None and payload.exception() is None:
            payload.set_exception(error)
        if transport is not None:
            _reset_on_close(transport)
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count before anything is parsed."""
        facts = self._facts
        if facts is None:
            # Nobody asked: kept, it would be taken for the answer to the next request on this connection.
            if data and self.transport is not None:
                self.transport.abort()
            return
        facts.bytes_received += len(data)
        super().data_received(data)
        error, payload = self._exception, self._payload
        if error is not None and payload is not None and payload.exception() is None:
            # aiohttp tells only who waits for a head; a reader of the body would wait for its time-out.
            payload.set_exception(error)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell a reset from an end: a body without a length must not pass for whole because its server crashed."""
        payload = self._payload
        if exc is not None and payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(exc)
        super().connection_lost(exc)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing where nothing was paused: aiohttp resumes, and parses nothing anew, after each read."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Make a close a reset: an ordinary one waits behind what the server has not read, and may pass for half a close.

    A server that generates an answer nobody reads costs money until it notices.
    """
    peer = transport.get_extra_info("socket")
    if peer is not None:
        with suppress(OSError):  # already closed
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


class Origin(ClientRequest):
    """What the pool asks of a request, made once for all requests to one server."""

    def __init__(self, url: URL, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__("GET", url, loop=loop, ssl=True)

    @cached_property
    def connection_key(self) -> ConnectionKey:
        """Which connections serve this server."""
        return super().connection_key


class Connector(aiohttp.TCPConnector):
    """A pool of :class:`HttpConnection`. With ``keepalive_seconds`` None every connection serves one call."""

    def __init__(self, *, limit: int, keepalive_seconds: float | None, ssl_context: ssl.SSLContext | None) -> None:
        keeping: dict[str, Any] = (
            {"force_close": True} if keepalive_seconds is None else {"keepalive_timeout": keepalive_seconds}
        )
        super().__init__(limit=limit, ssl=ssl_context if ssl_context is not None else True, **keeping)
        self._factory: Callable[[], HttpConnection] = partial(HttpConnection, self._loop)  # type: ignore[assignment]
        self._origin = lru_cache(maxsize=1024)(partial(Origin, loop=self._loop))

    async def acquire(self, origin: URL, seconds: float) -> Connection:
        """Return a kept connection or a new one within ``seconds``.

        Raises ``TimeoutError``, an ``OSError`` or ``aiohttp.ClientError``.
        """
        try:
            return await self.connect(self._origin(origin), [], _limit(seconds))
        except BaseException:
            # One that gives up when its turn had just come would keep the turn from the next in line.
            self._release_waiter()
            raise


@lru_cache(maxsize=256)
def _limit(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds)
