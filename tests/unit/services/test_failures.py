"""The table from the drivers' errors to ours."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import ssl
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import aiohttp
import asyncpg
import pytest
import redis.exceptions
from asyncpg.exceptions import _base as asyncpg_base

from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.failures import Failure, classify, dependency_error


def errors_of(*modules: ModuleType) -> list[type[BaseException]]:
    found = {
        member
        for module in modules
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, BaseException)
    }
    return sorted(found, key=lambda kind: (kind.__module__, kind.__qualname__))


EVERY = errors_of(asyncpg.exceptions, asyncpg_base, redis.exceptions, aiohttp, ssl, socket)


def made(kind: type[BaseException]) -> BaseException:
    """Return an instance without asking its constructor, which may want what only a driver has."""
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_error_of_the_drivers_has_a_meaning(kind: type[BaseException]) -> None:
    failure = classify(made(kind))
    assert isinstance(failure, Failure)
    assert isinstance(failure.kind, FailureKind)
    assert dependency_error("PostgreSQL", made(kind)).dependency == "PostgreSQL"


@pytest.mark.parametrize("driver", [asyncpg.exceptions, redis.exceptions])
def test_the_walk_over_the_drivers_finds_their_errors(driver: ModuleType) -> None:
    assert len(errors_of(driver)) > 20


def connector_error(kind: type[Any], error: OSError) -> BaseException:
    key = SimpleNamespace(host="h", port=1, ssl=True, is_ssl=True)
    return cast("BaseException", kind(key, error))


def redis_error(text: str, *, behind: BaseException | None = None) -> redis.exceptions.ConnectionError:
    error = redis.exceptions.ConnectionError(text)
    error.__context__ = behind
    return error


def no_free_connection() -> redis.exceptions.ConnectionError:
    error = redis.exceptions.ConnectionError("No connection available.")
    error.__cause__ = TimeoutError()
    return error


K = FailureKind
TABLE: list[tuple[BaseException, FailureKind, bool]] = [
    (asyncpg.CannotConnectNowError("starting up"), K.REFUSED, True),
    (asyncpg.AdminShutdownError("x"), K.LOST, True),
    (asyncpg.ConnectionDoesNotExistError("x"), K.LOST, True),
    (asyncpg.TooManyConnectionsError("x"), K.OVERLOADED, True),
    (asyncpg.ReadOnlySQLTransactionError("x"), K.READ_ONLY, True),
    (asyncpg.DiskFullError("x"), K.FULL, True),
    (asyncpg.QueryCanceledError("x"), K.TIMEOUT, True),
    (asyncpg.InvalidPasswordError("x"), K.AUTH, False),
    (asyncpg.InvalidAuthorizationSpecificationError("x"), K.AUTH, False),
    (asyncpg.InvalidCatalogNameError("x"), K.PROTOCOL, False),
    (asyncpg.UniqueViolationError("x"), K.UNKNOWN, True),
    (asyncpg.UndefinedTableError("x"), K.UNKNOWN, True),
    (asyncpg.InterfaceError("connection is closed"), K.LOST, True),
    (asyncpg.InterfaceError("pool is closing"), K.LOST, True),
    (asyncpg.InterfaceError("the server expects 1 argument for this query, 0 were passed"), K.PROTOCOL, False),
    (asyncpg.InterfaceError("cannot perform operation: another operation is in progress"), K.PROTOCOL, False),
    (asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"), K.LOST, True),
    (asyncpg_base.DataError("invalid input for query argument $1"), K.PROTOCOL, False),
    (ConnectionError("PostgreSQL server at 'h:1' rejected SSL upgrade"), K.TLS, False),
    (redis.exceptions.AuthenticationError("x"), K.AUTH, False),
    (redis.exceptions.NoPermissionError("x"), K.AUTH, False),
    (redis.exceptions.TimeoutError("x"), K.TIMEOUT, True),
    (redis.exceptions.BusyLoadingError("x"), K.REFUSED, True),
    (redis.exceptions.ReadOnlyError("x"), K.READ_ONLY, True),
    (redis.exceptions.OutOfMemoryError("x"), K.OVERLOADED, True),
    (redis.exceptions.MaxConnectionsError("x"), K.OVERLOADED, True),
    (redis.exceptions.ResponseError("WRONGTYPE x"), K.PROTOCOL, True),
    (redis.exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), K.FULL, True),
    (redis_error("max number of clients reached"), K.OVERLOADED, True),
    (no_free_connection(), K.OVERLOADED, True),
    (redis_error("Connection closed by server."), K.LOST, True),
    (redis_error("x", behind=ConnectionRefusedError(errno.ECONNREFUSED, "x")), K.REFUSED, True),
    (redis_error("x", behind=ConnectionResetError(errno.ECONNRESET, "x")), K.LOST, True),
    (redis_error("x", behind=ssl.SSLCertVerificationError("x")), K.TLS, False),
    (redis_error("x", behind=socket.gaierror(socket.EAI_NONAME, "x")), K.REFUSED, True),
    (connector_error(aiohttp.ClientConnectorError, ConnectionRefusedError(errno.ECONNREFUSED, "x")), K.REFUSED, True),
    (connector_error(aiohttp.ClientConnectorDNSError, socket.gaierror(-2, "x")), K.REFUSED, True),
    (connector_error(aiohttp.ClientConnectorSSLError, OSError("x")), K.TLS, False),
    (aiohttp.ServerDisconnectedError(), K.LOST, True),
    (aiohttp.ClientPayloadError("x"), K.LOST, True),
    (aiohttp.ServerTimeoutError("x"), K.TIMEOUT, True),
    (aiohttp.InvalidURL("x"), K.PROTOCOL, False),
    (ssl.SSLError("x"), K.TLS, False),
    (TimeoutError(), K.TIMEOUT, True),
    (asyncio.IncompleteReadError(b"", 1), K.LOST, True),
    (ConnectionRefusedError(), K.REFUSED, True),
    (BrokenPipeError(), K.LOST, True),
    (FileNotFoundError(errno.ENOENT, "no socket"), K.REFUSED, True),
    (OSError(errno.ENOSPC, "x"), K.FULL, True),
    (OSError(errno.EMFILE, "x"), K.OVERLOADED, True),
    (OSError(errno.ETIMEDOUT, "x"), K.TIMEOUT, True),
    (OSError(errno.EHOSTUNREACH, "x"), K.REFUSED, True),
    (DependencyError("Redis", K.FULL, retryable=False), K.FULL, False),
    (KeyError("x"), K.UNKNOWN, True),
]


@pytest.mark.parametrize(("error", "kind", "retryable"), TABLE, ids=lambda value: repr(value)[:60])
def test_an_error_means_what_happened(error: BaseException, kind: FailureKind, retryable: bool) -> None:
    assert classify(error) == Failure(kind, retryable)


def test_the_drivers_words_do_not_reach_a_client() -> None:
    error = dependency_error("PostgreSQL", asyncpg.InvalidPasswordError("password of alice@db.internal is wrong"))
    assert str(error) == "Gateway dependency unavailable: PostgreSQL."
