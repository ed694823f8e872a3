"""What there is to drain: the segments of our own stream and of streams whose writers are gone."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from hx_gateway.journal.format import SEGMENT_HEADER_BYTES
from hx_gateway.journal.log import Journal, SealedSegment
from hx_gateway.journal.reader import Chunk, read_chunk
from hx_gateway.journal.segment import segment_name
from hx_gateway.journal.streams import StreamFolder, stream_folders


@dataclass(slots=True)
class Reading:
    """How far a segment is applied. ``known`` is false while only the database can tell."""

    stream: UUID
    first_seq: int
    path: Path
    own: bool
    offset: int = SEGMENT_HEADER_BYTES
    applied_seq: int = 0
    known: bool = True
    # Rows of a batch that was not too much for the time it has; None: as many as the options say.
    most_rows: int | None = None
    # The last record whose rows were counted: after a failure some are read again.
    counted_seq: int = 0
    # The last record that was read, applied or not.
    read_seq: int = 0
    # The journal's, of when ``offset`` was true.
    generation: int = 0
    # Why it waits for a person, and until when it is left alone (monotonic seconds).
    paused: str | None = None
    resting_until: float = 0.0

    def was_too_much(self, records: int) -> None:
        """Note a batch that ran out of time: half of it may be done in time by a slow database."""
        self.most_rows = max(1, records // 2)

    def took_it(self, usual_rows: int) -> None:
        """Note a batch that was applied: after one that was made smaller, they grow again."""
        if self.most_rows is not None:
            self.most_rows = 2 * self.most_rows if 2 * self.most_rows < usual_rows else None

    @property
    def key(self) -> tuple[UUID, int]:
        """What tells it from others."""
        return self.stream, self.first_seq


class Backlog:
    """All readings, oldest first. ``ordered`` keeps to the order of each stream: one segment at a time."""

    def __init__(self, journal: Journal, *, ordered: bool) -> None:
        self._journal = journal
        self._ordered = ordered
        self._own: dict[int, Reading] = {}
        self._adopted: dict[Path, tuple[StreamFolder, dict[int, Reading]]] = {}
        self._busy: set[tuple[UUID, int]] = set()
        self._finished: dict[UUID, list[int]] = {}
        self.due = False

    def adopt(self) -> list[Path]:
        """Take over streams whose writers are gone; return their folders."""
        own, new = self._journal.folder, []
        for path in stream_folders(self._journal.root):
            if path == own or path in self._adopted:
                continue
            folder = StreamFolder.adopt(path)
            if folder is None:
                continue
            readings = {
                number: Reading(
                    folder.stream,
                    number,
                    path / segment_name(number),
                    own=False,
                    applied_seq=number - 1,
                    known=False,
                    read_seq=number - 1,
                )
                for number in folder.segments()
            }
            self._adopted[path] = (folder, readings)
            if readings:
                new.append(path)
            self._leave_empty(path)
        return new

    def claim(self) -> Reading | None:
        """Return the next segment to work on, which nobody else gets until :meth:`release`."""
        now = time.monotonic()
        held_up: set[UUID] = set()
        for reading in self._candidates():
            if reading.stream in held_up:
                continue
            if reading.key not in self._busy and reading.resting_until <= now:
                self._busy.add(reading.key)
                if reading.own:
                    self._journal.draining.add(reading.first_seq)
                return reading
            if self._ordered:
                held_up.add(reading.stream)
        return None

    def release(self, reading: Reading) -> None:
        """Give a segment back."""
        self._busy.discard(reading.key)
        if reading.own:
            self._journal.draining.discard(reading.first_seq)

    def _candidates(self) -> list[Reading]:
        found = [reading for _, readings in self._adopted.values() for reading in readings.values()]
        for number in [number for number in self._own if number not in self._journal.sealed]:
            if self._journal.active is None or self._journal.active.first_seq != number:
                del self._own[number]
        found += [reading for sealed in self._journal.sealed.values() if self._is_worth(reading := self._of(sealed))]
        active = self._journal.active
        if self.due and active is not None:
            found.append(self._reading_of(active.first_seq, active.path))
        return found

    def _of(self, sealed: SealedSegment) -> Reading:
        reading = self._reading_of(sealed.first_seq, sealed.path)
        if reading.generation != sealed.generation:
            reading.generation, reading.path, reading.offset = sealed.generation, sealed.path, SEGMENT_HEADER_BYTES
        return reading

    def _is_worth(self, reading: Reading) -> bool:
        """Return whether there is something to do: not while what was applied is all that is on the disk."""
        end, whole = self._journal.readable(reading.first_seq)
        return whole or reading.offset < end

    def _reading_of(self, number: int, path: Path) -> Reading:
        reading = self._own.get(number)
        if reading is None:
            stream = self._journal.stream
            before = number - 1
            reading = Reading(stream, number, path, own=True, applied_seq=before, counted_seq=before, read_seq=before)
            self._own[number] = reading
        return reading

    async def read(self, reading: Reading, *, max_rows: int, max_bytes: int) -> Chunk:
        """Return the next records. Raises ``OSError`` for a file that is gone or cannot be read."""
        end, whole = self._journal.readable(reading.first_seq) if reading.own else (None, True)
        if end is not None and not whole and reading.offset >= end:
            return Chunk([], reading.offset, False, [])
        chunk = await asyncio.to_thread(
            read_chunk, reading.path, reading.offset, end, max_rows=max_rows, max_bytes=max_bytes, final=True
        )
        return chunk if whole else chunk._replace(ended=False)

    def finish(self, reading: Reading) -> None:
        """Remove a segment whose records are all applied. Its cursor goes with the stream's next batch.

        A file that cannot be removed keeps its cursor: whoever adopts it has to know that it is applied.
        """
        if reading.own:
            self._own.pop(reading.first_seq, None)
            gone = self._journal.discard(reading.first_seq)
        else:
            gone = _unlink(reading.path)
            for path, (_, readings) in list(self._adopted.items()):
                if readings.get(reading.first_seq) is reading:
                    del readings[reading.first_seq]
                    self._leave_empty(path)
        if gone:
            self._finished.setdefault(reading.stream, []).append(reading.first_seq)

    def pause_reason(self) -> str | None:
        """Return why a segment waits for a person, ``None`` if none does."""
        adopted = [reading for _, readings in self._adopted.values() for reading in readings.values()]
        return next((reading.paused for reading in (*adopted, *self._own.values()) if reading.paused), None)

    def _leave_empty(self, path: Path) -> None:
        folder, readings = self._adopted[path]
        if not readings:
            folder.remove()
            del self._adopted[path]

    def finished(self, stream: UUID) -> list[int]:
        """Return the segments of ``stream`` whose cursors are not needed any more."""
        return list(self._finished.get(stream, ()))

    def all_finished(self) -> dict[UUID, list[int]]:
        """Return them for all streams."""
        return {stream: list(numbers) for stream, numbers in self._finished.items() if numbers}

    def forgotten(self, stream: UUID, numbers: list[int]) -> None:
        """Note that those cursors are gone."""
        left = [number for number in self._finished.get(stream, ()) if number not in numbers]
        if left:
            self._finished[stream] = left
        else:
            self._finished.pop(stream, None)

    def applied_up_to(self, seq: int) -> bool:
        """Return whether all of our own records up to ``seq`` are applied."""
        if any(number <= seq for number in self._journal.sealed):
            return False
        active = self._journal.active
        if active is None or active.first_seq > seq:
            return True
        reading = self._own.get(active.first_seq)
        return reading is not None and reading.applied_seq >= seq

    @property
    def idle(self) -> bool:
        """Whether nothing is left to drain, a due active segment included."""
        return not self._adopted and self.applied_up_to(self._journal.last_seq)

    def close(self) -> None:
        """Let others adopt what was not finished."""
        for folder, _ in self._adopted.values():
            folder.release()
        self._adopted.clear()


def _unlink(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True
