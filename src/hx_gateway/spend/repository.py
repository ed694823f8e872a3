"""Reads of spend, prices that were set, and the one notice of each budget's window, in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import asyncpg

from hx_gateway.db.row_security import EVERY_TENANT, TENANT_SETTING
from hx_gateway.errors import HXError, Unavailable
from hx_gateway.pricing.prices import Price
from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.spend.cursors import Position, encode_cursor
from hx_gateway.spend.filters import MAX_LIMIT, RowFilters, SummaryFilters, mark_of
from hx_gateway.spend.overrides import SET_PRICE_STATEMENT, read_overrides
from hx_gateway.spend.queries import (
    CALLS_OF_A_REQUEST,
    ROUTING_STATEMENT,
    calls_statement,
    page_statement,
    summary_statement,
)
from hx_gateway.spend.rights import Sight
from hx_gateway.spend.sources import Source

STATEMENT_TIMEOUT_SECONDS = 2
# Waiting for a connection and the statement: what is left when the server does not even say that time is up.
QUERY_SECONDS = 5.0

# Both end with the transaction.
_BEGIN = (
    f"SELECT set_config('statement_timeout', '{STATEMENT_TIMEOUT_SECONDS}s', true), "
    f"set_config('{TENANT_SETTING}', $1, true)"
)
_CLAIM = """
INSERT INTO hx_gateway.budget_windows (budget_id, window_id, tenant_id, soft_notified_at) VALUES ($1, $2, $3, now())
ON CONFLICT (budget_id, window_id) DO UPDATE SET soft_notified_at = now()
WHERE budget_windows.soft_notified_at IS NULL
RETURNING 1
"""
_RELEASE = "UPDATE hx_gateway.budget_windows SET soft_notified_at = NULL WHERE budget_id = $1 AND window_id = $2"


class QueryTooSlow(HXError):
    """The database gave up on a query after :data:`STATEMENT_TIMEOUT_SECONDS`: it asks for too much at once."""

    status = 504
    code = "narrow_the_window"


class ConnectionPool(Protocol):
    """Lends asyncpg's connections; raises ``DependencyError`` for the server's state. ``PostgresService`` is one."""

    def acquire(self) -> AbstractAsyncContextManager[Any]: ...


@dataclass(frozen=True, slots=True)
class Page:
    """Calls, newest first, and the cursor of the next page, ``None`` on the last."""

    rows: list[Any]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Traced:
    """What is known of a request: rows of spend, of errors, and of the record's routing decisions."""

    calls: list[Any]
    errors: list[Any]
    routing: list[Any]


