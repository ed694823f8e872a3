"""Calls model servers over HTTP/1.1 with aiohttp, keeping the facts that accounting needs."""

from __future__ import annotations

import asyncio
import functools
import io
import ssl
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict

from hx_gateway.services.upstream.base import (
    CallFacts,
    Timeouts,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamHead,
    UpstreamPhase,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamRequest,
    UpstreamTimeout,
    UpstreamTlsError,
)

# Servers close idle connections after 5 s (uvicorn) or more: below that a kept connection is rarely a closed one.
KEEPALIVE_SECONDS = 4.0
MAX_LINE_BYTES = 16 * 1024
MAX_FIELDS = 128
READ_BUFFER_BYTES = 64 * 1024
# aiohttp writes larger bytes in one go; a file-like body is written in pieces, with back-pressure.
LARGE_BODY_BYTES = 1024 * 1024
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

_current: ContextVar[HttpCall] = ContextVar("hx_upstream_call")


class HttpUpstream:
    """An :class:`~hx_gateway.services.upstream.base.Upstream` over aiohttp.

    It follows no redirect, decodes no content, reads no proxy, cookie or credential from the environment, adds no
    header but ``Host`` and the body's framing, and never sends a request twice. Use it on one event loop.
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
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None

    def call(self, request: UpstreamRequest, *, fresh: bool = False) -> HttpCall:
        """Prepare a call; ``fresh`` gives it a connection of its own."""
        if self._session is None or self._fresh is None:
            self._session = self._open(keep=True)
            self._fresh = self._open(keep=False)
        return HttpCall(self._fresh if fresh else self._session, request)

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._session, self._fresh):
            if session is not None:
                await session.close()
        self._session = self._fresh = None

    def _open(self, *, keep: bool) -> aiohttp.ClientSession:
        connector = _Connector(
            limit=self._max_connections,
            ssl=self._ssl_context if self._ssl_context is not None else True,
            **({"keepalive_timeout": self._keepalive_seconds} if keep else {"force_close": True}),
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=_AUTOMATIC,
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_FIELDS,
        )
        # A request on a kept connection that had been closed: whether it may be sent again is ours to decide.
        session._retry_connection = False  # noqa: SLF001
        return session


class HttpCall:
    """One call. The limits on time are kept by a single timer that is moved on, not made anew, as bytes arrive."""

    def __init__(self, session: aiohttp.ClientSession, request: UpstreamRequest) -> None:
        self.facts = CallFacts()
        self._session = session
        self._request = request
        self._response: aiohttp.ClientResponse | None = None
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._phase = UpstreamPhase.CONNECT
        self._timed_out: UpstreamPhase | None = None
        self._aborted = False
        self._ended = False
        self._touched = 0.0
        self._expires = 0.0

    def attach(self, protocol: _Protocol) -> None:
        """Take over a connection: it is ours until the answer's last byte."""
        self.facts.connection_reused = protocol.served > 0
        protocol.served += 1
        protocol.facts = self.facts
        self._transport = protocol.raw_transport
        self._phase = UpstreamPhase.SEND
        loop = asyncio.get_running_loop()
        self._touched = loop.time()
        self._timer = loop.call_later(self._request.timeouts.head, self._tick, loop)

    async def head(self) -> UpstreamHead:
        """Send the request and return the answer's head. Raises ``UpstreamError``."""
        if self._aborted:
            raise self._disconnected("the call was aborted")
        loop = asyncio.get_running_loop()
        timeouts = self._request.timeouts
        self._expires = loop.time() + timeouts.total
        self._task = asyncio.current_task()
        token = _current.set(self)
        try:
            response = await self._send(timeouts)
        except asyncio.CancelledError:
            self._drop()
            if self._aborted and self._task is not None and self._task.cancelling():
                self._task.uncancel()
                raise self._disconnected("the call was aborted") from None
            raise
        except Exception as error:
            self._drop()
            raise self._translated(error) from error
        finally:
            self._task = None
            _current.reset(token)
        self._response = response
        self.facts.head_seen = True
        self._phase = UpstreamPhase.BODY
        self._touched = loop.time()
        return UpstreamHead(
            response.status,
            tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.raw_headers),
        )

    async def _send(self, timeouts: Timeouts) -> aiohttp.ClientResponse:
        request = self._request
        data: Any = request.body
        if isinstance(data, bytes):
            data = io.BytesIO(data) if len(data) > LARGE_BODY_BYTES else data or None
        return await self._session._request(  # noqa: SLF001 - without the context manager that request() builds
            request.method,
            request.url,
            data=data,
            headers=CIMultiDict(request.headers),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=timeouts.connect, sock_connect=timeouts.connect),
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises ``UpstreamError`` for one that does not end as it should."""
        response = self._response
        if response is None:
            raise self._disconnected("the call has no answer")
        loop = asyncio.get_running_loop()
        content = response.content
        try:
            while True:
                data = await content.readany()
                if not data:
                    break
                self._touched = loop.time()
                yield data
                self._touched = loop.time()
        except Exception as error:
            raise self._translated(error) from error
        finally:
            ended = content.is_eof() and content.exception() is None and not self._cut_off
            if ended:
                self._end()
            else:
                self._drop()
        if not ended:
            raise self._translated(None)

    def abort(self) -> None:
        """Close the connection now; nothing to do once the answer is complete."""
        if self._ended:
            return
        self._aborted = True
        if self._task is not None and self._transport is None:
            self._task.cancel()
        self._drop()

    @property
    def _cut_off(self) -> bool:
        return self._aborted or self._timed_out is not None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        timeouts = self._request.timeouts
        limit = timeouts.idle if self.facts.head_seen else timeouts.head
        due = min(self._touched + limit, self._expires)
        if loop.time() < due:
            self._timer = loop.call_at(due, self._tick, loop)
            return
        self._timed_out = UpstreamPhase.BODY if self.facts.head_seen else UpstreamPhase.HEAD
        self._drop()

    def _end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()

    def _drop(self) -> None:
        """Close the connection without waiting for what was not written yet."""
        self._end()
        if self._transport is not None:
            self._transport.abort()
        if self._response is not None:
            self._response.close()

    def _disconnected(self, message: str) -> UpstreamDisconnected:
        return UpstreamDisconnected(message, phase=self._phase, facts=self.facts)

    def _translated(self, error: Exception | None) -> UpstreamError:
        phase, facts = self._phase, self.facts
        if phase is UpstreamPhase.SEND and facts.bytes_written:
            phase = UpstreamPhase.HEAD
        if self._timed_out is not None:
            return UpstreamTimeout("no answer in time", phase=self._timed_out, facts=facts)
        if self._aborted:
            return UpstreamDisconnected("the call was aborted", phase=phase, facts=facts)
        message = f"{type(error).__name__}: {error}"
        return _failure_type(error, phase)(message, phase=phase, facts=facts)


def _failure_type(error: Exception | None, phase: UpstreamPhase) -> type[UpstreamError]:
    match error:
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return UpstreamTlsError
        case aiohttp.ConnectionTimeoutError() | TimeoutError():
            return UpstreamTimeout
        case aiohttp.ClientConnectorError():
            return UpstreamRefused
        case aiohttp.ClientPayloadError() if _is_malformed(error):
            return UpstreamProtocolError
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | OSError() | None:
            return UpstreamDisconnected if phase is not UpstreamPhase.CONNECT else UpstreamRefused
        case aiohttp.http_exceptions.ContentLengthError():
            return UpstreamDisconnected
        case _:
            return UpstreamProtocolError


def _is_malformed(error: BaseException) -> bool:
    """Return whether a body is broken HTTP, rather than cut short."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.http_exceptions.ContentLengthError):
        return False
    return isinstance(cause, aiohttp.http_exceptions.HttpProcessingError) and "Not enough data" not in str(cause)


