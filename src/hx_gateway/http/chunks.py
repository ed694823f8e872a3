"""Where a chunked body ends, known before the parser and the application see a byte of it."""

from __future__ import annotations

import re

from hx_gateway.http.head_check import BadHead

# RFC 9112, 7.1: hexadecimal digits, then extensions. No space, no sign, no prefix; controls only as the line's end.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[\t\x20-\x7e\x80-\xff]*)?)\r\n")
# RFC 9112, 7.1.2: trailers look like the fields of a head.
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_END_OF_LINE_BYTES = 2
_MAX_SIZE_BYTES = 16 + _END_OF_LINE_BYTES


class ChunkedBody:
    """Follows the framing of one body. Extensions and trailers share one allowance of bytes for the whole body."""

    __slots__ = ("_allowance", "_in_trailers", "_line", "_skip", "ended")

    def __init__(self, allowance: int) -> None:
        self.ended = False
        self._allowance = allowance
        self._in_trailers = False
        self._line = b""
        self._skip = 0

    def take(self, data: bytes) -> int:
        """Return how many bytes of ``data`` belong to the body; :attr:`ended` says whether it ends there.

        Raises :class:`BadHead`. That each chunk's data is followed by a line's end is the parser's to check.
        """
        at, size = 0, len(data)
        while at < size and not self.ended:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at)
            cut = end + 1 if end >= 0 else size
            self._line += data[at:cut]
            at = cut
            if len(self._line) > self._allowance + _MAX_SIZE_BYTES:
                raise BadHead("bad_request", "The chunk extensions or trailers are over the limit.")
            if end >= 0:
                self._take_line()
        return at

    def _take_line(self) -> None:
        line, self._line = self._line, b""
        if not self._in_trailers:
            self._take_size(line)
        elif line == b"\r\n":
            self.ended = True
        elif _TRAILER.fullmatch(line) is None:
            raise BadHead("bad_request", "A trailer field is malformed.")
        else:
            self._spend(len(line))

    def _take_size(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadHead("bad_request", "A chunk's size is malformed.")
        self._spend(len(match[2]))
        length = int(match[1], 16)
        if length:
            self._skip = length + _END_OF_LINE_BYTES
        else:
            self._in_trailers = True

    def _spend(self, count: int) -> None:
        self._allowance -= count
        if self._allowance < 0:
            raise BadHead("bad_request", "The chunk extensions or trailers are over the limit.")
