"""How a journal looks on disk: segments of records, each with a checksum of its own.

A segment is a header of 64 bytes and records behind it; zeros, or the end of the file, end it. Integers are
little-endian. A record is found again behind a damaged range by its magic number and checksum, and a gap in the
sequence numbers tells how many records were lost. Nothing beside the segments is ever believed: all state is what
reading them gives.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

import msgspec

SEGMENT_MAGIC = b"HXJRNL\x00\x01"
SEGMENT_HEADER_BYTES = 64
RECORD_MAGIC = 0xA7D10E5B
RECORD_MAGIC_BYTES = struct.pack("<I", RECORD_MAGIC)
RECORD_HEADER_BYTES = 44
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024

# May be dropped under pressure; see ``Policy.SHED``.
SHEDDABLE = 1

_SEGMENT = struct.Struct("<8s16sQQ20xI")
_HEAD = struct.Struct("<III")
_TAIL = struct.Struct("<QHHIqq")
_RECORD = struct.Struct("<IIIQHHIqq")
_CRC_FROM = _HEAD.size

pack_head = _HEAD.pack
pack_tail = _TAIL.pack


class SegmentHeader(NamedTuple):
    """Whose segment it is, the number of its first record, and when it was made (microseconds since 1970)."""

    stream: UUID
    first_seq: int
    created_us: int


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record. ``low`` and ``high`` bound the times of its rows, in the unit of its kind; 0 where it has none."""

    seq: int
    kind: int
    flags: int
    rows: int
    low: int
    high: int
    payload: bytes


class Parsed(NamedTuple):
    """Records of a buffer, and where they end: there is none at ``end``, because it is incomplete or damaged."""

    records: list[Record]
    end: int
    damaged: bool


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the 64 bytes."""
    draft = _SEGMENT.pack(SEGMENT_MAGIC, header.stream.bytes, header.first_seq, header.created_us, 0)
    return draft[:-4] + struct.pack("<I", crc32(draft[:-4]))


def decode_segment_header(data: bytes) -> SegmentHeader | None:
    """Return the header, ``None`` where the bytes are not one."""
    if len(data) < SEGMENT_HEADER_BYTES:
        return None
    magic, stream, first_seq, created_us, checksum = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC or checksum != crc32(data[: SEGMENT_HEADER_BYTES - 4]):
        return None
    return SegmentHeader(UUID(bytes=stream), first_seq, created_us)


def encode_record(seq: int, kind: int, flags: int, rows: int, low: int, high: int, payload: bytes) -> bytes:
    """Return a record's bytes."""
    tail = pack_tail(seq, kind, flags, rows, low, high)
    return pack_head(RECORD_MAGIC, len(payload), crc32(payload, crc32(tail))) + tail + payload


def parse_records(data: bytes, at: int, *, max_rows: int, max_bytes: int) -> Parsed:
    """Return the records that begin at ``at``, until ``max_rows`` or ``max_bytes`` of payload are reached.

    At least one is returned if there is one, whatever its size.
    """
    records: list[Record] = []
    size, rows, taken = len(data), 0, 0
    unpack, header = _RECORD.unpack_from, RECORD_HEADER_BYTES
    while at + header <= size and rows < max_rows and taken < max_bytes:
        magic, length, checksum, seq, kind, flags, count, low, high = unpack(data, at)
        if magic != RECORD_MAGIC or length > MAX_PAYLOAD_BYTES:
            return Parsed(records, at, damaged=magic != 0 or length != 0)
        end = at + header + length
        if end > size:
            return Parsed(records, at, damaged=False)
        payload = data[at + header : end]
        if crc32(payload, crc32(data[at + _CRC_FROM : at + header])) != checksum:
            return Parsed(records, at, damaged=True)
        records.append(Record(seq, kind, flags, count, low, high, payload))
        rows += count
        taken += length
        at = end
    return Parsed(records, at, damaged=False)


def is_cut_short(data: bytes) -> bool:
    """Return whether ``data`` is how a record begins, and not all of it: what a writer that was killed leaves."""
    if not data.startswith(RECORD_MAGIC_BYTES[: len(data)]):
        return False
    if len(data) < RECORD_HEADER_BYTES:
        return True
    _, length, _ = _HEAD.unpack_from(data)
    return bool(length <= MAX_PAYLOAD_BYTES and len(data) < RECORD_HEADER_BYTES + length)


def find_record(data: bytes, at: int) -> int | None:
    """Return where the next whole record begins at or behind ``at``."""
    while (at := data.find(RECORD_MAGIC_BYTES, at)) >= 0:
        if parse_records(data, at, max_rows=1, max_bytes=1).records:
            return at
        at += 1
    return None
