"""A client of server-sent events that can be cut off at any byte, and remembers its place as browsers do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import httptools
import msgspec

from tests.fixtures.gateway import Gateway


class Event(NamedTuple):
    """One event that has data."""

    id: str
    type: str
    data: Any


class EventStream:
    """One connection. ``last_id`` is the place to go on from; ``retry_ms`` what the server asked for."""

    def __init__(
        self, gateway: Gateway, path: str, *, key: str, last_id: str | None = None, seconds: float = 20.0
    ) -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        self.comments = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self._body = bytearray()
        self._ended = False
        self._parser = httptools.HttpResponseParser(self)
        head = f"GET {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\naccept: text/event-stream\r\n"
        head += f"last-event-id: {last_id}\r\n" if last_id else ""
        self._socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=seconds)
        self._socket.sendall(f"{head}\r\n".encode())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._ended = True

    def events(self, *, most_bytes: int | None = None) -> Iterator[Event]:
        """Yield events until the server ends the stream, or after so many bytes. Raises ``TimeoutError``."""
        taken = 0
        # Those that came with the last one.
        yield from self._complete()
        while not self._ended and (most_bytes is None or taken < most_bytes):
            received = self._socket.recv(65536 if most_bytes is None else min(65536, most_bytes - taken))
            if not received:
                return
            taken += len(received)
            self._parser.feed_data(received)
            self.status = self._parser.get_status_code()
            yield from self._complete()

    def next(self) -> Event:
        """Return the next event."""
        return next(self.events())

    def body(self) -> bytes:
        """Return an answer that is no stream, whole."""
        try:
            for _ in self.events():
                raise AssertionError("an event")
        finally:
            self.cut()
        return bytes(self._body)

    def cut(self) -> None:
        """End the connection."""
        self._socket.close()

    def _complete(self) -> Iterator[Event]:
        while (end := self._body.find(b"\n\n")) >= 0:
            block, self._body = bytes(self._body[:end]), self._body[end + 2 :]
            event_type, data = "message", b""
            for line in block.split(b"\n"):
                name, _, value = line.partition(b": ")
                if line.startswith(b":"):
                    self.comments += 1
                elif name == b"id":
                    self.last_id = value.decode()
                elif name == b"event":
                    event_type = value.decode()
                elif name == b"data":
                    data += value
                elif name == b"retry":
                    self.retry_ms = int(value)
            if data:
                yield Event(self.last_id or "", event_type, msgspec.json.decode(data))
