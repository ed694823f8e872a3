"""The durable ledger in PostgreSQL: epochs and their members, what was spent, and reservations where it has the word.

Rows are locked in one order, which :mod:`hx_gateway.limits.applier` goes on with: the epoch, a member, windows.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog

from hx_gateway.db.schemas import GATEWAY_SCHEMA
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.limits.applier import LogOptions, apply_effect, lock_windows, move_windows
from hx_gateway.limits.durable import GIVE_UP_SECONDS, SILENT_SECONDS, Authority, EpochState
from hx_gateway.limits.model import Ask, Outcome, Verdict, WindowSeed, WindowState
from hx_gateway.limits.netting import BatchEffect, lost, window_of
from hx_gateway.limits.records import Sent
from hx_gateway.limits.roots import JournalRoot
from hx_gateway.services.failures import dependency_error
from hx_gateway.services.postgres import PostgresService

# For so long a voided call is refused, should its reservation still arrive.
REMEMBERED_SECONDS = 600.0
# How often a reservation that comes while it is released is looked for again.
_RELEASE_ATTEMPTS = 5

_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_decode_sent = msgspec.json.Decoder(Sent).decode
_decode_amounts = msgspec.json.Decoder(dict[str, int]).decode

# ruff: noqa: S608 - the names in these statements are ours

# A member that is behind counts while it is heard of, and always where its journal is on our root: there it is known
# whether it lives.
_HEEDED = "(member.root_id = $1 OR $2::float8 IS NULL OR member.seen_at > now() - make_interval(secs => $2))"
_STATE = f"""
SELECT current.epoch, current.authority,
    count(member.*) FILTER (WHERE member.epoch < current.epoch AND {_HEEDED}) AS behind,
    count(member.*) FILTER (WHERE member.epoch < current.epoch AND NOT {_HEEDED}) AS silent
FROM {GATEWAY_SCHEMA}.ledger_epoch AS current LEFT JOIN {GATEWAY_SCHEMA}.ledger_members AS member ON true
GROUP BY current.epoch, current.authority
"""
_BEGIN_FIRST = f"INSERT INTO {GATEWAY_SCHEMA}.ledger_epoch (epoch, authority) VALUES (1, $1) ON CONFLICT DO NOTHING"
# Whoever joins does so before or after an epoch begins: locked, because the next one asks who is there.
_CURRENT = f"SELECT epoch FROM {GATEWAY_SCHEMA}.ledger_epoch FOR SHARE"
_JOIN = f"""
INSERT INTO {GATEWAY_SCHEMA}.ledger_members (stream_id, root_id, host, pid, epoch) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (stream_id) DO UPDATE SET epoch = greatest(ledger_members.epoch, EXCLUDED.epoch), seen_at = now()
"""
_JOIN_ANEW = f"""
INSERT INTO {GATEWAY_SCHEMA}.ledger_members (stream_id, root_id, host, pid, epoch) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (stream_id) DO UPDATE SET seen_at = now() RETURNING epoch
"""
_TURN = f"""
UPDATE {GATEWAY_SCHEMA}.ledger_epoch SET epoch = epoch + 1, authority = $2, changed_at = now() WHERE epoch = $1
"""
_TOUCH = f"""
INSERT INTO {GATEWAY_SCHEMA}.ledger_tenants AS kept (tenant_id, epoch)
SELECT $1, epoch FROM {GATEWAY_SCHEMA}.ledger_epoch WHERE epoch = $2 FOR SHARE
ON CONFLICT (tenant_id) DO UPDATE SET epoch = EXCLUDED.epoch WHERE kept.epoch < EXCLUDED.epoch
RETURNING true
"""
_WINDOWS = f"""
SELECT wanted.key, coalesce(kept.posted_nano, 0) AS posted, (
    SELECT coalesce(json_object_agg(held.call_id, held.amount_nano), '{{}}')::text
    FROM {GATEWAY_SCHEMA}.ledger_reservations AS held WHERE held.state <> 'void' AND wanted.key = ANY (held.charges)
) AS open
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (key, budget_id, window_id)
LEFT JOIN {GATEWAY_SCHEMA}.budget_windows AS kept USING (budget_id, window_id)
"""
# Nobody turns the epoch, and nobody ends what a dead member left, while somebody reserves.
_ENTER = f"""
SELECT current.epoch, current.authority, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us, (
    SELECT count(*) FROM {GATEWAY_SCHEMA}.ledger_members AS member
    WHERE member.epoch < current.epoch AND {_HEEDED}
) AS behind
FROM {GATEWAY_SCHEMA}.ledger_epoch AS current JOIN {GATEWAY_SCHEMA}.ledger_members AS own ON own.stream_id = $3
FOR SHARE OF current FOR KEY SHARE OF own
"""
_HELD = f"""
SELECT state, amount_nano, charges FROM {GATEWAY_SCHEMA}.ledger_reservations WHERE call_id = $1::text::uuid FOR UPDATE
"""
_CHARGES = f"SELECT charges FROM {GATEWAY_SCHEMA}.ledger_reservations WHERE call_id = $1::text::uuid"
_RESERVE = f"""
INSERT INTO {GATEWAY_SCHEMA}.ledger_reservations AS kept
    (call_id, tenant_id, stream_id, state, amount_nano, charges, admitted_at)
