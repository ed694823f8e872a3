"""Database URLs as people write them, made into what the driver reads."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_SCHEME = re.compile(r"^(postgres|postgresql)(\+\w+)?://", re.IGNORECASE)
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
# asyncpg sends what it does not know to the server as a setting, which then refuses the connection. These are
# options of other clients (libpq; Prisma, which LiteLLM uses) in URLs that are shared with them. ``channel_binding``
# is among them because asyncpg has none; TLS itself is ``sslmode``'s.
_OTHER_CLIENTS = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "connection_limit",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "pgbouncer",
        "pool_timeout",
        "schema",
        "socket_timeout",
        "sslaccept",
        "sslcompression",
        "statement_cache_size",
    }
)


class DsnError(ValueError):
    """A URL that cannot be used; the text never repeats the credentials."""


def postgres_dsn(url: str) -> str:
    """Return ``url`` with the scheme the driver knows.

    SQLAlchemy's forms (``postgresql+psycopg://``, ``postgresql+asyncpg://``) and ``postgres://`` are accepted; options
    that only other clients know are left out. Raises :class:`DsnError` for another scheme, or credentials that are
    not percent-encoded.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise DsnError("the PostgreSQL URL must start with postgresql://")
    rest = url[scheme.end() :]
    check_authority(rest, "PostgreSQL")
    place, _, query = rest.partition("?")
    kept = [part for part in query.split("&") if part and part.partition("=")[0] not in _OTHER_CLIENTS]
    return f"postgresql://{place}{'?' if kept else ''}{'&'.join(kept)}"


def check_authority(rest: str, what: str) -> None:
    """Raise :class:`DsnError` where the part behind the scheme cannot be told apart into user, password and host."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    credentials, at, host = authority.rpartition("@")
    path, _, query = tail.partition("?")
    broken = "@" in path or "@" in credentials or "#" in rest or bool(set("[]") & set(credentials))
    broken = broken or bool(_STRAY_PERCENT.search(credentials)) or (bool(authority) and not at and "@" in query)
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
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"
