"""Server-sent events as a client reads them: fields, and the place to go on from after the connection ends."""

from __future__ import annotations

from typing import NamedTuple

from hx_gateway.kit.sse import MAX_EVENT_BYTES, event_ends


class ServerEvent(NamedTuple):
    """An event that has data. ``id`` is the last one told, by this event or by one before it."""

    id: str
    type: str
    data: str


class EventTooLarge(Exception):
    """An event that does not end within what one may have."""


class EventReader:
    """Reads one connection's bytes, cut however (HTML Living Standard, 9.2.6).

    ``last_id`` is where the connection begins, and grows as ids are told, also by blocks without data.
    ``retry_seconds`` is how long the server wants a client to wait before it comes again, ``None`` if it does not say.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_seconds: float | None = None
        self._kept = bytearray()

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Return the events that are complete now. Raises :class:`EventTooLarge`."""
        # What was searched before may end in the first half of a boundary.
        start = max(0, len(self._kept) - 3)
        self._kept += data
        told: list[ServerEvent] = []
        begin = 0
        for end in event_ends(self._kept, start):
            event = self._read(bytes(self._kept[begin:end]))
            begin = end
            if event is not None:
                told.append(event)
        del self._kept[:begin]
        if len(self._kept) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event has more than {MAX_EVENT_BYTES} bytes")
        return told

    def _read(self, block: bytes) -> ServerEvent | None:
        kind, data = "", list[str]()
        # Bytes split at CR, LF and CRLF, as the standard has it; texts would at more.
        for line in block.splitlines():
            name, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                kind = value
            elif name == "id" and "\0" not in value:
                self.last_id = value
            elif name == "retry" and value.isascii() and value.isdigit():
                self.retry_seconds = int(value) / 1000
        return ServerEvent(self.last_id, kind or "message", "\n".join(data)) if data else None
