"""Drains a journal into PostgreSQL, for as long as it takes, and never loses track of where it is."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import asyncpg
import structlog

from hx_gateway.journal.apply import POISONING, Batches, CursorMoved, Place, Tally, read_cursor
from hx_gateway.journal.backlog import Backlog, Reading
from hx_gateway.journal.format import Record
from hx_gateway.journal.log import Journal
from hx_gateway.journal.outcomes import Outcome, outcome_of, reason_of
from hx_gateway.journal.placement import Placement
from hx_gateway.journal.quarantine import Quarantine
from hx_gateway.journal.reader import Chunk
from hx_gateway.journal.streams import QUARANTINE
from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.breaker import CircuitBreaker, CircuitOpen, CircuitState
from hx_gateway.kit.tasks import end_tasks

Connect: TypeAlias = "Callable[[], Awaitable[asyncpg.Connection[Any]]]"

KEPT_TIMES = 1000
# How long a lane rests after a segment that waits for a person; others are tried meanwhile.
MAX_PAUSED_SECONDS = 1.0
MAX_RETRIES = 5
FAILED_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOptions:
    """``flush_seconds`` says how long waiting records wait, fewer than the journal wakes for; while more wait, batches
    grow to ``batch_rows`` and ``batch_bytes``. ``lanes`` connections work at once, on a segment each; ``ordered``
    keeps to one. ``batch_seconds`` is what one batch may take before the database counts as hung.
    """

    flush_seconds: float = 1.0
    batch_rows: int = 5000
    batch_bytes: int = 4 * 1024**2
    batch_seconds: float = 30.0
    lanes: int = 2
    ordered: bool = False
    adopt_seconds: float = 5.0
    pause_seconds: float = 15.0


class Figures:
    """What the drain knows of itself, for health answers and metrics."""

    def __init__(self) -> None:
        self.batches = 0
        self.failures = 0
        self.seconds: deque[float] = deque(maxlen=KEPT_TIMES)
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        # Why a stream waits for a person; None while it does not.
        self.paused: str | None = None
        self.observe: Callable[[float, int], None] | None = None

    def succeeded(self, seconds: float, rows: int) -> None:
        """Note a batch that was committed."""
        self.batches += 1
        self.seconds.append(seconds)
        if self.observe is not None:
            self.observe(seconds, rows)

    def failed(self, error: BaseException) -> None:
        """Note one that was not."""
        self.failures += 1
        self.last_error = reason_of(error)
        self.last_error_at = time.time()


class _Lane:
    """One connection, made when it is needed and thrown away when anything goes wrong with it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self.connection: asyncpg.Connection[Any] | None = None
        self.batches: Batches | None = None

    async def ready(self, make: Callable[[asyncpg.Connection[Any]], Batches]) -> tuple[Any, Batches]:
        if self.connection is None or self.connection.is_closed() or self.batches is None:
            self.connection = await self._connect()
            self.batches = make(self.connection)
        return self.connection, self.batches

    def hang_up(self) -> None:
        """End the connection under whatever waits for it."""
        if self.connection is not None:
            self.connection.terminate()

    def drop(self) -> None:
        connection, self.connection, self.batches = self.connection, None, None
        if connection is not None:
            connection.terminate()


class _BatchFailed(Exception):
    """Tells the breaker of a failure that is handled behind it."""