class SpendRepository:
    """Fail-closed: raises ``DependencyError`` while the database is away or busy, :class:`QueryTooSlow` when it gives
    up, ``Unavailable`` before the first migration. A connection is held for one answer only.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def page(self, source: Source, filters: RowFilters) -> Page:
        """Return a page of calls."""
        async with self._connection(_rows_of(filters.sight)) as connection:
            rows = await connection.fetch(*_flat(page_statement(source, filters)))
        shown = rows[: filters.limit]
        if len(rows) == len(shown):
            return Page(shown, None)
        return Page(shown, encode_cursor(_position(source, shown), filters.start, mark_of(source, filters)))

    async def all_rows(self, source: Source, filters: RowFilters) -> AsyncIterator[list[Any]]:
        """Yield all that ``filters`` ask for, newest first, at most :data:`~.filters.MAX_LIMIT` at a time.

        There is no snapshot: a call that ends meanwhile is in it only where it is still ahead.
        """
        filters = replace(filters, limit=MAX_LIMIT)
        while True:
            page = await self.page(source, filters)
            yield page.rows
            if page.next_cursor is None:
                return
            filters = filters.behind(_position(source, page.rows))

    async def summary(self, filters: SummaryFilters) -> list[Any]:
        """Return the groups, the dearest first."""
        async with self._connection(_rows_of(filters.sight)) as connection:
            return list(await connection.fetch(*_flat(summary_statement(filters))))

    async def traced(self, sight: Sight, request_id: str) -> Traced:
        """Return what is known of a request.

        Clients choose the ids of requests, and two may choose the same one: routes are told to those who see only a
        part of a tenant where all calls of that name are theirs.
        """
        async with self._connection(_rows_of(sight)) as connection:
            calls, errors = [
                list(await connection.fetch(*_flat(calls_statement(source, sight, request_id))))
                for source in CALLS_OF_A_REQUEST
            ]
            places = {row["tenant_id"]: row["admitted_at"] for row in calls} | {
                row["tenant_id"]: row["at"] for row in errors
            }
            routing: list[Any] = []
            for tenant, at in places.items():
                if sight.whole or await _all_are_seen(connection, tenant, request_id, calls):
                    routing += await connection.fetch(ROUTING_STATEMENT, tenant, request_id, at)
        return Traced(calls, errors, routing)

    async def prices(self) -> list[Any]:
        """Return the prices that were set, by name."""
        async with self._connection(EVERY_TENANT) as connection:
            return await read_overrides(connection)

    async def set_price(self, model: str, price: Price, by: str) -> Any:
        """Set the price of a model; return its row."""
        values = (model, price.input_pico, price.output_pico, price.cached_input_pico, by)
        async with self._connection(EVERY_TENANT, readonly=False) as connection:
            return await connection.fetchrow(SET_PRICE_STATEMENT, *values)

    async def delete_price(self, model: str) -> bool:
        """Take back the price of a model; return whether one was set."""
        async with self._connection(EVERY_TENANT, readonly=False) as connection:
            gone = await connection.fetchval("DELETE FROM hx_gateway.model_prices WHERE model = $1 RETURNING 1", model)
        return gone is not None

    async def claim_notice(self, tenant_id: str, budget_id: str, window_id: str) -> bool:
        """Return whether it is the caller, of all workers, who tells that a window is over its soft limit."""
        async with self._connection(tenant_id, readonly=False) as connection:
            return await connection.fetchval(_CLAIM, budget_id, window_id, tenant_id) is not None

    async def release_notice(self, budget_id: str, window_id: str) -> None:
        """Let somebody else tell: it could not be done."""
        async with self._connection(EVERY_TENANT, readonly=False) as connection:
            await connection.execute(_RELEASE, budget_id, window_id)

    @asynccontextmanager
    async def _connection(self, tenant: str, *, readonly: bool = True) -> AsyncIterator[Any]:
        """Lend a connection in a transaction that sees the rows of ``tenant`` only."""
        try:
            async with (
                asyncio.timeout(QUERY_SECONDS),
                self._pool.acquire() as connection,
                _limited(),
                connection.transaction(readonly=readonly),
            ):
                await connection.execute(_BEGIN, tenant)
                yield connection
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedColumnError) as error:
            # The server answers before the migrations are through.
            raise Unavailable("The tables of spend are not there yet.") from error
        except TimeoutError as error:
            raise DependencyError("PostgreSQL", FailureKind.TIMEOUT) from error


@asynccontextmanager
async def _limited() -> AsyncIterator[None]:
    """Tell a query that took too long from a database that is away, before the pool takes it for one."""
    try:
        yield
    except asyncpg.QueryCanceledError as error:
        raise QueryTooSlow(
            f"The query took longer than {STATEMENT_TIMEOUT_SECONDS} s: narrow its window (start, end), "
            "or filter by more."
        ) from error


def _rows_of(sight: Sight) -> str:
    return EVERY_TENANT if sight.tenant_id is None else sight.tenant_id


async def _all_are_seen(connection: Any, tenant: str, request_id: str, calls: list[Any]) -> bool:
    there = await connection.fetchval(
        "SELECT count(*) FROM hx_gateway.spend_logs WHERE tenant_id = $1 AND request_id = $2", tenant, request_id
    )
    return bool(there) and there == sum(row["tenant_id"] == tenant for row in calls)


def _position(source: Source, rows: list[Any]) -> Position:
    last: Mapping[str, Any] = rows[-1]
    return Position(last[source.at], last["call_id"])


def _flat(statement: tuple[str, list[object]]) -> tuple[object, ...]:
    return (statement[0], *statement[1])
