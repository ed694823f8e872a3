"""The journal of one process: appends records, begins new segments, keeps within its budget."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn
from uuid import UUID, uuid4
from weakref import WeakSet
from zlib import crc32

import structlog

from hx_gateway.journal.counts import JournalCounts, TableCounts
from hx_gateway.journal.errors import JournalClosed, JournalRefused
from hx_gateway.journal.format import (
    MAX_PAYLOAD_BYTES,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEGMENT_HEADER_BYTES,
    SHEDDABLE,
    Record,
    SegmentHeader,
    encode_record,
    encode_segment_header,
    pack_head,
    pack_tail,
    parse_records,
)
from hx_gateway.journal.kinds import Kind, Policy
from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.segment import SPARE_FILE, Segment, replace_segment, write_whole
from hx_gateway.journal.space import Budget, Pressure, Space
from hx_gateway.journal.streams import StreamFolder
from hx_gateway.journal.sync import Durability, Syncer, sync_folder

# How many segments are read in search of something to drop while a caller waits.
MAX_EXAMINED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOptions:
    """Sizes in bytes, ages in seconds.

    A segment is ended at ``segment_bytes`` or ``segment_seconds``. What is older than ``max_age_seconds`` is dropped,
    unless its kind's policy is to reject. ``spare`` keeps one more segment's space reserved, for a disk that others
    fill. ``wake_rows`` and ``wake_bytes`` are what is worth waking the drain for before its time.
    """

    durability: Durability = Durability.PROCESS
    segment_bytes: int = 32 * 1024**2
    segment_seconds: float = 60.0
    max_age_seconds: float = 7 * 86400.0
    spare: bool = False
    wake_rows: int = 100
    wake_bytes: int = 1024**2
    budget: Budget = field(default_factory=Budget)


class SealedSegment(NamedTuple):
    """A segment that nobody writes to any more.

    ``began`` is when it was made by the monotonic clock; ``generation`` grows when some of its records were dropped,
    and the others stand elsewhere in the file.
    """

    path: Path
    first_seq: int
    last_seq: int
    end: int
    rows: int
    created_us: int
    began: float
    generation: int = 0


class Journal:
    """Append-only, one writer. Used from one event loop; ``append`` does not wait for anything but the kernel.

    ``append`` returns once the record survives the end of this process (``Durability.MEMORY`` apart);
    :meth:`synced` waits for more. A record that cannot be kept raises :class:`JournalRefused` and leaves no trace.
    Opening never fails because of what is on disk: what cannot be made is tried again with the next record.
    """

    def __init__(self, root: Path, name: str, kinds: Iterable[Kind], options: JournalOptions | None = None) -> None:
        self.root = root / name
        self.name = name
        self.options = options or JournalOptions()
        self.kinds = {kind.number: kind for kind in kinds}
        self.counts = JournalCounts()
        self.space = Space(self.root, self.options.budget)
        self.arrived = asyncio.Event()
        self.sealed: dict[int, SealedSegment] = {}
        # Of segments by the number of their first record: those a batch is under way of, and what is applied of each.
        self.draining: set[int] = set()
        self.applied: dict[int, int] = {}
        self.active: Segment | None = None
        self.unseen_rows = 0
        self._unseen_bytes = 0
        self._wake_rows: float = self.options.wake_rows
        self._wake_bytes: float = self.options.wake_bytes
        self._held: dict[int, Segment] = {}
        # Segments that hold nothing to drop any more: under pressure (False), or by age either (True).
        self._spared: dict[int, bool] = {}
        self._tables: list[TableCounts | None] = [None] * (max(self.kinds, default=0) + 1)
        for number, kind in self.kinds.items():
            self._tables[number] = self.counts.of(kind.name)
        self._seq = 0
        self._folder: StreamFolder | None = None
        self._stream = uuid4()
        self._open = False
        self._pressed = False
        self._syncer = Syncer(self.options.durability, self._sync_failed) if self.options.durability.syncs else None
        self._log = structlog.get_logger()
        _journals.add(self)

    @property
    def stream(self) -> UUID:
        """The stream's id, as the cursor rows have it."""
        return self._folder.stream if self._folder is not None else self._stream

    @property
    def accepting(self) -> bool:
        """Whether the next record would be taken, as far as is known."""
        return self._open and (self.active is not None or self.space.admits(self.options.segment_bytes))

    @property
    def last_seq(self) -> int:
        """The number of the last record."""
        return self._seq

    @property
    def folder(self) -> Path | None:
        """Where the segments are; ``None`` in memory, or while it cannot be made."""
        return self._folder.path if self._folder is not None else None

    def open(self) -> None:
        """Begin. A disk that cannot be written to is not an error yet: it may be one when a record comes."""
        self._open = True
        self.tick()
        with suppress(JournalRefused):
            self._begin_segment()

    def append(self, kind: int, payload: bytes, rows: int, low: int = 0, high: int = 0, flags: int = 0) -> int:
        """Write one record of at most 8 MiB and return its number. Raises :class:`JournalRefused`."""
        if self._pressed and flags & SHEDDABLE and self.kinds[kind].policy is Policy.SHED:
            return self._shed(kind, rows)
        length = len(payload)
        if length > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a record of {length} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
        seq, table = self._seq + 1, self._tables[kind]
        tail = pack_tail(seq, kind, flags, rows, low, high)
        record = pack_head(RECORD_MAGIC, length, crc32(payload, crc32(tail))) + tail + payload
        size, segment = length + RECORD_HEADER_BYTES, self.active
        if segment is None or segment.end + size > segment.size:
            segment = self._room_for(kind, size, rows)
        try:
            if os.pwrite(segment.fd, record, segment.end) == size:
                segment.end += size
            else:
                segment.write(record)
        except OSError as error:
            segment = self._write_elsewhere(record, error, kind, rows)
        self._seq = segment.last_seq = seq
        segment.rows += rows
        table.received += rows  # type: ignore[union-attr]
        if self._syncer is not None:
            self._syncer.wrote(segment, seq, record)
        self._arrived(rows, size)
        return seq

    def append_together(self, kind: int, payloads: Sequence[bytes]) -> bool:
        """Write records of one row each at once, which costs little more than one of them; return whether that is done.

        Where it is not, none of them counts as written, and each may be tried by itself: there is no room for all of
        them in one place, the disk fails, or each is waited for until it is durable.
        """
        segment, seq, table = self.active, self._seq, self._tables[kind]
        if segment is None or self._syncer is not None or max(map(len, payloads), default=0) > MAX_PAYLOAD_BYTES:
            return False
        parts: list[bytes] = []
        for payload in payloads:
            seq += 1
            tail = pack_tail(seq, kind, 0, 1, 0, 0)
            parts += (pack_head(RECORD_MAGIC, len(payload), crc32(payload, crc32(tail))), tail, payload)
        data = b"".join(parts)
        size = len(data)
        if segment.end + size > segment.size:
            return False
        try:
            if os.pwrite(segment.fd, data, segment.end) != size:
                return False
        except OSError:
            return False
        segment.end += size
        self._seq = segment.last_seq = seq
        segment.rows += len(payloads)
        table.received += len(payloads)  # type: ignore[union-attr]
        self._arrived(len(payloads), size)
        return True

    async def synced(self, seq: int) -> None:
        """Return once record ``seq`` is as durable as the options say; at once where a write is enough.

        Raises :class:`JournalRefused` when the disk failed and the record could not be written elsewhere.
        """
        if self._syncer is not None:
            await self._syncer.wait(seq)

    def readable(self, first_seq: int) -> tuple[int, bool]:
        """Return up to where one of our segments may be applied, and whether that is all of it.

        What is not durable yet may still move to another segment. Raises ``KeyError`` for one that is gone.
        """
        active = self.active
        if active is not None and active.first_seq == first_seq:
            return (active.end if self._syncer is None else active.synced_end), False
        sealed = self.sealed[first_seq]
        pending = self._syncer.pending(first_seq) if self._syncer is not None else None
        return (sealed.end, True) if pending is None else (pending.synced_end, False)

    def _arrived(self, rows: int, size: int) -> None:
        self.unseen_rows += rows
        self._unseen_bytes += size
        if self.unseen_rows >= self._wake_rows or self._unseen_bytes >= self._wake_bytes:
            # Once is enough until the drain looks.
            self._wake_rows = self._wake_bytes = math.inf
            self.arrived.set()

    def seen(self) -> None:
        """The drain looks now: wake it for what comes after."""
        self.arrived.clear()
        self.unseen_rows = self._unseen_bytes = 0
        self._wake_rows, self._wake_bytes = self.options.wake_rows, self.options.wake_bytes

    def tick(self) -> None:
        """Do what time asks for: measure the disk, end an old segment, drop what is too old. Once a second or so."""
        self._measure()
        active, age = self.active, self.options.segment_seconds
        if active is not None and active.rows and time.monotonic() - active.began > age:
            self._seal()
        self._drop_expired()
        if self._syncer is not None:
            self._syncer.observe = self.counts.sync_seconds
            self._syncer.nudge()

    def discard(self, first_seq: int) -> bool:
        """Remove a sealed segment whose records are all applied; return whether its file is gone."""
        sealed = self.sealed.pop(first_seq, None)
        self.applied.pop(first_seq, None)
        self._spared.pop(first_seq, None)
        if sealed is None:
            return True
        self.space.grew(-sealed.end)
        return self._drop_file(sealed)

    def close(self) -> None:
        """Take no more records. What is not applied stays on disk for whoever comes next."""
        self._open = False
        self._seal()
        for number, sealed in list(self.sealed.items()):
            if self.applied.get(number, 0) >= sealed.last_seq:
                self.discard(number)
        for segment in self._held.values():
            segment.close()
        if self._folder is not None:
            for spare in self._folder.path.glob(f"{SPARE_FILE}*"):
                _remove(spare)
            self._folder.remove()

    def forget(self) -> None:
        """In a forked child: the files are the parent's."""
        self._open = False
        self.active = self._folder = None
        self.sealed = {}
        self._held = {}

    # Segments

    def _measure(self) -> None:
        if self.options.durability is Durability.MEMORY:
            held = self.active.end if self.active is not None else 0
            self._pressed = (
                self.space.holds(held + sum(sealed.end for sealed in self.sealed.values())) is not Pressure.OK
            )
            return
        with suppress(OSError):
            self.root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.mkdir(exist_ok=True, mode=0o700)
        self._pressed = self.space.refresh() is not Pressure.OK
        self.space.keep_ballast()

    def _drop_file(self, sealed: SealedSegment) -> bool:
        in_memory = self._held.pop(sealed.first_seq, None)
        if in_memory is None:
            return _remove(sealed.path)
        in_memory.close()
        return True

    def _begin_segment(self, *, least: int = 0, over_budget: bool = False) -> Segment:
        """Open the next segment. Raises :class:`JournalRefused` with the reason."""
        if not self._open:
            raise JournalClosed(f"the journal {self.name!r} is not open")
        size = max(self.options.segment_bytes, least + SEGMENT_HEADER_BYTES)
        if not over_budget and not self.space.admits(size):
            self._decline("over_budget")
        try:
            segment = self._create(size)
        except OSError as error:
            self.space.give_up_ballast()
            self._pressed = True
            self._decline("disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "disk_error")
        self.space.grew(size)
        self.active = segment
        if self.options.spare and self.options.durability is not Durability.MEMORY:
            self._reserve_spare()
        return segment

    def _create(self, size: int) -> Segment:
        first_seq, created = self._seq + 1, _now_us()
        if self.options.durability is Durability.MEMORY:
            return Segment.in_memory(self.stream, first_seq, size=size, created_us=created)
        if self._folder is not None and not self._folder.path.is_dir():
            # Somebody removed it, and what was in it; what comes now is kept all the same.
            self._log.error("journal_folder_gone", journal=self.name)
            self._folder.release()
            self._folder = None
        if self._folder is None:
            self._folder = StreamFolder.create(self.root)
        folder = self._folder
        try:
            segment = Segment.create(folder.path, folder.stream, first_seq, size=size, created_us=created)
        except OSError:
            spare = folder.path / SPARE_FILE
            if not self.options.spare or size > self.options.segment_bytes or not spare.exists():
                raise
            segment = Segment.reuse(spare, folder.path, folder.stream, first_seq, size=size, created_us=created)
        try:
            if self._syncer is not None:
                sync_folder(folder.path)
        except OSError:
            segment.close()
            _remove(segment.path)
            raise
        return segment

    def _reserve_spare(self) -> None:
        assert self._folder is not None
        with suppress(OSError):
            Segment.make_spare(self._folder.path / SPARE_FILE, self.options.segment_bytes)

    def _seal(self) -> None:
        """End the active segment; the next record begins another."""
        segment, self.active = self.active, None
        if segment is None:
            return
        segment.seal()
        self.space.grew(segment.end - segment.size)
        if segment.last_seq < segment.first_seq:
            _remove(segment.path)
            segment.close()
            return
        self.sealed[segment.first_seq] = _sealed(segment, segment.last_seq, segment.end)
        if self._syncer is not None:
            self._syncer.sealed(segment)
        elif self.options.durability is not Durability.MEMORY:
            segment.close()
        else:
            self._held[segment.first_seq] = segment

    # When there is no room

    def _room_for(self, kind: int, size: int, rows: int) -> Segment:
        """Return a segment that holds ``size`` more bytes, making room by the kind's policy."""
        if not self._open:
            raise JournalClosed(f"the journal {self.name!r} is not open, or belongs to the parent of this process")
        self._seal()
        while True:
            try:
                return self._begin_segment(least=size)
            except JournalRefused as refusal:
                if self.kinds[kind].policy is not Policy.DROP_OLDEST or not self._drop_oldest("drop_oldest"):
                    self.counts.of(self.kinds[kind].name).refuse(refusal.reason, rows)
                    raise

    def _write_elsewhere(self, record: bytes, error: OSError, kind: int, rows: int) -> Segment:
        """Write a record to a new segment after the active one failed: a bad sector must not end the journal."""
        self._log.warning("journal_write_failed", journal=self.name, reason=os.strerror(error.errno or 0))
        segment = self._room_for(kind, len(record), rows)
        try:
            segment.write(record)
        except OSError as again:
            self._seal()
            reason = "disk_full" if again.errno in (errno.ENOSPC, errno.EDQUOT) else "disk_error"
            self.counts.of(self.kinds[kind].name).refuse(reason, rows)
            self._decline(reason)
        return segment

    def _decline(self, reason: str) -> NoReturn:
        raise JournalRefused("The events cannot be kept right now: the disk or its share is full.", reason=reason)

    def _shed(self, kind: int, rows: int) -> int:
        counts = self.counts.of(self.kinds[kind].name)
        counts.received += rows
        counts.drop("shed", rows)
        return self._seq

    def _drop_expired(self) -> None:
        born_before = time.monotonic() - self.options.max_age_seconds
        while self._drop_oldest("age", also_shed=True, born_before=born_before):
            pass

    def _drop_oldest(self, reason: str, *, also_shed: bool = False, born_before: float = math.inf) -> bool:
        """Drop what may be dropped of the oldest segment that holds any, of those ``born_before``.

        Return whether anything went. A segment that is just being applied, or is not on the disk yet, stays.
        """
        examined = 0
        for number, sealed in list(self.sealed.items()):
            if sealed.began >= born_before or examined == MAX_EXAMINED:
                return False
            if number in self.draining or self._is_spared(number, also_shed) or not self.readable(number)[1]:
                continue
            examined += 1
            if self._thin(sealed, reason, also_shed=also_shed):
                return True
        return False

    def _is_spared(self, number: int, also_shed: bool) -> bool:
        found = self._spared.get(number)
        return found is not None and (found or not also_shed)

    def _thin(self, sealed: SealedSegment, reason: str, *, also_shed: bool) -> bool:
        """Drop what may be dropped of a segment; return whether that was anything."""
        applied = self.applied.get(sealed.first_seq, 0)
        try:
            waiting = [record for record in read_segment(sealed.path, sealed.end) if record.seq > applied]
            kept = [record for record in waiting if not self._may_drop(record, also_shed=also_shed)]
            self._spared[sealed.first_seq] = also_shed
            if len(kept) == len(waiting):
                return False
            if kept:
                self._keep_only(sealed, kept)
            else:
                self.discard(sealed.first_seq)
        except OSError as error:
            self._log.warning("journal_unreadable", journal=self.name, reason=type(error).__name__)
            return False
        dropped: dict[str, int] = {}
        for record in waiting:
            if self._may_drop(record, also_shed=also_shed):
                name = self.kinds[record.kind].name
                dropped[name] = dropped.get(name, 0) + record.rows
        for table, rows in dropped.items():
            self.counts.of(table).drop(reason, rows)
        self._measure()
        self._log.warning("journal_dropped", journal=self.name, policy=reason, **dropped)
        return True

    def _may_drop(self, record: Record, *, also_shed: bool) -> bool:
        kind = self.kinds.get(record.kind)
        return kind is not None and (kind.policy is Policy.DROP_OLDEST or (also_shed and kind.policy is Policy.SHED))

    def _keep_only(self, sealed: SealedSegment, records: list[Record]) -> None:
        """Leave only ``records`` in a segment, under their numbers. Raises ``OSError``: then nothing changed."""
        header = SegmentHeader(self.stream, sealed.first_seq, sealed.created_us)
        parts = [encode_record(record.seq, *_fields(record)) for record in records]
        data = b"".join([encode_segment_header(header), *parts])
        path = sealed.path
        held = self._held.get(sealed.first_seq)
        if held is None:
            replace_segment(path, data, sync=self._syncer is not None)
        else:
            thinned = Segment.in_memory(self.stream, sealed.first_seq, size=len(data), created_us=sealed.created_us)
            write_whole(thinned.fd, data, 0)
            self._held[sealed.first_seq] = thinned
            held.close()
            path = thinned.path
        self.sealed[sealed.first_seq] = sealed._replace(
            path=path,
            last_seq=records[-1].seq,
            end=len(data),
            rows=sum(record.rows for record in records),
            generation=sealed.generation + 1,
        )

    # When a sync failed

    def _sync_failed(self, records: list[tuple[int, bytes]], segments: list[Segment], hopeless: bool) -> None:
        """Write records whose sync failed to a new segment, and cut them off the old ones.

        Raises :class:`JournalRefused` when that fails too, or is ``hopeless``: then they are nowhere, and not counted
        as received.
        """
        self._log.error("journal_sync_failed", journal=self.name, records=len(records))
        for segment in segments:
            self._cut(segment)
        self._seal()
        try:
            if hopeless:
                self._decline("disk_error")
            active = self._write_again(records)
        except JournalRefused as refusal:
            for _, record in records:
                self._was_refused(record, refusal.reason)
            raise
        for seq, record in records:
            self._syncer.wrote(active, seq, record)  # type: ignore[union-attr]

    def _write_again(self, records: list[tuple[int, bytes]]) -> Segment:
        last, self._seq = self._seq, records[0][0] - 1
        try:
            active = self._begin_segment(least=sum(len(record) for _, record in records), over_budget=True)
        finally:
            self._seq = last
        try:
            for _, record in records:
                active.write(record)
        except OSError:
            self._seal()
            self._decline("disk_error")
        active.last_seq = records[-1][0]
        active.rows = sum(_parsed(record).rows for _, record in records)
        return active

    def _was_refused(self, record: bytes, reason: str) -> None:
        parsed = _parsed(record)
        counts = self.counts.of(self.kinds[parsed.kind].name)
        counts.received -= parsed.rows
        counts.refuse(reason, parsed.rows)

    def _cut(self, segment: Segment) -> None:
        """End ``segment`` where it is known to be on disk."""
        if segment is self.active:
            self.active = None
        with suppress(OSError):
            os.ftruncate(segment.fd, segment.synced_end)
        if segment.synced_seq < segment.first_seq:
            self.sealed.pop(segment.first_seq, None)
            _remove(segment.path)
        else:
            # In the place it had among the others, which are in order.
            self.sealed[segment.first_seq] = _sealed(segment, segment.synced_seq, segment.synced_end)
        with suppress(OSError):
            segment.close()


def _sealed(segment: Segment, last_seq: int, end: int) -> SealedSegment:
    return SealedSegment(
        segment.path, segment.first_seq, last_seq, end, segment.rows, segment.created_us, segment.began
    )


def _parsed(record: bytes) -> Record:
    return parse_records(record, 0, max_rows=1, max_bytes=1).records[0]


def _fields(record: Record) -> tuple[int, int, int, int, int, bytes]:
    return (record.kind, record.flags, record.rows, record.low, record.high, record.payload)


def _now_us() -> int:
    return time.time_ns() // 1000


def _remove(path: Path) -> bool:
    """Remove a file; return whether it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


# A forked child shares its parent's files and offsets: it must not write to them.
_journals: WeakSet[Journal] = WeakSet()


def _forget_all() -> None:
    for journal in _journals:
        journal.forget()


os.register_at_fork(after_in_child=_forget_all)
