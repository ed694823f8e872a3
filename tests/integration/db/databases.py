"""A database of its own for each test: an empty one, or a copy of one that was migrated once for the server."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from hx_gateway.db.partitions import ensure_partitions
from hx_gateway.migrations.runner import upgrade
from tests.fixtures.servers import PostgresServer

TEMPLATE = "hx_template"
READY_TEMPLATE = "hx_ready_template"
PSQL_SECONDS = 30

Make = Callable[[str], Coroutine[Any, Any, object]]

_numbers = itertools.count(1)


def sql(server: PostgresServer, statement: str, database: str = "postgres") -> str:
    """Run ``statement`` with psql; return its rows, a line each. Works inside a running event loop too."""
    program = [str(server.binaries / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url_of(server, database)]
    command = [*program, "-c", statement]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PSQL_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def url_of(server: PostgresServer, database: str) -> str:
    """Return the URL of another database of ``server``."""
    return urlsplit(server.url)._replace(path=f"/{database}").geturl()


@contextmanager
def fresh_database(server: PostgresServer, *, template: str = "template1") -> Iterator[str]:
    """Make an empty database and give its URL; drop it at the end, whoever is still in it.

    Nothing to await and no event loop needed: for fixtures and for the body of a test. The server must run at the
    end, or be done with.
    """
    name = f"hx_test_{next(_numbers)}"
    sql(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield url_of(server, name)
    finally:
        if server.process is not None and server.process.poll() is None:
            sql(server, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def owned_database(server: PostgresServer) -> Iterator[str]:
    """Make an empty database that belongs to a role without special rights, and give its URL for that role."""
    with fresh_database(server) as made:
        url = server.ordinary_url(made)
        sql(server, f"ALTER DATABASE {made.rpartition('/')[2]} OWNER TO hx_ordinary")
        yield url


@contextmanager
def migrated_database(server: PostgresServer) -> Iterator[str]:
    """Make a database at the newest schema, without any partition, and give its URL. Otherwise as the other one."""
    with _copy_of(server, TEMPLATE, upgrade) as url:
        yield url


@contextmanager
def ready_database(server: PostgresServer) -> Iterator[str]:
    """Make a migrated database with the partitions of these days, which take a second to make, and give its URL."""
    with _copy_of(server, READY_TEMPLATE, _make_ready) as url:
        yield url


@contextmanager
def _copy_of(
    server: PostgresServer, template: str, make: Callable[[str], Coroutine[Any, Any, object]]
) -> Iterator[str]:
    if not sql(server, f"SELECT 1 FROM pg_database WHERE datname = '{template}'"):
        sql(server, f"CREATE DATABASE {template}")
        # In a thread of its own: the caller may be inside an event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, make(url_of(server, template))).result()
    with fresh_database(server, template=template) as url:
        yield url


async def _make_ready(url: str) -> None:
    await upgrade(url)
    connection = await asyncpg.connect(url)
    try:
        await ensure_partitions(connection, now=datetime.now(UTC))
    finally:
        await connection.close()
