"""What is written can be read back, and nothing else is taken for a record."""

from __future__ import annotations

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.journal.format import (
    MAX_PAYLOAD_BYTES,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC_BYTES,
    SEGMENT_HEADER_BYTES,
    Record,
    SegmentHeader,
    decode_segment_header,
    encode_record,
    encode_segment_header,
    find_record,
    is_cut_short,
    parse_records,
)

TIMES = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.builds(
    Record,
    seq=st.integers(0, 2**64 - 1),
    kind=st.integers(0, 2**16 - 1),
    flags=st.integers(0, 2**16 - 1),
    rows=st.integers(0, 2**32 - 1),
    low=TIMES,
    high=TIMES,
    payload=st.binary(max_size=200),
)
ALL = {"max_rows": 2**62, "max_bytes": 2**62}


def encoded(record: Record) -> bytes:
    return encode_record(record.seq, record.kind, record.flags, record.rows, record.low, record.high, record.payload)


@given(st.lists(RECORDS, max_size=8))
def test_records_are_read_back_as_they_were(records: list[Record]) -> None:
    data = b"".join(map(encoded, records))
    parsed = parse_records(data, 0, **ALL)
    assert parsed.records == records
    assert (parsed.end, parsed.damaged) == (len(data), False)


@given(st.uuids(), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_header_is_read_back_as_it_was(stream: UUID, first_seq: int, created_us: int) -> None:
    header = SegmentHeader(stream, first_seq, created_us)
    data = encode_segment_header(header)
    assert len(data) == SEGMENT_HEADER_BYTES
    assert decode_segment_header(data) == header
    assert decode_segment_header(data[:-1]) is None


def test_a_header_with_any_byte_changed_is_none() -> None:
    data = encode_segment_header(SegmentHeader(uuid4(), 7, 8))
    for at in range(len(data)):
        assert decode_segment_header(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]) is None, at


@given(RECORDS, st.data())
def test_a_record_with_any_byte_changed_is_none(record: Record, data: st.DataObject) -> None:
    whole = encoded(record)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    parsed = parse_records(changed, 0, **ALL)
    assert parsed.records == []
    assert parsed.end == 0


def test_reading_stops_at_the_rows_or_bytes_that_were_asked_for() -> None:
    data = b"".join(encode_record(seq, 1, 0, 10, 0, 0, bytes(100)) for seq in range(10))
    assert len(parse_records(data, 0, max_rows=25, max_bytes=10**6).records) == 3
    assert len(parse_records(data, 0, max_rows=10**6, max_bytes=101).records) == 2
    assert len(parse_records(data, 0, max_rows=1, max_bytes=1).records) == 1


def test_zeros_and_an_incomplete_record_are_no_damage() -> None:
    whole = encode_record(1, 1, 0, 1, 0, 0, b"payload")
    assert not parse_records(bytes(200), 0, **ALL).damaged
    for cut in range(len(whole)):
        parsed = parse_records(whole[:cut], 0, **ALL)
        assert parsed.records == []
        assert not parsed.damaged


def test_a_length_over_the_limit_is_damage() -> None:
    head = bytearray(encode_record(1, 1, 0, 1, 0, 0, b""))
    head[4:8] = (MAX_PAYLOAD_BYTES + 1).to_bytes(4, "little")
    assert parse_records(bytes(head), 0, **ALL).damaged


@given(st.binary(max_size=300), RECORDS)
def test_a_record_is_found_behind_whatever_is_before_it(before: bytes, record: Record) -> None:
    data = before + encoded(record)
    found = find_record(data, 0)
    assert found is not None
    assert found <= len(before)
    assert find_record(RECORD_MAGIC_BYTES * 3 + encoded(record), 0) == 12


def test_only_the_beginning_of_a_record_is_cut_short() -> None:
    whole = encode_record(1, 1, 0, 1, 0, 0, b"payload")
    assert all(is_cut_short(whole[:cut]) for cut in range(1, len(whole)))
    assert not is_cut_short(whole)
    assert not is_cut_short(b"\1" + whole[1:])
    assert not is_cut_short(RECORD_MAGIC_BYTES + b"\xff" * RECORD_HEADER_BYTES)
