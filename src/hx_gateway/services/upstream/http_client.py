"""Calls model servers over HTTP/1.1 on aiohttp's connections, keeping the facts that accounting needs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from functools import lru_cache

from aiohttp import ClientError
from aiohttp.connector import Connection
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import EofStream, StreamReader

from hx_gateway.services.upstream.base import (
    CallFacts,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamHead,
    UpstreamPhase,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
)
from hx_gateway.services.upstream.http_connection import Connector, HttpConnection
from hx_gateway.services.upstream.http_failures import translate
from hx_gateway.services.upstream.http_timer import CallTimer
from hx_gateway.services.upstream.http_wire import Target, request_head, target_of

# Servers close idle connections after 5 s (uvicorn) or more: below that a kept connection is rarely a closed one.
KEEPALIVE_SECONDS = 4.0
MAX_HEAD_BYTES = 64 * 1024
MAX_INTERIM_HEADS = 16
# Up to here head and body are one write, and a task to send them is not worth its time.
WHOLE_WRITE_BYTES = 64 * 1024
PIECE_BYTES = 256 * 1024
# RuntimeError and EofStream: what a reader of aiohttp's gets when the connection went between two reads.
_FAILURES = (OSError, ClientError, HttpProcessingError, EofStream, RuntimeError)


class HttpUpstream:
    """An :class:`~hx_gateway.services.upstream.base.Upstream` for http and https, on one event loop.

    It follows no redirect, decodes no content, reads no proxy, cookie or credential from the environment, adds no
    field but ``Host`` and the body's framing, and never sends a request twice. ``max_connections`` are to all
    servers together; more calls wait for their turn within their time to connect.
    """

    def __init__(
        self,
        *,
        max_connections: int = 1000,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._max_connections = max_connections
        self._keepalive_seconds = keepalive_seconds
        self._ssl_context = ssl_context
        self._kept: Connector | None = None
        self._fresh: Connector | None = None
        self._calls: set[HttpCall] = set()
        self._closed = False

    def call(self, request: UpstreamRequest, *, fresh: bool = False) -> HttpCall:
        """Prepare a call; ``fresh`` gives it a connection of its own."""
        return HttpCall(self, request, fresh=fresh)

    async def close(self) -> None:
        """Abort the calls in flight and close every connection; calls made later are refused."""
        self._closed = True
        for call in tuple(self._calls):
            call.abort()
        for connector in (self._kept, self._fresh):
            if connector is not None:
                await connector.close()
        self._kept = self._fresh = None

    def enter(self, call: HttpCall, *, fresh: bool) -> Connector:
        """Note a call in flight; return where it gets its connection. Raises ``ConnectionRefusedError``."""
        if self._closed:
            raise ConnectionRefusedError("this client is closed")
        connector = self._fresh if fresh else self._kept
        if connector is None:
            connector = Connector(
                limit=self._max_connections,
                keepalive_seconds=None if fresh else self._keepalive_seconds,
                ssl_context=self._ssl_context,
            )
            if fresh:
                self._fresh = connector
            else:
                self._kept = connector
        self._calls.add(call)
        return connector

    def leave(self, call: HttpCall) -> None:
        """Forget a call that is over."""
        self._calls.discard(call)


class HttpCall:
    """One call. Its connection is its own until the body was read to its end, so that ``abort`` hits no other call."""

    def __init__(self, upstream: HttpUpstream, request: UpstreamRequest, *, fresh: bool) -> None:
        self.facts = CallFacts()
        self._upstream = upstream
        self._request = request
        self._fresh = fresh
        self._phase = UpstreamPhase.CONNECT
        self._connection: Connection | None = None
        self._protocol: HttpConnection | None = None
        self._payload: StreamReader | None = None
        self._timer: CallTimer | None = None
        self._connecting: asyncio.Task[object] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._body_error: Exception | None = None
        self._timed_out: UpstreamPhase | None = None
        self._aborted = False
        self._over = False

    async def head(self) -> UpstreamHead:
        """Send the request and return the answer's head.

        Raises ``UpstreamError``; what the request's own body iterator raises comes as it is.
        """
        try:
            target, head = self._request_head()
            self._protocol = await self._connect(target)
            self._send(self._protocol, head)
            message, payload = await self._read_head(self._protocol)
        except _FAILURES as error:
            self._drop()
            raise self._body_error or self._failure(error) from error
        except BaseException:
            self._drop()
            raise
        return self._begin_body(message, payload)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises ``UpstreamError`` for one that does not end as it should."""
        payload, timer = self._payload, self._timer
        if payload is None or timer is None or self._cut_off:
            raise self._failure(None)
        try:
            while not payload.at_eof():
                timer.wait()
                data = await payload.readany()
                timer.pause()
                if data:
                    yield data
        except _FAILURES as error:
            # What came before the connection broke is part of the answer.
            if not self._cut_off and payload._buffer:  # noqa: SLF001
                yield payload._read_nowait(-1)  # noqa: SLF001
            raise self._failure(error) from error
        finally:
            if payload.at_eof() and payload.exception() is None:
                self._finish()
            else:
                self._drop()
        if self._cut_off:
            raise self._failure(None)

    def abort(self) -> None:
        """Close the connection now; nothing to do once the answer is complete."""
        if self._over or self._aborted:
            return
        self._aborted = True
        if self._connecting is not None:
            self._connecting.cancel()
        self._drop()

    @property
    def _cut_off(self) -> bool:
        return self._aborted or self._timed_out is not None

    def _request_head(self) -> tuple[Target, bytes]:
        request = self._request
        if self._aborted:
            raise self._failure(None)
        try:
            target = target_of(request.url)
        except ValueError as error:
            raise UpstreamRefused(str(error), phase=self._phase, facts=self.facts) from None
        length = len(request.body) if isinstance(request.body, bytes) else None
        try:
            return target, request_head(request.method, target, request.headers, length)
        except ValueError as error:
            raise UpstreamProtocolError(str(error), phase=self._phase, facts=self.facts) from None

    async def _connect(self, target: Target) -> HttpConnection:
        timeouts = self._request.timeouts
        connector = self._upstream.enter(self, fresh=self._fresh)
        timer = CallTimer(asyncio.get_running_loop(), timeouts.total, self._expire)
        task = asyncio.current_task()
        cancels = 0 if task is None else task.cancelling()
        self._connecting = task
        try:
            connection = await connector.acquire(target.origin, min(timeouts.connect, timeouts.total))
        except asyncio.CancelledError:
            if self._aborted and task is not None and task.uncancel() <= cancels:
                # Cancelled by abort(), and by nobody else.
                raise self._failure(None) from None
            raise
        finally:
            self._connecting = None
        protocol = connection.protocol
        assert isinstance(protocol, HttpConnection)
        self._connection = connection
        self._phase = UpstreamPhase.SEND
        protocol.begin(self.facts, method=self._request.method)
        timer.start(timeouts.head)
        self._timer = timer
        return protocol

    def _send(self, protocol: HttpConnection, head: bytes) -> None:
        body = self._request.body
        if isinstance(body, bytes) and len(body) <= WHOLE_WRITE_BYTES:
            protocol.send(head + body)
            self._phase = UpstreamPhase.HEAD
            return
        protocol.send(head)
        sending = self._send_whole(protocol, body) if isinstance(body, bytes) else self._send_pieces(protocol, body)
        self._writer = asyncio.create_task(sending)

    async def _send_whole(self, protocol: HttpConnection, body: bytes) -> None:
        view = memoryview(body)
        with suppress(ConnectionError):  # whoever waits for the answer is told
            for start in range(0, len(body), PIECE_BYTES):
                protocol.send(view[start : start + PIECE_BYTES])
                await self._drained(protocol)
            self._sent()

    async def _send_pieces(self, protocol: HttpConnection, body: AsyncIterator[bytes]) -> None:
        try:
            while (piece := await self._next_piece(body)) is not None:
                if piece:
                    protocol.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await self._drained(protocol)
            if self._body_error is None:
                protocol.send(b"0\r\n\r\n")
                self._sent()
        except ConnectionError:
            return  # whoever waits for the answer is told
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    async def _next_piece(self, body: AsyncIterator[bytes]) -> bytes | None:
        """Return what the body's owner gives next, None at its end or failure, of which the server is not told."""
        if self._timer is not None and not self.facts.head_seen:
            self._timer.pause()
        try:
            return await anext(body)
        except StopAsyncIteration:
            return None
        except Exception as error:  # noqa: BLE001 - it is the owner's own, and raised to it from head()
            self._body_error = error
            self._writer = None
            self._drop()
            return None

    async def _drained(self, protocol: HttpConnection) -> None:
        if self._timer is not None and not self.facts.head_seen:
            self._timer.wait()
        await protocol.drained()

    def _sent(self) -> None:
        self._writer = None
        if self._phase is UpstreamPhase.SEND:
            self._phase = UpstreamPhase.HEAD
            if self._timer is not None:
                self._timer.wait()

    async def _read_head(self, protocol: HttpConnection) -> tuple[RawResponseMessage, StreamReader]:
        for _ in range(1 + MAX_INTERIM_HEADS):
            message, payload = await protocol.read()
            # A head and what came with it; only one that is over the limit together is worth counting.
            if self.facts.bytes_received > MAX_HEAD_BYTES and _size(message) > MAX_HEAD_BYTES:
                raise BadHttpMessage("the head is too large")
            if message.code == 101:
                raise BadHttpMessage("the server changed to a protocol that nobody asked for")
            if message.code >= 200:
                return message, payload
        raise BadHttpMessage("the server announces an answer again and again")

    def _begin_body(self, message: RawResponseMessage, payload: StreamReader) -> UpstreamHead:
        self.facts.head_seen = True
        self._phase = UpstreamPhase.BODY
        self._payload = payload
        if payload.at_eof():
            self._finish()
        elif self._timer is not None:
            if not payload.is_eof():
                self._timer.start(self._request.timeouts.idle)
            self._timer.pause()
        return UpstreamHead(
            message.code,
            tuple([(_name(name), value.decode("latin-1")) for name, value in message.raw_headers]),
        )

    def _expire(self) -> None:
        self._timed_out = self._phase
        self._drop()

    def _finish(self) -> None:
        """Give the connection back, unless the server answered before it had the whole request."""
        if self._writer is not None:
            self._drop()
        if self._over:
            return
        self._leave()
        if self._protocol is not None and self._connection is not None:
            self._protocol.end()
            self._connection.release()

    def _drop(self) -> None:
        """Close the connection without waiting for what was not written yet."""
        if self._over:
            return
        self._leave()
        if self._writer is not None:
            self._writer.cancel()
        if self._protocol is not None and self._connection is not None:
            if self._payload is not None:
                self.facts.unread = self._protocol.take_arrived(self._payload)
            self._protocol.fail(ConnectionAbortedError("the call is over"))
            self._connection.close()

    def _leave(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.stop()
        self._upstream.leave(self)

    def _failure(self, error: Exception | None) -> UpstreamError:
        if self._timed_out is not None:
            return UpstreamTimeout("no answer in time", phase=self._timed_out, facts=self.facts)
        if self._aborted:
            return UpstreamDisconnected("the call was aborted", phase=self._phase, facts=self.facts)
        if error is None:
            return UpstreamDisconnected("the call has no answer", phase=self._phase, facts=self.facts)
        return translate(error, phase=self._phase, facts=self.facts)


def _size(message: RawResponseMessage) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in message.raw_headers)


@lru_cache(maxsize=1024)
def _name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()
