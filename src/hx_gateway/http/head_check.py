"""Which request heads are well-formed, and how a body is framed: stricter than the parser where servers differ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

HeadCode = Literal["header_too_large", "bad_request", "unsupported_upgrade", "expectation_failed", "uri_too_long"]

STATUS_OF: dict[str, int] = {
    "header_too_large": 431,
    "uri_too_long": 414,
    "bad_request": 400,
    "request_timeout": 408,
    "unsupported_upgrade": 501,
    "expectation_failed": 417,
    "too_many_connections": 503,
}
MAX_LINE_BYTES = 8192

# RFC 9112, 3: method SP target SP version. The target in origin or absolute form, visible ASCII, no fragment.
_REQUEST_LINE = re.compile(rb"([A-Z]{1,32}) ((?:(https?)://([^/?#\s]*))?(?:/[\x21\x22\x24-\x7e]*)?) HTTP/1\.([01])")
# RFC 9112, 5: a token, a colon at once, a value without controls. No folded lines: each starts with a token.
_FIELDS = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]+)(?::[0-9]{1,5})?")
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding"})
_DECISIVE = _ONCE | {b"expect", b"upgrade", b"connection", b"x-request-id"}
_LENGTH = re.compile(rb"[0-9]{1,18}")


class BadHead(Exception):
    """A head that is refused; the text is for the sender."""

    def __init__(self, code: HeadCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Framing:
    """How the body ends: after ``length`` bytes, or ``chunked``; whether the client waits to be told to send it."""

    length: int
    chunked: bool
    expects_continue: bool
    request_id: bytes | None


def check_lines(head: bytes, *, max_bytes: int, max_fields: int) -> None:
    """Check the bytes of a whole head, its last empty line included. Raises :class:`BadHead`."""
    if len(head) > max_bytes:
        raise BadHead("header_too_large", f"The head is over the limit of {max_bytes} bytes.")
    first = head.find(b"\r\n")
    if first > MAX_LINE_BYTES:
        raise BadHead("uri_too_long", f"The request line is over the limit of {MAX_LINE_BYTES} bytes.")
    line = _REQUEST_LINE.fullmatch(head, 0, first)
    if line is None or not line[2]:
        raise BadHead("bad_request", "The request line is not that of an HTTP/1.1 request.")
    if _FIELDS.fullmatch(head, first + 2) is None:
        raise BadHead("bad_request", "A header field is malformed.")
    if head.count(b"\r\n") - 2 > max_fields:
        raise BadHead("header_too_large", f"There are more than {max_fields} header fields.")
    if len(head) > MAX_LINE_BYTES and max(map(len, head.split(b"\r\n"))) > MAX_LINE_BYTES:
        raise BadHead("header_too_large", f"A header field is over the limit of {MAX_LINE_BYTES} bytes.")


def check_fields(headers: list[tuple[bytes, bytes]], url: bytes, *, version: str) -> Framing:
    """Check what the fields say together and return how the body is framed. Raises :class:`BadHead`."""
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _DECISIVE:
            if name in seen and name in _ONCE:
                raise BadHead("bad_request", f"There is more than one {name.decode()} field.")
            seen[name] = value
    _check_host(seen.get(b"host"), url, version)
    expected = seen.get(b"expect")
    if expected is not None and expected.lower() != b"100-continue":
        raise BadHead("expectation_failed", "The expectation is not one this server meets.")
    if b"upgrade" in seen and b"upgrade" in seen.get(b"connection", b"").lower():
        raise BadHead("unsupported_upgrade", "The connection cannot be upgraded here.")
    return _framing(seen, version)


def _framing(seen: dict[bytes, bytes], version: str) -> Framing:
    length, encoding = seen.get(b"content-length"), seen.get(b"transfer-encoding")
    expects, request_id = b"expect" in seen, seen.get(b"x-request-id")
    if encoding is not None:
        if length is not None or version == "1.0" or encoding.lower() != b"chunked":
            raise BadHead("bad_request", "The body's framing is ambiguous: send a length or 'chunked'.")
        return Framing(0, True, expects, request_id)
    if length is None:
        return Framing(0, False, expects, request_id)
    if _LENGTH.fullmatch(length) is None:
        raise BadHead("bad_request", "The Content-Length is not a number.")
    return Framing(int(length), False, expects, request_id)


def _check_host(host: bytes | None, url: bytes, version: str) -> None:
    if host is None:
        if version != "1.0":
            raise BadHead("bad_request", "There is no Host field.")
        return
    if _HOST.fullmatch(host) is None:
        raise BadHead("bad_request", "The Host field is not a host.")
    if not url.startswith(b"/"):
        authority = url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        if authority.lower() != host.lower():
            raise BadHead("bad_request", "The target and the Host field name different hosts.")