class _Protocol(ResponseHandler):
    """A connection that knows how often it served and tells the call it serves what comes and goes."""

    facts: CallFacts
    raw_transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.facts = CallFacts()
        self.served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put a counter between aiohttp and the socket."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.raw_transport = transport  # type: ignore[assignment]
        super().connection_made(_CountedTransport(transport, self))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Count what came before it is parsed, and tell whoever reads the body when it could not be."""
        self.facts.bytes_received += len(data)
        super().data_received(data)
        error, payload = self._exception, self._payload
        if error is not None and payload is not None and payload.exception() is None:
            # aiohttp tells only who waits for a head; a reader of the body would wait for its time-out.
            payload.set_exception(error)


class _CountedTransport:
    """Counts the bytes written; everything else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, protocol: _Protocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self._protocol.facts.bytes_written += len(data)
        self._transport.write(data)

    def writelines(self, data: list[bytes]) -> None:
        self._protocol.facts.bytes_written += sum(map(len, data))
        self._transport.writelines(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Connector(aiohttp.TCPConnector):
    """Makes connections of ours, and hands each to the call that asked for it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(_Protocol, loop=self._loop)  # type: ignore[assignment]

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        """Return a connection, attached to the current call."""
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        assert isinstance(protocol, _Protocol)
        _current.get().attach(protocol)
        return connection
