"""Brings a database to the schema of this program, one process at a time.

Sessions are needed: a lock is held over several transactions. PgBouncer serves in session mode only; give the
database's own address where it pools transactions.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from hx_gateway.db.locks import LOCK_CLASS, MIGRATION_LOCK, milliseconds
from hx_gateway.db.row_security import EVERY_TENANT, TENANT_SETTING
from hx_gateway.db.schemas import GATEWAY_SCHEMA, VERSION_TABLE

CONNECT_SECONDS = 10.0
# How long to wait for another process that migrates.
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.05
# What the functions here raise when the database is away, refuses or is busy: the driver's errors as they are.
DRIVER_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
# Alembic keeps the migration that runs in module variables: in one process one runs at a time, on whatever loop.
_alembic = threading.Lock()

Command = Callable[[Config, str], None]


class SchemaTooNew(Exception):
    """The database was migrated by a newer program. ``found`` is its revision, ``head`` the newest known here."""

    def __init__(self, found: str, head: str) -> None:
        super().__init__(
            f"the database is at revision {found!r}, which this program does not know; its newest is {head!r}: "
            "run the newer program, or give another database."
        )
        self.found = found
        self.head = head


def head() -> str:
    """Return the newest revision that this program knows."""
    return _revisions()[0]


def pending(found: str | None) -> tuple[str, ...]:
    """Return the revisions that a database at ``found`` lacks, oldest first. Raises :class:`SchemaTooNew`."""
    known = _revisions()
    if found is not None and found not in known:
        raise SchemaTooNew(found, head())
    newer = known if found is None else known[: known.index(found)]
    return newer[::-1]


async def current(dsn: str) -> str | None:
    """Return the database's revision, or ``None`` where nothing was ever migrated.

    ``dsn`` as in :func:`upgrade`. A revision that this program does not know is returned as it is.
    """
    connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    try:
        table = f"{GATEWAY_SCHEMA}.{VERSION_TABLE}"
        if await connection.fetchval("SELECT to_regclass($1)", table) is None:
            return None
        found = await connection.fetchval(f"SELECT version_num FROM {table}")  # noqa: S608 - the name is ours
        return None if found is None else str(found)
    finally:
        await connection.close()


async def upgrade(dsn: str, *, lock_timeout_seconds: float = 5.0, wait_seconds: float = WAIT_SECONDS) -> list[str]:
    """Bring the database to :func:`head`; return the revisions applied, oldest first: none where it is there already.

    ``dsn`` is what asyncpg reads (:func:`hx_gateway.services.dsn.postgres_dsn` makes it of a URL as people write it).
    Any number of processes may call this at once: one migrates, the others wait for it, ``wait_seconds`` at most.
    Each migration is one transaction and gives up on a table that others hold for ``lock_timeout_seconds``.

    Raises :class:`SchemaTooNew`, ``TimeoutError`` after ``wait_seconds``, and the driver's errors as they are.
    """
    if await _known_revision(dsn) == head():
        return []
    return await _move(dsn, command.upgrade, head(), lock_timeout_seconds, wait_seconds)


async def downgrade(
    dsn: str, revision: str, *, lock_timeout_seconds: float = 5.0, wait_seconds: float = WAIT_SECONDS
) -> list[str]:
    """Take the database back to ``revision`` (``base``: to nothing) with the data of what is undone.

    Returns the revisions undone, newest first. Otherwise as :func:`upgrade`.
    """
    if await _known_revision(dsn) is None:
        return []
    return await _move(dsn, command.downgrade, revision, lock_timeout_seconds, wait_seconds)


async def bring_to(dsn: str, revision: str, *, lock_timeout_seconds: float = 5.0) -> None:
    """Bring a database to ``revision``, also back to it, with the data of what is undone: for one that has none.

    Otherwise as :func:`upgrade`; a ``revision`` that this program does not know raises :class:`SchemaTooNew` too.
    """
    found = await _known_revision(dsn)
    if found == revision:
        return
    back = len(pending(found)) < len(pending(revision))
    direction = command.downgrade if back else command.upgrade
    await _move(dsn, direction, revision, lock_timeout_seconds, WAIT_SECONDS)


async def _known_revision(dsn: str) -> str | None:
    found = await current(dsn)
    pending(found)
    return found


@functools.cache
def _revisions() -> tuple[str, ...]:
    """Return all revisions of this program, newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "hx_gateway:migrations")
    return config


async def _move(dsn: str, direction: Command, revision: str, lock_timeout: float, wait: float) -> list[str]:
    deadline = time.monotonic() + wait
    # asyncpg parses the address: SQLAlchemy's own parser knows fewer forms.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=functools.partial(asyncpg.connect, dsn, timeout=CONNECT_SECONDS),
        poolclass=NullPool,
    )
    with _unwrapped():
        async with engine.connect() as connection:
            # The lock ends with the connection.
            await _until(functools.partial(_lock_taken, connection), deadline)
            # Whoever had it before us may be newer than us.
            await _known_revision(dsn)
            await _prepare(connection, lock_timeout)
            await _until(_alembic_taken, deadline)
            try:
                return await connection.run_sync(_run, direction, revision)
            finally:
                _alembic.release()


async def _lock_taken(connection: AsyncConnection) -> bool:
    # Asked for again and again: a session that waits in the server holds a snapshot, for which a migration that
    # builds something CONCURRENTLY would wait in turn.
    query = text(f"SELECT pg_try_advisory_lock({LOCK_CLASS}, {MIGRATION_LOCK})")
    taken = bool((await connection.execute(query)).scalar_one())
    await connection.commit()
    return taken


async def _alembic_taken() -> bool:
    return _alembic.acquire(blocking=False)


async def _until(taken: Callable[[], Awaitable[bool]], deadline: float) -> None:
    while not await taken():
        if time.monotonic() > deadline:
            raise TimeoutError("another process migrates the database and does not come to an end: see what it does.")
        await asyncio.sleep(POLL_SECONDS)


async def _prepare(connection: AsyncConnection, lock_timeout: float) -> None:
    """Set the session's time-outs, let it see all tenants' rows, and make the schema of the version table."""
    await connection.execute(text(f"SET lock_timeout = {milliseconds(lock_timeout)}"))
    await connection.execute(text("SET statement_timeout = 0"))
    await connection.execute(text(f"SET {TENANT_SETTING} = '{EVERY_TENANT}'"))
    found = (await connection.execute(text(f"SELECT to_regnamespace('{GATEWAY_SCHEMA}')"))).scalar_one()
    if found is None:
        await connection.execute(text(f"CREATE SCHEMA {GATEWAY_SCHEMA}"))
    await connection.commit()


def _run(connection: Connection, direction: Command, revision: str) -> list[str]:
    config = _config()
    moved: list[str] = []
    config.attributes.update(connection=connection, moved=moved)
    direction(config, revision)
    return moved


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Let the driver's error through that SQLAlchemy has wrapped."""
    try:
        yield
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig is not None else None
        if isinstance(cause, DRIVER_ERRORS):
            raise cause from None
        raise
