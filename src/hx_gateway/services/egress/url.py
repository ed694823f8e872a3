"""Reads a URL more strictly than any client does, so that no two programs can read it differently.

RFC 3986 for the syntax; of what it leaves open, only the one spelling that everybody writes is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from hx_gateway.services.egress.addresses import IPAddress
from hx_gateway.services.egress.errors import EgressDenied, EgressReason

MAX_URL_CHARS = 2048
HTTP_SCHEMES = frozenset({"http", "https"})
WEBSOCKET_SCHEMES = frozenset({"ws", "wss"})
TCP_SCHEMES = frozenset({"tcp"})
NETWORK_SCHEMES = HTTP_SCHEMES | WEBSOCKET_SCHEMES | TCP_SCHEMES
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
# ``sun_path`` of Linux, less its final NUL.
_MAX_SOCKET_PATH_BYTES = 107

# RFC 3986 section 2: ASCII alone, without controls, spaces and the backslash that browsers take for a slash.
_CHARACTERS = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(.*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
# What ends so is an IPv4 address to a URL parser of browsers (WHATWG URL, 3.5) and to inet_aton(3).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SOCKET_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~@+,=-]+)+")

_HOST_RULE = "its host must be a plain DNS name, a dotted IPv4 address or an IPv6 address in brackets"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedUrl:
    """A URL that has one reading. ``host`` is lower-case, without brackets; ``path`` has the query, as it was written.

    ``literal`` is the address where the host is one.
    """

    scheme: str
    host: str
    port: int
    path: str
    literal: IPAddress | None

    @property
    def text(self) -> str:
        """The URL, normalised in scheme and host only."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_url(url: str, *, schemes: frozenset[str], field: str) -> ParsedUrl:
    """Read ``url``, whose scheme must be one of ``schemes``. Raises ``EgressDenied``, which names ``field``.

    Refused: credentials (they belong into headers, where no log shows them), a fragment, which is never sent, and a
    host in any spelling but the usual one: percent-encoded, not ASCII, with a final dot or a zone, an IPv4 address that
    is not four decimal numbers. The path is not looked at: it goes to the server as it was written.
    """
    scheme, authority, path, query = _split(url, schemes, field)
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        raise EgressDenied(EgressReason.HOST, field, _HOST_RULE)
    bracketed, name, port = found.groups()
    host, literal = _ipv6(bracketed, field) if bracketed is not None else _name_or_ipv4(name, field)
    if scheme in TCP_SCHEMES and (path or query):
        raise EgressDenied(EgressReason.URL, field, "a tcp URL ends after the port, as in tcp://host:port")
    return ParsedUrl(scheme=scheme, host=host, port=_port(port, scheme, field), path=path + query, literal=literal)


def parse_socket_path(url: str, *, field: str) -> str:
    """Return the path of ``unix:///path``: absolute, without ``.``, ``..`` and escapes. Raises ``EgressDenied``."""
    _, authority, path, query = _split(url, frozenset({"unix"}), field)
    if authority or query or len(path) > _MAX_SOCKET_PATH_BYTES or _SOCKET_PATH.fullmatch(path) is None:
        raise EgressDenied(
            EgressReason.SOCKET_PATH,
            field,
            f"it must be unix:// and an absolute path of at most {_MAX_SOCKET_PATH_BYTES} plain characters",
        )
    return path


def is_host_name(text: str) -> bool:
    """Tell whether ``text`` is a lower-case DNS name (RFC 1123 section 2.1; underscores pass) that is no address."""
    labels = text.split(".")
    return (
        len(text) <= 253
        and all(_LABEL.fullmatch(label) is not None for label in labels)
        and _NUMBER.fullmatch(labels[-1]) is None
    )


def _split(url: str, schemes: frozenset[str], field: str) -> tuple[str, str, str, str]:
    """Return scheme, authority, path, and query with its question mark."""
    if len(url) > MAX_URL_CHARS:
        raise EgressDenied(EgressReason.URL, field, f"it is longer than {MAX_URL_CHARS} characters")
    if _CHARACTERS.fullmatch(url) is None:
        raise EgressDenied(
            EgressReason.URL,
            field,
            "it has a character that no URL has: percent-encode it, or write an international name as xn--…",
        )
    found = _PARTS.fullmatch(url)
    if found is None:
        raise EgressDenied(EgressReason.URL, field, "it is not an absolute URL, as in https://host/path")
    scheme, authority, path, query, fragment = found.groups()
    if scheme.lower() not in schemes:
        known = ", ".join(sorted(schemes)) or "none"
        raise EgressDenied(EgressReason.SCHEME, field, f"its scheme is not allowed here; allowed: {known}")
    if "@" in authority:
        raise EgressDenied(EgressReason.CREDENTIALS, field, "it has credentials: give them apart from the URL")
    if fragment is not None:
        raise EgressDenied(EgressReason.URL, field, "it has a fragment, which is never sent: leave it out")
    return scheme.lower(), authority, path, query or ""


def _ipv6(text: str, field: str) -> tuple[str, IPAddress]:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise EgressDenied(EgressReason.HOST, field, _HOST_RULE) from None
    return str(address), address


def _name_or_ipv4(text: str, field: str) -> tuple[str, IPAddress | None]:
    name = text.lower()
    if is_host_name(name):
        return name, None
    try:
        return name, IPv4Address(name)
    except AddressValueError:
        raise EgressDenied(EgressReason.HOST, field, _HOST_RULE) from None


def _port(text: str | None, scheme: str, field: str) -> int:
    if text is None and scheme in _DEFAULT_PORTS:
        return _DEFAULT_PORTS[scheme]
    if text is None or _PORT.fullmatch(text) is None or int(text) > 65_535:
        raise EgressDenied(EgressReason.PORT, field, "its port must be a number from 1 to 65535")
    return int(text)
