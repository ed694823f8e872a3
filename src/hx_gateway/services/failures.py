"""The one table from the drivers' errors to ours. Whatever it does not know is ``unknown``, never a guess."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass

import aiohttp
import asyncpg
import redis.exceptions

from hx_gateway.services.base import DependencyError, FailureKind


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong; ``retryable`` tells whether trying again later can help without anybody's doing."""

    kind: FailureKind
    retryable: bool = True


# SQLSTATEs by their longest prefix (PostgreSQL documentation, appendix A).
_SQLSTATES = {
    "08": Failure(FailureKind.LOST),
    "25006": Failure(FailureKind.READ_ONLY),
    "28": Failure(FailureKind.AUTH, retryable=False),
    "3D000": Failure(FailureKind.PROTOCOL, retryable=False),
    "53100": Failure(FailureKind.FULL),
    "53200": Failure(FailureKind.OVERLOADED),
    "53300": Failure(FailureKind.OVERLOADED),
    "53": Failure(FailureKind.OVERLOADED),
    "57014": Failure(FailureKind.TIMEOUT),
    "57P01": Failure(FailureKind.LOST),
    "57P02": Failure(FailureKind.LOST),
    "57P03": Failure(FailureKind.REFUSED),
    "57P05": Failure(FailureKind.LOST),
    "58030": Failure(FailureKind.FULL),
    "XX": Failure(FailureKind.PROTOCOL),
}
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL})
_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN})
UNKNOWN = Failure(FailureKind.UNKNOWN)


def classify(error: BaseException) -> Failure:
    """Return what ``error`` means. Never raises."""
    match error:
        case DependencyError():
            return Failure(error.kind, error.retryable)
        case ssl.SSLError() | aiohttp.ClientSSLError():
            return Failure(FailureKind.TLS, retryable=False)
        case asyncpg.PostgresError():
            return _by_sqlstate(error)
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return _by_message(error)
        case redis.exceptions.RedisError():
            return _by_redis(error)
        case TimeoutError() | asyncio.TimeoutError():
            return Failure(FailureKind.TIMEOUT)
        case OSError():
            return _by_os(error)
        case EOFError():
            return Failure(FailureKind.LOST)
        case aiohttp.ClientError():
            return _by_aiohttp(error)
        case _:
            return UNKNOWN


def dependency_error(dependency: str, error: BaseException) -> DependencyError:
    """Return ``error`` in our terms, for ``raise … from error``."""
    failure = classify(error)
    return DependencyError(dependency, failure.kind, retryable=failure.retryable)


def _by_sqlstate(error: asyncpg.PostgresError) -> Failure:
    state = getattr(error, "sqlstate", None) or ""
    for length in (5, 2):
        known = _SQLSTATES.get(state[:length])
        if known is not None:
            return known
    return UNKNOWN


def _by_message(error: Exception) -> Failure:
    """Tell a connection that was closed under us from a driver that is used wrongly: the class is the same."""
    text = _text(error)
    if "clos" in text or "released" in text or "cannot switch to state" in text:
        # The last is what comes of a statement on a connection that was lost in the middle of another message.
        return Failure(FailureKind.LOST)
    return Failure(FailureKind.PROTOCOL, retryable=False)


def _by_redis(error: redis.exceptions.RedisError) -> Failure:
    match error:
        case redis.exceptions.AuthenticationError() | redis.exceptions.AuthorizationError():
            return Failure(FailureKind.AUTH, retryable=False)
        case redis.exceptions.NoPermissionError():
            return Failure(FailureKind.AUTH, retryable=False)
        case redis.exceptions.TimeoutError():
            return Failure(FailureKind.TIMEOUT)
        case redis.exceptions.MaxConnectionsError() | redis.exceptions.OutOfMemoryError():
            return Failure(FailureKind.OVERLOADED)
        case redis.exceptions.ReadOnlyError():
            return Failure(FailureKind.READ_ONLY)
        case redis.exceptions.BusyLoadingError():
            return Failure(FailureKind.REFUSED)
        case redis.exceptions.ConnectionError():
            return _by_redis_connection(error)
        case redis.exceptions.ResponseError() if _text(error).startswith("MISCONF"):
            # Writes are refused because the last snapshot could not be written.
            return Failure(FailureKind.FULL)
        case redis.exceptions.ResponseError():
            return Failure(FailureKind.PROTOCOL)
        case _:
            return UNKNOWN


def _by_redis_connection(error: redis.exceptions.ConnectionError) -> Failure:
    """redis-py wraps everything of a connection in one class: what was behind it tells more."""
    if "max number of clients" in _text(error) or isinstance(error.__cause__, TimeoutError):
        # The second is its pool's, when no connection came free in time.
        return Failure(FailureKind.OVERLOADED)
    behind = error.__cause__ or error.__context__
    return classify(behind) if isinstance(behind, OSError) else Failure(FailureKind.LOST)


def _by_aiohttp(error: aiohttp.ClientError) -> Failure:
    match error:
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return Failure(FailureKind.LOST)
        case aiohttp.InvalidURL():
            return Failure(FailureKind.PROTOCOL, retryable=False)
        case _:
            return Failure(FailureKind.PROTOCOL)


def _by_os(error: OSError) -> Failure:
    if isinstance(error, ConnectionRefusedError | socket.gaierror | aiohttp.ClientConnectorDNSError):
        return Failure(FailureKind.REFUSED)
    if "rejected SSL upgrade" in _text(error):
        # asyncpg's words for a server without TLS where ``sslmode`` asks for it.
        return Failure(FailureKind.TLS, retryable=False)
    if error.errno in _REFUSED:
        return Failure(FailureKind.REFUSED)
    if error.errno in _OVERLOADED:
        return Failure(FailureKind.OVERLOADED)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(FailureKind.FULL)
    if error.errno == errno.ETIMEDOUT:
        return Failure(FailureKind.TIMEOUT)
    return Failure(FailureKind.LOST)


def _text(error: BaseException) -> str:
    """Return what ``error`` was made with; ``str`` of some drivers' errors raises when they were made with nothing."""
    return " ".join(map(str, error.args))
