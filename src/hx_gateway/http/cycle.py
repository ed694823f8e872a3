"""A request and its response on a connection: uvicorn's, with a quick way for what is whole."""

from __future__ import annotations

from collections.abc import Sequence

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

# RFC 9110, 5.1 and 5.5: what names and values of fields are made of.
_NAME_BYTES = bytes(byte for byte in range(0x21, 0x7F) if byte not in b'"(),/:;<=>?@[\\]{}')
_VALUE_BYTES = bytes(byte for byte in range(0x20, 0x100) if byte != 0x7F) + b"\t"
_NO_CONTENT = frozenset({204, 304})
_CONNECTION = b"connection"


class EdgeCycle(RequestResponseCycle):
    """One request and its response. A whole response goes out in one write, and a whole request comes in one piece."""

    def whole_body(self) -> bytes | None:
        """Return the request's body if all of it is here and nobody has received any; ``None`` otherwise."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        self.message_event.clear()
        body, self.body = bytes(self.body), bytearray()
        return body

    async def respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response and its length. Raises ``RuntimeError`` for headers that HTTP does not know.

        ``headers`` have no length, transfer encoding or connection: those are said here.
        """
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        fields = [*self.default_headers, *headers]
        if status not in _NO_CONTENT:
            fields.append((b"content-length", b"%d" % len(body)))
        if not self.keep_alive:
            fields.append((_CONNECTION, b"close"))
        head = STATUS_LINE[status] + head_lines(fields)
        self.response_started = True
        self.waiting_for_100_continue = False
        self.transport.write(head if self.scope["method"] == "HEAD" or status in _NO_CONTENT else head + body)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def head_lines(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the lines of a head after its first one, with the empty one. Raises ``RuntimeError`` for bad ones."""
    names, values = zip(*fields, strict=True)
    if b"".join(names).translate(None, _NAME_BYTES) or b"".join(values).translate(None, _VALUE_BYTES):
        raise RuntimeError("a header has bytes that HTTP does not know")
    return b"".join([b"%b: %b\r\n" % field for field in fields]) + b"\r\n"
