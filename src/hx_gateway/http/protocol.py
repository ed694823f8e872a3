"""The edge: uvicorn's HTTP protocol with limits on size and time, strict heads, and word of a client's going."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hx_gateway.http.chunks import ChunkedBody
from hx_gateway.http.cycle import EdgeCycle
from hx_gateway.http.head_check import STATUS_OF, BadHead, check_fields, check_lines, origin_form
from hx_gateway.kit.ids import REQUEST_ID, new_request_id

EXTENSION = "hx.edge"
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLimits:
    """What one connection may take. Bytes and seconds."""

    max_head_bytes: int = 16 * 1024
    max_fields: int = 100
    max_chunk_extension_bytes: int = 1024
    # What a client may send ahead while its request is answered; then it is not read, nor is its going noticed.
    max_pipelined_bytes: int = 64 * 1024
    head_seconds: float = 10.0
    body_idle_seconds: float = 30.0
    write_stall_seconds: float = 120.0
    linger_seconds: float = 2.0
    max_connections: int | None = None


class EdgeRequest:
    """What the application can ask of the connection a request came on (``scope["extensions"]["hx.edge"]``).

    Once the response is complete or the client gone, there is nothing left to ask and every call does nothing.
    """

    __slots__ = ("_callback", "_gone", "_protocol", "request_id")

    def __init__(self, protocol: EdgeProtocol, request_id: str) -> None:
        self.request_id = request_id
        self._protocol: EdgeProtocol | None = protocol
        self._callback: Callable[[], None] | None = None
        self._gone = False

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` once if the client goes while this request is being answered; at once if it has gone.

        A client that only closes its own direction has gone, too. None takes the callback back.
        """
        self._callback = callback
        if self._gone:
            self.lost()

    def whole_body(self) -> bytes | None:
        """Return the request's body if all of it is here and nobody has received any; ``None`` otherwise."""
        return self._protocol.cycle.whole_body() if self._protocol is not None else None

    async def respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response, as :meth:`EdgeCycle.respond` does."""
        if self._protocol is not None:
            await self._protocol.cycle.respond(status, headers, body)

    def abort(self) -> None:
        """Close the connection once what was sent is out, without the end of the message."""
        if self._protocol is not None:
            self._protocol.abort_response()

    def close_after(self) -> None:
        """Close the connection after this response."""
        if self._protocol is not None:
            self._protocol.cycle.keep_alive = False

    def lost(self) -> None:
        """For the edge: the client has gone."""
        self._gone = True
        self._protocol = None
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def finish(self) -> None:
        """For the edge: the response is complete."""
        self._protocol = self._callback = None


class EdgeProtocol(HttpToolsProtocol):
    """Reads whole heads, checks them, and only then lets the parser and the application see them.

    One request at a time: what a client sends ahead waits unread until the response before it is complete. Life
    cycle, TLS and responses are uvicorn's. What is refused here gets an error in OpenAI's shape, and the connection
    is closed.
    """

    # uvicorn's instances have 27 attributes; beyond 30 they would no longer share their dict's keys.
    __slots__ = (
        "_active",
        "_chunks",
        "_ended",
        "_head",
        "_idle_since",
        "_idle_timer",
        "_in_body",
        "_last_data",
        "_remaining",
        "_skipped_line",
        "_stall_timer",
        "_timer",
        "_waiting",
    )

    limits: ClassVar[EdgeLimits] = EdgeLimits()
    cycle: EdgeCycle

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False
        self._head = b""
        self._skipped_line = False
        self._waiting = b""
        self._in_body = False
        self._remaining = 0
        self._chunks: ChunkedBody | None = None
        # Nothing more is taken from the client: its bytes are thrown away.
        self._ended = False
        self._active: EdgeRequest | None = None
        self._last_data = 0.0
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # Connection
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, unless there are too many."""
        super().connection_made(transport)
        limit = self.limits.max_connections
        if limit is not None and len(self.connections) > limit:
            self._refuse("too_many_connections", "There are too many connections: try again.")
            self._close()
            return
        self._timer = self.loop.call_later(self.limits.head_seconds, self._slow_head)

    def eof_received(self) -> None:
        """Treat a client that will send no more as gone."""
        self._lose_client()
        self._expect_flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request being answered."""
        for timer in (self._stall_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._lose_client()
        super().connection_lost(exc)

    def _lose_client(self) -> None:
        self._ended = True
        self._head = self._waiting = b""
        self._stop_timer()
        active, self._active = self._active, None
        if active is not None:
            self._end_cycle()
            active.lost()

    def _end_cycle(self) -> None:
        """Let whoever waits to read or to write go on, into nothing."""
        self.cycle.disconnected = True
        self.cycle.waiting_for_100_continue = False
        self.cycle.message_event.set()
        self.flow.resume_writing()

    # Reading
    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket: heads are collected and checked, bodies go on at once."""
        while data and not self._ended:
            if self._in_body:
                data = self._take_body(data)
            elif self._active is None:
                data = self._take_head(data)
            else:
                self._waiting += data
                if len(self._waiting) > self.limits.max_pipelined_bytes:
                    self.flow.pause_reading()
                return
        if self._ended:
            return
        if self._in_body:
            self._watch_body()
        elif self._active is None and self._timer is None:
            # The body of a request that was answered before it came: the connection is idle only now.
            self._begin_idle()

    def _take_head(self, data: bytes) -> bytes:
        buffered = self._head + data if self._head else data
        if buffered.startswith(b"\r\n") and not self._skipped_line:
            # RFC 9112, 2.2: an empty line before a request is ignored. One: to send them is not to be alive.
            self._skipped_line = True
            buffered = buffered[2:]
        end = buffered.find(HEAD_END, max(0, len(self._head) - 5))
        if end < 0:
            self._keep_head(buffered)
            return b""
        cut = end + len(HEAD_END)
        head = buffered if cut == len(buffered) else buffered[:cut]
        self._head = b""
        self._skipped_line = False
        self._stop_timer()
        try:
            check_lines(head, max_bytes=self.limits.max_head_bytes)
        except BadHead as bad:
            self._refuse(bad.code, bad.message)
            return b""
        self._feed(head)
        if self._active is None:
            self._refuse("bad_request", "The request is not valid HTTP.")
        return buffered[cut:]

    def _keep_head(self, buffered: bytes) -> None:
        if len(buffered) > self.limits.max_head_bytes:
            self._refuse("header_too_large", f"The head is over the limit of {self.limits.max_head_bytes} bytes.")
            return
        if buffered.count(b"\n") != buffered.count(b"\r\n") or b"\x00" in buffered:
            self._refuse("bad_request", "The head has a line that does not end in CRLF.")
            return
        if self._timer is None or (buffered and not self._head):
            self._stop_timer()
            self._timer = self.loop.call_later(self.limits.head_seconds, self._slow_head)
        self._head = buffered

    def _take_body(self, data: bytes) -> bytes:
        if self._chunks is not None:
            try:
                cut = self._chunks.take(data)
            except BadHead as bad:
                self._refuse(bad.code, bad.message)
                return b""
            ended = self._chunks.ended
        else:
            cut = min(self._remaining, len(data))
            self._remaining -= cut
            ended = not self._remaining
        self._feed(data if cut == len(data) else data[:cut])
        if self._active is not None and self.cycle.more_body is ended:
            # The parser sees another end than we do.
            self._refuse("bad_request", "The request is not valid HTTP.")
        elif ended:
            self._in_body = False
            self._stop_timer()
        return data[cut:]

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, BadHead):
                self._refuse(cause.code, cause.message)
            else:
                raise
        except httptools.HttpParserError:
            self._refuse("bad_request", "The request is not valid HTTP.")

    # Parser callbacks
    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a field of the head; trailers are dropped: nothing may change once the head was checked."""
        if not self._in_body:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the fields and hand the request over."""
        if self._active is not None or self._in_body:
            raise BadHead("bad_request", "The request is not valid HTTP.")
        if self.parser.should_upgrade():
            raise BadHead("unsupported_upgrade", "The connection cannot be upgraded here.")
        limits = self.limits
        framing = check_fields(
            self.headers, self.url, version=self.parser.get_http_version, max_fields=limits.max_fields
        )
        self.url = origin_form(self.url)
        self.expect_100_continue = framing.expects_continue
        given = framing.request_id
        known = given is not None and REQUEST_ID.fullmatch(given)
        edge = EdgeRequest(self, given.decode("ascii") if given and known else new_request_id())
        self._begin(edge)
        self._active = edge
        self._remaining = framing.length
        self._in_body = framing.chunked or framing.length > 0
        self._chunks = ChunkedBody(limits.max_chunk_extension_bytes) if framing.chunked else None

    def _begin(self, edge: EdgeRequest) -> None:
        """Have the application answer. There is no request before it that is not answered."""
        target, scope = httptools.parse_url(self.url), self.scope
        raw_path = target.path
        path = raw_path.decode("ascii")
        version = self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        scope["raw_path"] = raw_path
        scope["query_string"] = target.query or b""
        scope["extensions"] = {EXTENSION: edge}  # type: ignore[dict-item]
        self.cycle = EdgeCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, self.app)

    # Responses
    def on_response_complete(self) -> None:
        """Go on with what the client has sent ahead."""
        active, self._active = self._active, None
        if active is not None:
            active.finish()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._ended = True
            self._stop_timer()
            self._expect_flush()
            return
        self.flow.resume_reading()
        self._begin_idle()
        if self._in_body:
            # Answered before the body was read. To close now would reset the connection, and the client might never
            # see the answer: the rest is read and thrown away for a moment.
            self._linger()
        elif self._waiting:
            waiting, self._waiting = self._waiting, b""
            self.data_received(waiting)

    def abort_response(self) -> None:
        """Close the connection without the end of the message being sent."""
        active, self._active = self._active, None
        if active is not None:
            active.finish()
            self._end_cycle()
        self._close()

    def shutdown(self) -> None:
        """Close the connection, after the response if there is one under way."""
        if self._active is None:
            self._close()
        else:
            super().shutdown()

    def _linger(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self.limits.linger_seconds, self._close)

    def _close(self) -> None:
        self._ended = True
        self._stop_timer()
        if not self.transport.is_closing():
            self.transport.close()
            self._expect_flush()

    # Time
    def _begin_idle(self) -> None:
        """Let the connection be idle for so long. The timer is the connection's: most requests come before it."""
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        self._idle_timer = None
        if self._ended or self._active is not None or self._timer is not None:
            # A request is answered or on its way: it has limits of its own, and is idle again after its answer.
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._look_idle)
        else:
            self._close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _slow_head(self) -> None:
        self._timer = None
        if not self._head:
            self._close()
            return
        self._refuse("request_timeout", f"The head did not arrive within {self.limits.head_seconds:g} seconds.")

    def _watch_body(self) -> None:
        self._last_data = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.body_idle_seconds, self._slow_body)

    def _slow_body(self) -> None:
        limit = self.limits.body_idle_seconds
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            # Not the client is slow: we are. Its time begins when we go on, which is looked for often.
            self._last_data = self.loop.time()
            self._timer = self.loop.call_later(limit / 10, self._slow_body)
            return
        idle = self.loop.time() - self._last_data
        if idle < limit:
            self._timer = self.loop.call_later(limit - idle, self._slow_body)
            return
        self._timer = None
        self._refuse("request_timeout", f"The body paused for more than {limit:g} seconds.")

    def pause_writing(self) -> None:
        """Stop the application from writing; end the connection if the client does not read for too long."""
        super().pause_writing()
        self._expect_flush()

    def resume_writing(self) -> None:
        """Let the application write again."""
        if self._stall_timer is not None and not self.transport.is_closing():
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    def _expect_flush(self) -> None:
        """Give the client so long to read what is written: a transport that closes waits for it forever."""
        if self._stall_timer is None and self.transport.get_write_buffer_size():
            self._stall_timer = self.loop.call_later(self.limits.write_stall_seconds, self.transport.abort)

    # Refusing
    @classmethod
    def count_refusal(cls, code: str) -> None:
        """Called with the code of each refusal."""

    def _refuse(self, code: str, message: str) -> None:
        """Answer with an error, unless there is an answer under way, and close."""
        if self._ended:
            return
        self._ended = True
        self._stop_timer()
        self.count_refusal(code)
        active, self._active = self._active, None
        answered = self._in_body and (active is None or self.cycle.response_started)
        if active is not None:
            self._end_cycle()
        if answered:
            self._close()
        else:
            self._say_last(self._error(code, message))
        if active is not None:
            active.lost()

    def _say_last(self, words: bytes) -> None:
        """Write ``words`` and close once the client has, or a moment later: a reset could overtake them."""
        if self.transport.is_closing():
            return
        self.transport.write(words)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._linger()

    def _error(self, code: str, message: str) -> bytes:
        status = STATUS_OF[code]
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        body = msgspec.json.encode({"error": error})
        head = [STATUS_LINE[status]]
        head += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        head.append(b"content-type: application/json\r\nconnection: close\r\n")
        head.append(b"x-request-id: %b\r\n" % new_request_id().encode("ascii"))
        if status == STATUS_OF["too_many_connections"]:
            head.append(b"retry-after: 1\r\n")
        head.append(b"content-length: %d\r\n\r\n" % len(body))
        return b"".join([*head, body])


def edge_protocol(limits: EdgeLimits, on_refusal: Callable[[str], None] | None = None) -> type[EdgeProtocol]:
    """Return the protocol class with ``limits``; ``on_refusal`` is told the code of each refusal."""
    members: dict[str, Any] = {"limits": limits}
    if on_refusal is not None:
        members["count_refusal"] = staticmethod(on_refusal)
    return type("ConfiguredEdge", (EdgeProtocol,), members)
