"""The edge: uvicorn's HTTP protocol with limits on size and time, strict heads, and word of a client's going."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hx_gateway.http.head_check import STATUS_OF, BadHead, check_fields, check_lines
from hx_gateway.kit.ids import REQUEST_ID, new_request_id

EXTENSION = "hx.edge"
HEAD_END = b"\r\n\r\n"
MAX_QUEUED = 4
# A chunk's own framing: up to 16 digits of its size and two line ends.
CHUNK_FRAMING_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLimits:
    """What one connection may take. Bytes and seconds."""

    max_head_bytes: int = 16 * 1024
    max_fields: int = 100
    max_chunk_extension_bytes: int = 1024
    head_seconds: float = 10.0
    body_idle_seconds: float = 30.0
    write_stall_seconds: float = 120.0
    linger_seconds: float = 2.0
    max_connections: int | None = None


class EdgeRequest:
    """What the application can ask of the connection a request came on (``scope["extensions"]["hx.edge"]``)."""

    __slots__ = ("_callback", "_protocol", "cycle", "request_id")

    def __init__(self, protocol: EdgeProtocol, request_id: str) -> None:
        self.request_id = request_id
        self.cycle: Any = None
        self._protocol = protocol
        self._callback: Callable[[], None] | None = None

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` once if the client goes while this request is being answered; at once if it has gone."""
        self._callback = callback
        if callback is not None and self.cycle.disconnected:
            self.lost()

    def lost(self) -> None:
        """Tell the application that the client has gone."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def abort(self) -> None:
        """Close the connection once what was sent is out, without the end of the message."""
        self.cycle.response_complete = True
        self.cycle.keep_alive = False
        self._protocol.transport.close()

    def close_after(self) -> None:
        """Close the connection after this response."""
        self.cycle.keep_alive = False


class EdgeProtocol(HttpToolsProtocol):
    """Reads whole heads, checks them, and only then lets the parser and the application see them.

    Life cycle, TLS and responses are uvicorn's. What is refused here gets an error in OpenAI's shape and the
    connection is closed; requests that came before on the same connection are answered first.
    """

    limits: ClassVar[EdgeLimits] = EdgeLimits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False
        self._head = b""
        self._remaining = 0
        self._chunked = False
        self._in_body = False
        self._message_ended = False
        self._chunk_overhead = 0
        self._refused = False
        self._last_words: bytes | None = None
        self._active: EdgeRequest | None = None
        self._last_data = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # Connection
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, unless there are too many."""
        super().connection_made(transport)
        limit = self.limits.max_connections
        if limit is not None and len(self.connections) > limit:
            self._refuse("too_many_connections", "There are too many connections: try again.")
            return
        self._last_data = self.loop.time()
        self._timer = self.loop.call_later(self.limits.head_seconds, self._silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget queued requests and tell the active one."""
        self._stop_timer()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        self.pipeline.clear()
        active = self._active
        if active is not None and not active.cycle.response_complete:
            active.cycle.disconnected = True
            active.cycle.message_event.set()
            super().connection_lost(exc)
            active.lost()
            return
        super().connection_lost(exc)

    # Reading
    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket: heads are collected and checked, bodies go on at once."""
        self._unset_keepalive_if_required()
        while data and not self._refused:
            data = self._take_body(data) if self._in_body else self._take_head(data)

    def _take_head(self, data: bytes) -> bytes:
        buffered = self._head + data if self._head else data
        if buffered.startswith(b"\r\n"):
            # RFC 9112, 2.2: an empty line before a request is ignored.
            buffered = buffered[2:]
        end = buffered.find(HEAD_END, max(0, len(self._head) - 5))
        if end < 0:
            self._keep_head(buffered)
            return b""
        self._head = b""
        self._stop_timer()
        cut = end + len(HEAD_END)
        head = buffered if cut == len(buffered) else buffered[:cut]
        try:
            check_lines(head, max_bytes=self.limits.max_head_bytes, max_fields=self.limits.max_fields)
        except BadHead as bad:
            self._refuse(bad.code, bad.message)
            return b""
        self._feed(head)
        return buffered[cut:]

    def _keep_head(self, buffered: bytes) -> None:
        if len(buffered) > self.limits.max_head_bytes:
            self._refuse("header_too_large", f"The head is over the limit of {self.limits.max_head_bytes} bytes.")
            return
        if buffered.count(b"\n") != buffered.count(b"\r\n") or b"\x00" in buffered:
            self._refuse("bad_request", "The head has a line that does not end in CRLF.")
            return
        if not self._head or self._timer is None:
            self._stop_timer()
            self._timer = self.loop.call_later(self.limits.head_seconds, self._slow_head)
        self._head = buffered

    def _take_body(self, data: bytes) -> bytes:
        if self._chunked:
            self._chunk_overhead += len(data)
            self._message_ended = False
            self._feed(data)
            if self._chunk_overhead > self.limits.max_chunk_extension_bytes and not self._refused:
                self._refuse("bad_request", "The chunk extensions are over the limit.")
            if self._message_ended:
                self._end_body()
            else:
                self._watch_body()
            return b""
        piece = data if len(data) <= self._remaining else data[: self._remaining]
        self._remaining -= len(piece)
        self._feed(piece)
        if self._remaining == 0:
            self._end_body()
        else:
            self._watch_body()
        return data[len(piece) :]

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, BadHead):
                raise
            self._refuse(cause.code, cause.message)
        except (httptools.HttpParserError, httptools.HttpParserInvalidURLError):
            self._refuse("bad_request", "The request is not valid HTTP.")
        except httptools.HttpParserUpgrade:
            self._refuse("unsupported_upgrade", "The connection cannot be upgraded here.")

    def _end_body(self) -> None:
        self._in_body = self._chunked = False
        self._stop_timer()

    def _watch_body(self) -> None:
        self._last_data = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.body_idle_seconds, self._slow_body)

    # Parser callbacks
    def on_message_begin(self) -> None:
        """Begin a request; one that follows a chunked body in the same bytes was not checked, and is refused."""
        if self._in_body:
            raise BadHead("bad_request", "A request behind a chunked one must wait for its answer.")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a field of the head; trailers are dropped: nothing may change once the head was checked."""
        if not self._in_body:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the fields and hand the request over, or queue it behind the one being answered."""
        version = self.parser.get_http_version()
        framing = check_fields(self.headers, self.url, version=version)
        given = framing.request_id
        known = given is not None and REQUEST_ID.fullmatch(given) is not None
        request_id = str(given, "ascii") if known and given is not None else new_request_id()
        self.expect_100_continue = framing.expects_continue
        edge = EdgeRequest(self, request_id)
        self.scope["extensions"] = {EXTENSION: edge}  # type: ignore[dict-item]
        self._remaining, self._chunked = framing.length, framing.chunked
        self._in_body = framing.chunked or framing.length > 0
        self._chunk_overhead = 0
        super().on_headers_complete()
        edge.cycle = self.cycle
        if self.pipeline and len(self.pipeline) <= MAX_QUEUED:
            # Go on reading a little, or the client's going would not be noticed.
            self.flow.resume_reading()

    def on_chunk_header(self) -> None:
        """Allow for the framing of one more chunk."""
        self._chunk_overhead -= CHUNK_FRAMING_BYTES

    def on_body(self, body: bytes) -> None:
        """Hand body bytes to the request."""
        if self._chunked:
            self._chunk_overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self._message_ended = True
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        edge: EdgeRequest = cycle.scope["extensions"][EXTENSION]
        edge.cycle = cycle
        self._active = edge
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request, or with what is to be said last."""
        if self._last_words is not None and not self.pipeline:
            self._say_last(self._last_words)
            return
        if self._in_body and self._active is not None and self._active.cycle is self.cycle:
            # Answered before the body was read. To close now would reset the connection, and the client might never
            # see the answer: the rest is read and thrown away for a moment.
            self.loop.call_later(self.limits.linger_seconds, self._end_linger, self.cycle)
        super().on_response_complete()

    def _end_linger(self, cycle: object) -> None:
        if self._in_body and self.cycle is cycle:
            self.transport.close()

    # Time
    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _silent(self) -> None:
        self.transport.close()

    def _slow_head(self) -> None:
        self._timer = None
        self._refuse("request_timeout", f"The head did not arrive within {self.limits.head_seconds:g} seconds.")

    def _slow_body(self) -> None:
        limit = self.limits.body_idle_seconds
        idle = self.loop.time() - self._last_data
        if self.flow.read_paused:
            # Not the client is slow: we are.
            self._last_data = self.loop.time()
            idle = 0.0
        if idle < limit:
            self._timer = self.loop.call_later(limit - idle, self._slow_body)
            return
        self._timer = None
        self._refuse("request_timeout", f"The body paused for more than {limit:g} seconds.")

    def pause_writing(self) -> None:
        """Stop the application from writing; end the connection if the client does not read for too long."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self.limits.write_stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Let the application write again."""
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        super().resume_writing()

    # Refusing
    @classmethod
    def count_refusal(cls, code: str) -> None:
        """Called with the code of each refusal."""

    def _refuse(self, code: str, message: str) -> None:
        """Answer with an error and close; requests before this one are answered first."""
        if self._refused:
            return
        self._refused = True
        self._stop_timer()
        self.count_refusal(code)
        words = self._error(code, message)
        active = self._active
        if self._in_body and self.cycle is not None:
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            elif active is not None and active.cycle is self.cycle:
                self._refuse_active(active, words)
                return
        if active is not None and not active.cycle.response_complete and active.cycle is not None:
            self._last_words = words
            return
        self._say_last(words)

    def _refuse_active(self, active: EdgeRequest, words: bytes) -> None:
        """End a request whose body cannot be read to its end."""
        cycle = active.cycle
        if cycle.response_complete:
            self.transport.close()
            return
        started = cycle.response_started
        cycle.disconnected = True
        cycle.message_event.set()
        if started:
            self.transport.close()
        else:
            self._say_last(words)
        active.lost()

    def _say_last(self, words: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(words)
            self.transport.close()

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
