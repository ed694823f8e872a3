"""Requests as bytes: where they go, their head, and the framing of their body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from yarl import URL

# Names and URLs come from few deployments and many clients: remembered, but not without end.
_REMEMBERED = 1024
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"[!-~]+")
# The framing follows from the body alone. Two lengths that differ are how requests are smuggled (RFC 9112, 6.3).
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL points: the ``origin`` to connect to, the value of ``Host``, and the request line's ``path``."""

    origin: URL
    host: str
    path: str


@lru_cache(maxsize=_REMEMBERED)
def target_of(url: str) -> Target:
    """Split an absolute URL. The path stays as it is written; user, password and fragment are left out.

    Raises ``ValueError``, which does not repeat the URL, for one that is not http or https or cannot be sent.
    """
    try:
        origin = URL(url).origin()
        path = URL(url, encoded=True).raw_path_qs
    except ValueError:
        raise ValueError("the URL is not valid") from None
    if origin.scheme not in ("http", "https") or origin.raw_host is None or _TARGET.fullmatch(path) is None:
        raise ValueError("the URL is not one of HTTP")
    return Target(origin, origin.host_port_subcomponent or origin.raw_host, path)


def request_head(method: str, target: Target, headers: Mapping[str, str], length: int | None) -> bytes:
    """Return the request line and the fields, ``Host`` and the framing of the body added to those given.

    ``length`` is the body's; None stands for one sent in chunks. Raises ``ValueError``, naming the field and never
    its value, for what would not arrive as one field: a request is never sent otherwise than it was asked for.
    """
    lines = [f"{_token(method)} {target.path} HTTP/1.1"]
    if "host" not in headers:
        lines.append(f"host: {target.host}")
    for name, value in headers.items():
        if name not in _FRAMING:
            lines.append(f"{_token(name)}: {value}")
    if length is None:
        lines.append("transfer-encoding: chunked")
    elif length or method in _WITH_BODY:
        lines.append(f"content-length: {length}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    ends = len(lines) + 1
    if head.count("\n") != ends or head.count("\r") != ends or "\0" in head or not head.isascii():
        _check_values(headers)
    return head.encode("latin-1")


def _check_values(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if any(character in value for character in "\r\n\0"):
            raise ValueError(f"the value of {name!r} has a line break or a NUL")
        if not value.isascii() and any(ord(character) > 255 for character in value):
            raise ValueError(f"the value of {name!r} has characters outside Latin-1")


@lru_cache(maxsize=_REMEMBERED)
def _token(word: str) -> str:
    if _TOKEN.fullmatch(word) is None:
        raise ValueError(f"{word[:64]!r} is not a valid name")
    return word
