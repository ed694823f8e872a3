"""Where one server-sent event ends and the next begins, whatever the line ends and however the bytes are cut."""

from __future__ import annotations

import re

MAX_EVENT_BYTES = 1024 * 1024

# The end of a line followed by an empty one (HTML Living Standard, 9.2.5: CRLF, LF and CR all end a line).
# Atomic groups: a CRLF must not be read as a CR and an LF.
_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


def event_ends(data: bytes | bytearray, start: int = 0) -> list[int]:
    """Return the offsets behind each event that is complete in ``data`` from ``start``.

    A CR at the very end may be the first half of a CRLF: an event that ends there counts as complete, and an LF that
    follows then opens the next one as an empty line, which is harmless.
    """
    return [match.end() for match in _BOUNDARY.finditer(data, start)]


def event_data(event: bytes) -> bytes | None:
    """Return the data of one event, its lines joined by LF; ``None`` for an event without data, such as a comment."""
    lines = [line[5:].removeprefix(b" ") for line in _lines(event) if line.startswith(b"data:")]
    if not lines:
        return None
    return lines[0] if len(lines) == 1 else b"\n".join(lines)


def _lines(event: bytes) -> list[bytes]:
    return event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