VALUES ($1::text::uuid, $2, $3, 'reserved', $4, $5, now())
ON CONFLICT (call_id) DO UPDATE SET amount_nano = EXCLUDED.amount_nano
"""
_VOID = f"""
UPDATE {GATEWAY_SCHEMA}.ledger_reservations SET state = 'void', amount_nano = 0 WHERE call_id = $1::text::uuid
"""
_REMEMBER = f"""
INSERT INTO {GATEWAY_SCHEMA}.ledger_reservations (call_id, tenant_id, stream_id, state, amount_nano, admitted_at)
VALUES ($1::text::uuid, '', $2, 'void', 0, now()) ON CONFLICT DO NOTHING
"""
_FORGET = f"""
DELETE FROM {GATEWAY_SCHEMA}.ledger_reservations
WHERE state = 'void' AND admitted_at < now() - make_interval(secs => $1)
"""
_BESIDE = f"""
SELECT stream_id, host, pid, seen_at, seen_at < now() - make_interval(secs => $3) AS silent
FROM {GATEWAY_SCHEMA}.ledger_members WHERE root_id = $1 AND stream_id <> $2
"""
_CLAIM = f"""
SELECT 1 FROM {GATEWAY_SCHEMA}.ledger_members
WHERE stream_id = $1 AND ($2::timestamptz IS NULL OR seen_at = $2) FOR UPDATE SKIP LOCKED
"""
_LEFT_OPEN = f"""
SELECT call_id::text, state, amount_nano, facts::text FROM {GATEWAY_SCHEMA}.ledger_reservations WHERE stream_id = $1
"""
_REMOVE = f"DELETE FROM {GATEWAY_SCHEMA}.ledger_members WHERE stream_id = $1"


class PostgresLedger:
    """The :class:`~hx_gateway.limits.durable.DurableLedger` of one worker.

    ``authority`` is the one that the first epoch is to have, ``root`` where the worker's journal is. A member of
    another root that was not heard of for ``give_up_seconds``, all of which this worker could reach the database, does
    not hold up an epoch any more.
    """

    def __init__(
        self,
        postgres: PostgresService,
        root: JournalRoot,
        authority: Authority,
        *,
        logs: LogOptions | None = None,
        clock: Clock | None = None,
        silent_seconds: float = SILENT_SECONDS,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        self._postgres = postgres
        self._root = root
        self._authority = authority
        self._logs = logs or LogOptions()
        self._clock = clock or SystemClock()
        self._silent_seconds = silent_seconds
        self._give_up_seconds = give_up_seconds
        self._host = socket.gethostname()
        # Those who reserve wait for each other here, as long as they like, and leave a connection to the rest.
        self._turns = asyncio.Semaphore(max(1, postgres.pool.maximum - 1))
        self._stream = UUID(int=0)
        self._acknowledged = 0
        # Since when the database could be reached, and when it last was: monotonic seconds.
        self._watching_since = self._reached_at = float("-inf")
        self._warned_of = 0
        self._log = structlog.get_logger()

    # Epochs

    async def join(self, stream_id: UUID) -> EpochState:
        """Register this worker; see the protocol."""
        async with self._transaction() as connection:
            await connection.execute(_BEGIN_FIRST, self._authority)
            epoch = await connection.fetchval(_CURRENT)
            # A member that is there already acknowledges for itself: its journal may hold what is not drained.
            joined = await connection.fetchval(_JOIN_ANEW, *self._member(stream_id, epoch))
            state = await self._read_state(connection)
        self._stream, self._acknowledged = stream_id, joined
        return state

    async def leave(self, stream_id: UUID) -> None:
        """Unregister. What the worker left open is ended as an orphan's is."""
        async with self._transaction() as connection:
            await self._end(connection, stream_id, None)

    async def state(self) -> EpochState:
        """Return where things stand."""
        async with self._connection() as connection:
            return await self._read_state(connection)

    async def turn(self, seen: int, authority: Authority) -> EpochState:
        """Begin the epoch after ``seen``."""
        async with self._connection() as connection:
            if await connection.execute(_TURN, seen, authority) != "UPDATE 0":
                self._log.warning("ledger_epoch_turned", epoch=seen + 1, authority=str(authority))
            return await self._read_state(connection)

    async def acknowledge(self, stream_id: UUID, epoch: int) -> EpochState:
        """Say that this worker is done with earlier epochs."""
        async with self._connection() as connection:
            await self._register(connection, stream_id, epoch)
            self._acknowledged = max(epoch, self._acknowledged)
            return await self._read_state(connection)

    async def beat(self, stream_id: UUID) -> EpochState:
        """Say that this worker lives. One that was taken for dead is registered again with what it acknowledged."""
        async with self._connection() as connection:
            await self._register(connection, stream_id, self._acknowledged)
            return await self._read_state(connection)

    async def touch_tenant(self, tenant_id: str, epoch: int) -> bool:
        """Return whether nobody has used the tenant's money in this epoch before."""
        async with self._connection() as connection:
            return bool(await connection.fetchval(_TOUCH, tenant_id, epoch))

    async def _register(self, connection: Any, stream_id: UUID, epoch: int) -> None:
        await connection.execute(_JOIN, *self._member(stream_id, epoch))

    def _member(self, stream_id: UUID, epoch: int) -> tuple[object, ...]:
        return stream_id, self._root.id, self._host, os.getpid(), epoch

    async def _read_state(self, connection: Any) -> EpochState:
        row = await connection.fetchrow(_STATE, self._root.id, self._patience())
        if row is None:
            return EpochState(epoch=0, authority=self._authority, acknowledged=False)
        if row["silent"] and self._warned_of != row["epoch"]:
            self._warned_of = row["epoch"]
            self._log.warning("ledger_members_given_up", epoch=row["epoch"], members=row["silent"])
        behind, authority = row["behind"], Authority(row["authority"])
        return EpochState(epoch=row["epoch"], authority=authority, acknowledged=not behind, behind=behind)

    def _patience(self) -> float | None:
        """Return how long a member may be silent; ``None``: for ever, because nobody could have heard of it."""
        now = self._clock.monotonic()
        if now - self._reached_at > self._silent_seconds:
            self._watching_since = now
        self._reached_at = now
        return self._give_up_seconds if now - self._watching_since >= self._give_up_seconds else None

    # Money

    async def windows(self, keys: Sequence[str]) -> Mapping[str, WindowSeed]:
        """Return what was spent in each window, in one moment."""
        pairs = [window_of(key) for key in keys]
        names = [budget for budget, _ in pairs], [window for _, window in pairs]
        async with self._connection() as connection:
            rows = await connection.fetch(_WINDOWS, list(keys), *names)
        return {
            row["key"]: WindowSeed(
                key=row["key"], posted_nano=row["posted"], reserved=_decode_amounts(row["open"].encode())
            )
            for row in rows
        }

    async def reserve(self, ask: Ask, epoch: int) -> Verdict:
        """Reserve what ``ask`` wants, or nothing."""
        return await self._take(ask, epoch, opens=True)

    async def raise_reservation(self, ask: Ask, epoch: int) -> Verdict:
        """Bring an open reservation up to ``ask.cost_nano``."""
        return await self._take(ask, epoch, opens=False)

    async def _take(self, ask: Ask, epoch: int, *, opens: bool) -> Verdict:
        async with self._turns, self._transaction() as connection:
            entry = await connection.fetchrow(_ENTER, self._root.id, self._patience(), self._stream)
            if entry is None:
                return Verdict(outcome=Outcome.STALE, now_us=0)
            now_us = entry["now_us"]
            if entry["epoch"] != epoch or entry["authority"] != Authority.POSTGRES or entry["behind"]:
                return Verdict(outcome=Outcome.STALE, now_us=now_us)
            windows = await lock_windows(connection, {charge.key: ask.tenant_id for charge in ask.charges})
            held = await connection.fetchrow(_HELD, ask.call_id)
            if (held is None and not opens) or (held is not None and held["state"] == "void"):
                return Verdict(outcome=Outcome.STALE, now_us=now_us)
            own = 0 if held is None else held["amount_nano"]
            known = opens and held is not None
            wanted = own if known else max(ask.cost_nano, own)
            free = _free(ask, windows, own)
            short = next((index for index, left in enumerate(free) if left < wanted), None)
            if short is not None and not known:
                return Verdict(outcome=Outcome.BUDGET, now_us=now_us, refused_by=short, left=max(0, free[short]))
            if not known:
                keys = [charge.key for charge in ask.charges]
                await connection.execute(_RESERVE, ask.call_id, ask.tenant_id, self._stream, wanted, keys)
                await move_windows(connection, {}, dict.fromkeys(keys, wanted - own))
            return Verdict(outcome=Outcome.ADMITTED, now_us=now_us, money=tuple(left - wanted for left in free))

    async def release(self, call_id: str) -> None:
        """Void a reservation that was never sent, and remember that it is void."""
        for _ in range(_RELEASE_ATTEMPTS):
            async with self._transaction() as connection:
                if await self._void(connection, call_id):
                    return

    async def _void(self, connection: Any, call_id: str) -> bool:
        """Return whether it is done: not where a reservation came while we looked."""
        charges = await connection.fetchval(_CHARGES, call_id)
        if charges is None:
            return bool(await connection.execute(_REMEMBER, call_id, self._stream) != "INSERT 0 0")
        await lock_windows(connection, dict.fromkeys(charges, ""))
        held = await connection.fetchrow(_HELD, call_id)
        if held is not None and held["state"] == "reserved":
            await connection.execute(_VOID, call_id)
            await move_windows(connection, {}, dict.fromkeys(charges, -held["amount_nano"]))
        return held is not None

    # Those who are gone

    async def settle_orphans(self) -> int:
        """End the calls of members of this root that are gone."""
        async with self._connection() as connection:
            await connection.execute(_FORGET, REMEMBERED_SECONDS)
            members = await connection.fetch(_BESIDE, self._root.id, self._stream, self._silent_seconds)
        settled = 0
        for member in members:
            if not member["silent"] and not self._has_ended(member["host"], member["pid"]):
                continue
            if await asyncio.to_thread(self._root.is_applied, member["stream_id"]):
                async with self._transaction() as connection:
                    ended = await self._end(connection, member["stream_id"], member["seen_at"])
                self._log.info("ledger_member_gone", stream=str(member["stream_id"]), calls=ended)
                settled += ended
        return settled

    def _has_ended(self, host: str, pid: int) -> bool:
        """Return whether a process of this host is known to be gone; of another host nobody knows."""
        if host != self._host:
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    async def _end(self, connection: Any, stream_id: UUID, seen_at: Any) -> int:
        """Remove a member with what it left open; return how many calls that was. Nothing if it was seen since."""
        if await connection.fetchval(_CLAIM, stream_id, seen_at) is None:
            return 0
        ended, spends = [], []
        for row in await connection.fetch(_LEFT_OPEN, stream_id):
            if row["state"] == "sent":
                try:
                    spends.append(lost(_decode_sent(row["facts"]), row["amount_nano"]))
                except msgspec.DecodeError as error:
                    # It stays reserved, for a person to see to: what it came to is not known.
                    self._log.error("ledger_orphan_unreadable", call_id=row["call_id"], reason=str(error))
                    continue
            ended.append(row["call_id"])
        await apply_effect(connection, BatchEffect(ended=tuple(ended), spends=tuple(spends)), self._logs)
        await connection.execute(_REMOVE, stream_id)
        return len(ended)

    # Connections

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """Lend a connection. Whatever the driver says is a matter of the database here, never of a caller's values."""
        try:
            async with self._postgres.acquire() as connection:
                yield connection
        except _DRIVER_ERRORS as error:
            raise dependency_error(self._postgres.display_name, error) from error

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        """Lend one with a transaction, committed at the end.

        A command that is cancelled takes the connection with it, which is not asked for a ROLLBACK: a server that
        hangs would not answer.
        """
        async with self._connection() as connection:
            await connection.execute("BEGIN")
            try:
                yield connection
            except asyncio.CancelledError:
                raise
            except BaseException:
                with suppress(*_DRIVER_ERRORS, OSError):
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")


def _free(ask: Ask, windows: Mapping[str, WindowState], own: int) -> list[int]:
    """Return what each window of the ask has left for the call: its own reservation is not in its way."""
    states = [(charge.budget.limit_nano, windows[charge.key]) for charge in ask.charges]
    return [limit - state.posted_nano - (state.reserved_nano - own) for limit, state in states]
