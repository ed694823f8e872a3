"""Database URLs as people write them, made into what the driver reads."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"^(postgres|postgresql)(\+\w+)?://", re.IGNORECASE)


class DsnError(ValueError):
    """A URL that cannot be used; the text never repeats the credentials."""


def postgres_dsn(url: str) -> str:
    """Return ``url`` with the scheme the driver knows.

    SQLAlchemy's forms (``postgresql+psycopg://``, ``postgresql+asyncpg://``) and ``postgres://`` are accepted. Raises
    :class:`DsnError` for another scheme, or credentials that are not percent-encoded.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise DsnError("the PostgreSQL URL must start with postgresql://")
    rest = url[scheme.end() :]
    check_authority(rest, "PostgreSQL")
    return f"postgresql://{rest}"


def check_authority(rest: str, what: str) -> None:
    """Raise :class:`DsnError` where the part behind the scheme cannot be told apart into user, password and host."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    credentials, at, host = authority.rpartition("@")
    broken = "@" in tail.partition("?")[0] or "@" in credentials or "#" in rest
    port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
    if broken or (not at and port and not port.isdigit()):
        raise DsnError(
            f"the {what} URL holds a reserved character (such as / @ # : ?) in its user name or password: "
            "percent-encode it, as in p%40ss for p@ss"
        )
    if port and not all(part.rpartition(":")[2].isdigit() for part in host.split(",") if ":" in part):
        raise DsnError(f"the port of the {what} URL is not a number")


def redis_dsn(url: str) -> str:
    """Return ``url``, checked. Raises :class:`DsnError`."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("redis", "rediss", "unix"):
        raise DsnError("the Redis URL must start with redis://, rediss:// or unix://")
    if scheme.lower() != "unix":
        check_authority(rest, "Redis")
    return url


def place_of(url: str) -> str:
    """Return where a URL points, without credentials: for messages to the operator."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{unquote(parts.path)}"
