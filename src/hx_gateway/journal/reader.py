"""Reads segments back: live ones up to where they are whole, dead ones to their end, around what is damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hx_gateway.journal.format import (
    SEGMENT_HEADER_BYTES,
    Record,
    SegmentHeader,
    decode_segment_header,
    find_record,
    is_cut_short,
    parse_records,
)

READ_BYTES = 4 * 1024 * 1024


class Damage(NamedTuple):
    """A range of a segment that holds no readable record.

    ``torn``: it is what an append that never ended leaves. ``next_seq`` is the number of the record behind it, where
    there is one.
    """

    offset: int
    data: bytes
    torn: bool
    next_seq: int | None = None


class Chunk(NamedTuple):
    """What one read gave: records, where to go on, whether the segment ends there, what was damaged on the way."""

    records: list[Record]
    next_offset: int
    ended: bool
    damages: list[Damage]


def read_header(path: Path) -> SegmentHeader | None:
    """Return a segment's header, ``None`` where it is damaged or the file is gone."""
    try:
        with path.open("rb") as file:
            return decode_segment_header(file.read(SEGMENT_HEADER_BYTES))
    except OSError:
        return None


def read_chunk(path: Path, offset: int, end: int | None, *, max_rows: int, max_bytes: int, final: bool) -> Chunk:
    """Read records of ``path`` from ``offset`` on, up to ``end`` (the file's).

    ``final`` says that nobody writes behind ``end`` any more: only then is what cannot be read damaged, else it may
    still be on its way. Raises ``OSError``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size if end is None else end
        data = _pread(fd, offset, min(READ_BYTES, size - offset))
        parsed = parse_records(data, 0, max_rows=max_rows, max_bytes=max_bytes)
        if not parsed.records and offset + len(data) < size and not parsed.damaged:
            # A record larger than a read.
            data = _pread(fd, offset, size - offset)
            parsed = parse_records(data, 0, max_rows=1, max_bytes=1)
        if parsed.records:
            at = offset + parsed.end
            return Chunk(parsed.records, at, at >= size, [])
        if not final:
            return Chunk([], offset, False, [])
        return _around(_pread(fd, offset, size - offset), offset, size)
    finally:
        os.close(fd)


def _around(data: bytes, offset: int, size: int) -> Chunk:
    """Step over what cannot be read: to the next whole record, or to the end."""
    found = find_record(data, 1) if data else None
    if found is not None:
        behind = parse_records(data, found, max_rows=1, max_bytes=1).records[0]
        return Chunk([], offset + found, False, [Damage(offset, data[:found], False, behind.seq)])
    rest = data.rstrip(b"\0")
    damages = [Damage(offset, rest, torn=is_cut_short(rest))] if rest else []
    return Chunk([], size, True, damages)


def read_segment(path: Path, end: int | None = None) -> Iterator[Record]:
    """Yield every readable record of a segment that nobody writes to. Raises ``OSError``."""
    offset, ended = SEGMENT_HEADER_BYTES, False
    while not ended:
        chunk = read_chunk(path, offset, end, max_rows=1 << 30, max_bytes=READ_BYTES, final=True)
        yield from chunk.records
        offset, ended = chunk.next_offset, chunk.ended


def _pread(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.pread(fd, size, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)