class Drain:
    """Owned by whoever called :meth:`start`, who calls :meth:`stop`. One breaker guards all its lanes.

    After any failure the cursor in the database, not memory, says where to go on: a commit whose answer was lost is
    neither repeated nor forgotten.
    """

    def __init__(
        self,
        journal: Journal,
        connect: Connect,
        breaker: CircuitBreaker,
        placement: Placement,
        options: DrainOptions | None = None,
    ) -> None:
        self.journal = journal
        self.breaker = breaker
        self.figures = Figures()
        self._options = options or DrainOptions()
        self._connect = connect
        self._placement = placement
        self._backlog = Backlog(journal, ordered=self._options.ordered)
        self._quarantine = Quarantine(journal.root / QUARANTINE)
        self._tasks: list[asyncio.Task[None]] = []
        self._lanes: list[_Lane] = []
        self._work = asyncio.Event()
        self._moved = asyncio.Condition()
        self._stopping = False
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Begin to drain, on the running loop."""
        self._tasks.append(asyncio.create_task(self._unfailing(self._watch)))
        for _ in range(1 if self._options.ordered else self._options.lanes):
            lane = _Lane(self._connect)
            self._lanes.append(lane)
            self._tasks.append(asyncio.create_task(self._unfailing(partial(self._run, lane))))

    async def _unfailing(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run ``job`` until it returns; one that fails for a reason nobody thought of is begun again, and logged."""
        while True:
            try:
                return await job()
            except Exception:  # noqa: BLE001 - the outermost edge of a task: it must not end in silence
                self._log.exception("drain_failed", journal=self.journal.name)
                await asyncio.sleep(FAILED_SECONDS)

    async def flush(self, seconds: float, *, give_up: bool = False) -> bool:
        """Return whether every record written before this call was applied within ``seconds``.

        ``give_up`` returns as soon as a batch fails: whoever stops does not wait for a database that is away.
        """
        seq, failures = self.journal.last_seq, self.figures.failures
        self._hurry()

        def settled() -> bool:
            return self._backlog.applied_up_to(seq) or (give_up and self.figures.failures > failures)

        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(settled)
        return self._backlog.applied_up_to(seq)

    async def stop(self, seconds: float) -> None:
        """Drain for at most ``seconds`` more, then leave the rest to whoever comes next."""
        if not self.breaker.retry_after_seconds and self.figures.paused is None:
            await self.flush(seconds, give_up=True)
            if self._lanes and self._lanes[0].connection is not None:
                with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                    await asyncio.wait_for(self._forget_cursors(self._lanes[0].connection), seconds)
        self._stopping = True
        for lane in self._lanes:
            # First: a batch that is cancelled would ask a server that hangs to roll it back.
            lane.hang_up()
        await end_tasks(self._tasks)
        self._tasks.clear()
        for lane in self._lanes:
            lane.drop()
        self._lanes.clear()
        self._backlog.close()

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting."""
        return self._backlog.idle

    # When to work

    def _hurry(self) -> None:
        self._backlog.due = True
        self._work.set()

    async def _watch(self) -> None:
        """Wake the lanes when enough has arrived or it has waited long enough; look after the journal."""
        adopt_at = 0.0
        ticked_at = time.monotonic()
        # Not for ever: a cancellation that meets what is waited for is lost (``asyncio.wait_for`` before Python 3.12).
        while not self._stopping:
            now = time.monotonic()
            if now - ticked_at >= min(1.0, self._options.flush_seconds):
                ticked_at = now
                self.journal.tick()
            if now >= adopt_at:
                adopt_at = now + self._options.adopt_seconds
                self._adopt()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.journal.arrived.wait(), self._options.flush_seconds)
            self.journal.seen()
            self._hurry()
            # Whoever fills the journal without a pause must not keep the others from their turn.
            await asyncio.sleep(0)

    def _adopt(self) -> None:
        for path in self._backlog.adopt():
            self._log.info("journal_adopted", journal=self.journal.name, stream=path.name)
        self._work.set()

    async def _run(self, lane: _Lane) -> None:
        backoff = Backoff(first=0.1, most=5.0)
        while not self._stopping:
            reading = self._backlog.claim()
            if reading is None:
                self._work.clear()
                await self._work.wait()
                continue
            try:
                wait = await self._step(lane, reading, backoff)
            finally:
                self._backlog.release(reading)
                async with self._moved:
                    self._moved.notify_all()
            if wait and not self._stopping:
                await asyncio.sleep(wait)

    async def _step(self, lane: _Lane, reading: Reading, backoff: Backoff) -> float:
        """Apply one batch of ``reading``; return how long to wait before the next."""
        if self.breaker.state is CircuitState.OPEN:
            return min(self.breaker.retry_after_seconds, 1.0)
        try:
            chunk = await self._backlog.read(
                reading,
                max_rows=reading.most_rows or self._options.batch_rows,
                max_bytes=self._options.batch_bytes,
            )
        except (FileNotFoundError, KeyError) as error:
            # Gone: the journal dropped it by its policy, or another host drained the same folder.
            self._log.warning("journal_unreadable", journal=self.journal.name, reason=type(error).__name__)
            self._backlog.finish(reading)
            return backoff.next()
        except OSError as error:
            # Out of descriptors, a bad sector: it is there, and it stays.
            self._log.error("journal_unreadable", journal=self.journal.name, reason=os.strerror(error.errno or 0))
            reading.resting_until = time.monotonic() + self._options.pause_seconds
            return backoff.next()
        self._note_damage(reading, chunk)
        if not chunk.records:
            self._at_end(reading, chunk)
            return 0.0
        try:
            with self.breaker.attempt() as attempt:
                failure = await self._try(lane, reading, chunk)
                if failure is not None:
                    if outcome_of(failure) is not Outcome.OUTAGE:
                        attempt.ignore()
                    raise _BatchFailed from failure
        except CircuitOpen as refusal:
            return min(refusal.retry_after_seconds, 1.0) or backoff.next()
        except _BatchFailed:
            assert failure is not None
            return self._after(reading, failure, backoff)
        backoff.reset()
        reading.took_it(self._options.batch_rows)
        if reading.paused is not None and reading.known:
            reading.paused = None
            self.figures.paused = self._backlog.pause_reason()
        if chunk.ended and reading.known:
            self._at_end(reading, chunk)
        return 0.0

    async def _try(self, lane: _Lane, reading: Reading, chunk: Chunk) -> Exception | None:
        """Apply a batch; return what went wrong. The database is then asked where the segment stands."""
        # A time-out alone is not enough: what it cancels would wait for a server that hangs to roll back.
        hang_up = asyncio.get_running_loop().call_later(self._options.batch_seconds, lane.hang_up)
        try:
            async with asyncio.timeout(self._options.batch_seconds):
                await self._apply(lane, reading, chunk)
        except CursorMoved:
            return None
        except Exception as error:  # noqa: BLE001 - the edge of a batch: the records stay, whatever went wrong
            lane.drop()
            reading.known = False
            if isinstance(error, TimeoutError):
                reading.was_too_much(len(chunk.records))
            self.figures.failed(error)
            return error
        finally:
            hang_up.cancel()
        return None

    def _after(self, reading: Reading, error: Exception, backoff: Backoff) -> float:
        outcome, reason = outcome_of(error), reason_of(error)
        if outcome is Outcome.DRIFT:
            if self.figures.paused != reason:
                self.figures.paused = reason
                self._log.error("journal_paused", journal=self.journal.name, reason=reason, detail=type(error).__name__)
            reading.paused = reason
            reading.resting_until = time.monotonic() + self._options.pause_seconds
            return min(MAX_PAUSED_SECONDS, self._options.pause_seconds / 10)
        self._log.warning("journal_batch_failed", journal=self.journal.name, reason=reason, outcome=str(outcome))
        return backoff.next()

    def _at_end(self, reading: Reading, chunk: Chunk) -> None:
        if chunk.ended:
            self._backlog.finish(reading)
        elif reading.own and not chunk.records:
            reading.offset = chunk.next_offset
            active = self.journal.active
            if active is not None and active.first_seq == reading.first_seq:
                self._backlog.due = False

    # One batch

    async def _apply(self, lane: _Lane, reading: Reading, chunk: Chunk) -> None:
        connection, batches = await lane.ready(self._make_batches)
        if not reading.known:
            self._reached(reading, await read_cursor(connection, _place(reading)))
        last_seq = chunk.records[-1].seq
        fresh = chunk.records
        if fresh[0].seq <= reading.applied_seq:
            self._count_before(reading, [record for record in fresh if record.seq <= reading.applied_seq])
            fresh = [record for record in fresh if record.seq > reading.applied_seq]
        if fresh:
            rows = self._expanded(fresh)
            began = time.perf_counter()
            placed, dropped, tally = await self._place_and_commit(batches, reading, rows, last_seq)
            self.figures.succeeded(time.perf_counter() - began, sum(record.rows for record in placed))
            self._count(reading, fresh, tally, dropped)
            if rows is not fresh:
                self._count_derived(fresh, rows)
        self._reached(reading, max(last_seq, reading.applied_seq))
        reading.offset = chunk.next_offset

    def _expanded(self, records: list[Record]) -> list[Record]:
        """Return ``records`` with those that stand for others replaced by them."""
        kinds = self.journal.kinds
        found = (kinds.get(number) for number in {record.kind for record in records})
        if all(kind is None or kind.expand is None for kind in found):
            return records
        expanded: list[Record] = []
        for record in records:
            kind = kinds.get(record.kind)
            try:
                expanded += [record] if kind is None or kind.expand is None else kind.expand(record)
            except ValueError:
                # Of another version, say: it goes on as it is, and becomes a dead letter.
                expanded.append(record)
        return expanded

    async def _place_and_commit(
        self, batches: Batches, reading: Reading, rows: Sequence[Record], last_seq: int
    ) -> tuple[Sequence[Record], dict[str, int], Tally]:
        """Commit what has a place. A partition may have gone since it was last looked for: look once more."""
        kinds, careful = self.journal.kinds, False
        while True:
            placed, dropped = await self._placement.place(batches.connection, rows, kinds)
            try:
                return placed, dropped, await self._commit(batches, reading, placed, last_seq, careful=careful)
            except asyncpg.CheckViolationError:
                if careful:
                    raise
                self._placement.look_again()
                careful = True

    async def _commit(
        self, batches: Batches, reading: Reading, records: Sequence[Record], last_seq: int, *, careful: bool
    ) -> Tally:
        forget = self._backlog.finished(reading.stream)
        for attempt in range(MAX_RETRIES):
            try:
                tally = await batches.apply(_place(reading), records, last_seq, forget=forget, careful=careful)
            except CursorMoved:
                # Another process drains the same folder: what it did counts, the next read goes on from there.
                reading.known = False
                raise
            except POISONING as error:
                outcome = outcome_of(error)
                if isinstance(error, asyncpg.CheckViolationError) and not careful:
                    raise
                if outcome in (Outcome.POISON, Outcome.DUPLICATE) and not careful:
                    careful = True
                elif outcome is not Outcome.RETRY or attempt == MAX_RETRIES - 1:
                    raise
            else:
                self._backlog.forgotten(reading.stream, forget)
                return tally
        raise AssertionError("the last attempt returns or raises")

    def _make_batches(self, connection: asyncpg.Connection[Any]) -> Batches:
        return Batches(connection, self.journal.kinds, self._quarantine.put)

    def _reached(self, reading: Reading, seq: int) -> None:
        reading.applied_seq, reading.known = max(seq, reading.first_seq - 1), True
        if reading.own:
            self.journal.applied[reading.first_seq] = reading.applied_seq

    async def _forget_cursors(self, connection: asyncpg.Connection[Any]) -> None:
        """Remove the cursors of segments that are gone, where no further batch of their stream does."""
        batches = self._make_batches(connection)
        for stream, numbers in self._backlog.all_finished().items():
            await batches.forget(stream, numbers)
            self._backlog.forgotten(stream, numbers)

    # Figures

    def _count(self, reading: Reading, records: Sequence[Record], tally: Tally, dropped: dict[str, int]) -> None:
        counts = self.journal.counts
        if not reading.own:
            self._count_recovered(records)
        for table, rows in tally.committed.items():
            counts.of(table).committed += rows
        for table, rows in tally.duplicate.items():
            counts.of(table).duplicate += rows
        for (table, state), rows in tally.dead.items():
            counts.of(table).bury(state, rows)
            self._log.error("events_dead_lettered", table=table, sqlstate=state, rows=rows)
        for table, rows in dropped.items():
            counts.of(table).drop("expired", rows)
        reading.counted_seq = records[-1].seq

    def _count_derived(self, records: Sequence[Record], rows: Sequence[Record]) -> None:
        """Count records that stood for others as done, and what they stood for as received."""
        as_they_were = {id(record) for record in rows}
        for record in records:
            kind = self.journal.kinds[record.kind]
            if kind.expand is not None and id(record) not in as_they_were:
                self.journal.counts.of(kind.name).committed += record.rows
        kept = {id(record) for record in records}
        for record in rows:
            if id(record) not in kept:
                self.journal.counts.of(self.journal.kinds[record.kind].name).received += record.rows

    def _count_before(self, reading: Reading, records: Sequence[Record]) -> None:
        """Count what turned out to be committed already, by an answer that was lost or by another process."""
        records = [record for record in records if record.seq > reading.counted_seq]
        if not records:
            return
        if not reading.own:
            self._count_recovered(records)
        for record in records:
            kind = self.journal.kinds.get(record.kind)
            if kind is not None:
                self.journal.counts.of(kind.name).committed += record.rows
        reading.counted_seq = records[-1].seq

    def _count_recovered(self, records: Sequence[Record]) -> None:
        for record in records:
            kind = self.journal.kinds.get(record.kind)
            if kind is not None:
                self.journal.counts.of(kind.name).recovered += record.rows

    def _note_damage(self, reading: Reading, chunk: Chunk) -> None:
        for damage in chunk.damages:
            reading.offset = chunk.next_offset
            where = {"stream": str(reading.stream), "segment": reading.first_seq, "offset": damage.offset}
            if damage.torn and not reading.own:
                # What a writer that died was about to write: nobody was told that it is kept. Set aside all the same.
                self._log.info("journal_torn_tail", journal=self.journal.name, bytes=len(damage.data))
                self._quarantine.put(damage.data, "torn", **where)
                continue
            counts = self.journal.counts
            counts.corrupt_ranges += 1
            # What is behind tells how many are missing; the last ones of a segment count as one.
            counts.lost_records += 1 if damage.next_seq is None else max(1, damage.next_seq - reading.read_seq - 1)
            self._quarantine.put(damage.data, "corrupt", **where)
        if chunk.records:
            reading.read_seq = chunk.records[-1].seq


def _place(reading: Reading) -> Place:
    return Place(reading.stream, reading.first_seq, reading.applied_seq)
