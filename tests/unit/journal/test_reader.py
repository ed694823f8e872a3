"""Whatever happened to a segment, reading it raises nothing and finds every other record."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from hx_gateway.journal import reader
from hx_gateway.journal.format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Record,
    SegmentHeader,
    encode_record,
    encode_segment_header,
)
from hx_gateway.journal.reader import Damage, read_chunk, read_header, read_segment

COUNT = 5
HEADER = encode_segment_header(SegmentHeader(uuid4(), 1, 0))
RECORDS = [encode_record(seq, 1, 0, 1, 0, 0, bytes([64 + seq]) * 20) for seq in range(1, COUNT + 1)]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read_all(path: Path) -> tuple[list[Record], list[Damage]]:
    """Read as the drain does, of a segment nobody writes to."""
    records: list[Record] = []
    damages: list[Damage] = []
    offset, ended, turns = SEGMENT_HEADER_BYTES, False, 0
    while not ended:
        chunk = read_chunk(path, offset, None, max_rows=2, max_bytes=2**40, final=True)
        records += chunk.records
        damages += chunk.damages
        assert chunk.ended or chunk.next_offset > offset
        offset, ended, turns = chunk.next_offset, chunk.ended, turns + 1
        assert turns < 100
    return records, damages


@pytest.mark.parametrize("behind", [b"", bytes(5000)], ids=["sealed", "with reserved space"])
def test_any_byte_flipped_costs_one_record_and_is_noticed(tmp_path: Path, behind: bytes) -> None:
    whole = HEADER + b"".join(RECORDS)
    for at in range(len(whole)):
        data = bytearray(whole + behind)
        data[at] ^= 0xFF
        records, damages = read_all(written(tmp_path / "segment", bytes(data)))
        hit = (at - SEGMENT_HEADER_BYTES) // len(RECORDS[0]) + 1
        expected = [seq for seq in range(1, COUNT + 1) if at < SEGMENT_HEADER_BYTES or seq != hit]
        assert [record.seq for record in records] == expected, at
        assert len(damages) == (at >= SEGMENT_HEADER_BYTES), at
        if hit < COUNT and damages:
            assert damages[0].next_seq == hit + 1
            assert not damages[0].torn


def test_bytes_flipped_in_the_last_record_are_damage_and_not_a_torn_tail(tmp_path: Path) -> None:
    whole = HEADER + b"".join(RECORDS)
    data = bytearray(whole)
    data[-1] ^= 1
    _, damages = read_all(written(tmp_path / "segment", bytes(data)))
    assert [damage.torn for damage in damages] == [False]
    assert damages[0].data == bytes(data[-len(RECORDS[0]) :])


@pytest.mark.parametrize("behind", [b"", bytes(5000)], ids=["cut", "with reserved space"])
def test_a_tail_torn_at_any_byte_costs_only_itself(tmp_path: Path, behind: bytes) -> None:
    before = HEADER + b"".join(RECORDS[:-1])
    for cut in range(len(RECORDS[-1])):
        records, damages = read_all(written(tmp_path / "segment", before + RECORDS[-1][:cut] + behind))
        assert [record.seq for record in records] == list(range(1, COUNT))
        assert [damage.torn for damage in damages] == [True] * (cut > 0)


def test_a_file_cut_anywhere_gives_the_whole_records_before(tmp_path: Path) -> None:
    whole = HEADER + b"".join(RECORDS)
    for cut in range(len(whole)):
        records, _ = read_all(written(tmp_path / "segment", whole[:cut]))
        assert len(records) == max(0, cut - SEGMENT_HEADER_BYTES) // len(RECORDS[0])


def test_a_page_of_zeros_in_the_middle_does_not_end_a_segment(tmp_path: Path) -> None:
    data = HEADER + RECORDS[0] + bytes(4096) + RECORDS[2]
    records, damages = read_all(written(tmp_path / "segment", data))
    assert [record.seq for record in records] == [1, 3]
    assert [(damage.next_seq, len(damage.data)) for damage in damages] == [(3, 4096)]


def test_two_damaged_ranges_are_two(tmp_path: Path) -> None:
    garbage = b"\xa5" * 100
    data = HEADER + garbage + RECORDS[0] + RECORDS[1] + garbage + RECORDS[3]
    records, damages = read_all(written(tmp_path / "segment", data))
    assert [record.seq for record in records] == [1, 2, 4]
    assert [damage.data for damage in damages] == [garbage, garbage]


def test_a_record_larger_than_a_read_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "READ_BYTES", 50)
    large = encode_record(2, 1, 0, 1, 0, 0, bytes(1000))
    path = written(tmp_path / "segment", HEADER + RECORDS[0] + large + RECORDS[2])
    assert [record.seq for record in read_all(path)[0]] == [1, 2, 3]


def test_what_is_still_being_written_is_no_damage_and_not_the_end(tmp_path: Path) -> None:
    path = written(tmp_path / "segment", HEADER + RECORDS[0] + RECORDS[1][:10] + bytes(100))
    offset = SEGMENT_HEADER_BYTES + len(RECORDS[0])
    chunk = read_chunk(path, offset, None, max_rows=10, max_bytes=10**6, final=False)
    assert (chunk.records, chunk.next_offset, chunk.ended, chunk.damages) == ([], offset, False, [])


def test_nothing_is_read_behind_the_given_end(tmp_path: Path) -> None:
    path = written(tmp_path / "segment", HEADER + b"".join(RECORDS))
    end = SEGMENT_HEADER_BYTES + 2 * len(RECORDS[0])
    assert [record.seq for record in read_segment(path, end)] == [1, 2]
    assert read_chunk(path, end, end, max_rows=9, max_bytes=9, final=True).ended


@pytest.mark.parametrize("data", [b"", b"x", bytes(64), b"\xff" * 5000], ids=["empty", "short", "zeros", "garbage"])
def test_a_file_of_anything_has_no_records(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "segment", data)
    assert read_all(path)[0] == []
    assert read_header(path) is None


def test_a_header_tells_whose_segment_it_is(tmp_path: Path) -> None:
    header = read_header(written(tmp_path / "segment", HEADER))
    assert header is not None
    assert header.first_seq == 1
    assert read_header(tmp_path / "missing") is None


def test_a_payload_that_looks_like_a_record_is_not_read_as_one(tmp_path: Path) -> None:
    inner = encode_record(999, 1, 0, 1, 0, 0, b"inner")
    outer = encode_record(1, 1, 0, 1, 0, 0, inner)
    records, _ = read_all(written(tmp_path / "segment", HEADER + outer))
    assert [record.seq for record in records] == [1]
    assert len(outer) == RECORD_HEADER_BYTES + len(inner)
