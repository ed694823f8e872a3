"""Which request heads are refused although the parser takes them, and how a body is framed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import msgspec

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
_REQUEST_LINE = re.compile(
    rb"(?!CONNECT )[A-Z]{1,32} "
    rb"(?:/|(?i:https?)://[\x21\x22\x24-\x2e\x30-\x3e\x40-\x7e])[\x21\x22\x24-\x7e]* "
    rb"HTTP/1\.[01]\r\n"
)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]+)(?::[0-9]{1,5})?")
_ONCE = (b"host", b"content-length", b"transfer-encoding")
_LENGTH = re.compile(rb"[0-9]{1,18}")


class BadHead(Exception):
    """A head that is refused; the text is for the sender."""

    def __init__(self, code: HeadCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Framing(msgspec.Struct, frozen=True, gc=False):
    """How the body ends: after ``length`` bytes, or ``chunked``; whether the client waits to be told to send it."""

    length: int
    chunked: bool
    expects_continue: bool
    request_id: bytes | None


def check_lines(head: bytes, *, max_bytes: int) -> None:
    """Check the size and the request line of a whole head, its last empty line included. Raises :class:`BadHead`.

    What a field may look like is the parser's to check, and it is strict: tests hold it to RFC 9112.
    """
    if len(head) > MAX_LINE_BYTES:
        _check_sizes(head, max_bytes)
    if _REQUEST_LINE.match(head) is None:
        raise BadHead("bad_request", "The request line is not that of an HTTP/1.1 request.")


def _check_sizes(head: bytes, max_bytes: int) -> None:
    if len(head) > max_bytes:
        raise BadHead("header_too_large", f"The head is over the limit of {max_bytes} bytes.")
    line, *fields = map(len, head.split(b"\r\n"))
    if line > MAX_LINE_BYTES:
        raise BadHead("uri_too_long", f"The request line is over the limit of {MAX_LINE_BYTES} bytes.")
    if max(fields) > MAX_LINE_BYTES:
        raise BadHead("header_too_large", f"A header field is over the limit of {MAX_LINE_BYTES} bytes.")


def check_fields(
    headers: list[tuple[bytes, bytes]], target: bytes, *, version: Callable[[], str], max_fields: int
) -> Framing:
    """Check what the fields, their names in lower case, say together. Raises :class:`BadHead`.

    ``version`` is asked only where HTTP/1.0 differs.
    """
    if len(headers) > max_fields:
        raise BadHead("header_too_large", f"There are more than {max_fields} header fields.")
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_repeated(headers)
    host = fields.get(b"host")
    if host is None or not target.startswith(b"/"):
        _check_target(host, target, version)
    if host is not None and _HOST.fullmatch(host) is None:
        raise BadHead("bad_request", "The Host field is not a host.")
    expected = fields.get(b"expect")
    if expected is not None and expected.lower() != b"100-continue":
        raise BadHead("expectation_failed", "The expectation is not one this server meets.")
    length, encoding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if encoding is not None and (length is not None or encoding.lower() != b"chunked" or version() == "1.0"):
        raise BadHead("bad_request", "The body's framing is ambiguous: send a length or 'chunked'.")
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise BadHead("bad_request", "The Content-Length is not a number.")
    return Framing(int(length or 0), encoding is not None, expected is not None, fields.get(b"x-request-id"))


def _check_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers]
    for name in _ONCE:
        if names.count(name) > 1:
            raise BadHead("bad_request", f"There is more than one {name.decode()} field.")


def _check_target(host: bytes | None, target: bytes, version: Callable[[], str]) -> None:
    if host is None and version() != "1.0":
        raise BadHead("bad_request", "There is no Host field.")
    if target.startswith(b"/"):
        return
    authority = _authority(target)
    if _HOST.fullmatch(authority) is None:
        raise BadHead("bad_request", "The target does not name a host.")
    if host is not None and authority.lower() != host.lower():
        raise BadHead("bad_request", "The target and the Host field name different hosts.")


def origin_form(target: bytes) -> bytes:
    """Return a checked target as path and query, without the scheme and authority of the absolute form."""
    if target.startswith(b"/"):
        return target
    rest = target[target.index(b"://") + 3 + len(_authority(target)) :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _authority(target: bytes) -> bytes:
    return target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
