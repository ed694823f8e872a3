"""Calls' records as they stand on disk."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import pytest

from hx_gateway.limits.records import (
    CallFacts,
    CallRecord,
    Done,
    Refused,
    Sent,
    call_id_of,
    decode,
    decode_batch,
    encode,
)

CALL, STREAM = "0195d3a0-4f5e-7a61-8c2b-9e1f0a7b3c5d", "6f9d2c44-1b7e-4a0d-9a35-2e8c7d1f6b90"
FACTS = CallFacts(
    CALL, STREAM, "req-1", "acme", "key", "tm-1", None, "chat", "alias", "gpt", True, 5, 100, ("bg-1:total",), ("tag",)
)
RECORDS: list[CallRecord] = [
    Sent(FACTS, "deployment", "openai"),
    Done(FACTS, 200, "complete", 40, decision=b'{"upstreams": ["a", "b"]}'),
    Refused(CALL, "req-1", "acme", "key", None, None, "chat", "alias", None, 429, "insufficient_quota", "No.", 5),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(record: CallRecord) -> None:
    assert decode(encode(record)) == record
    assert call_id_of(record) == CALL


@pytest.mark.parametrize(
    ("record", "tag", "fields"),
    list(zip(RECORDS, (2, 3, 4), (4, 20, 17), strict=True)),
    ids=lambda value: str(value)[:8],
)
def test_the_format_on_disk_only_grows(record: CallRecord, tag: int, fields: int) -> None:
    array = msgspec.msgpack.decode(encode(record))
    assert array[0] == tag
    assert len(array) >= fields


def test_a_record_of_an_older_version_gets_the_defaults_of_fields_that_came_later() -> None:
    array = msgspec.msgpack.decode(encode(RECORDS[1]))
    older = decode(msgspec.msgpack.encode(array[:5]))
    assert isinstance(older, Done)
    assert (older.cost_nano, older.settled_by, older.decision) == (40, "done", b"{}")


def test_a_record_of_a_newer_version_is_read_without_what_is_not_known_yet() -> None:
    array = msgspec.msgpack.decode(encode(RECORDS[0]))
    assert decode(msgspec.msgpack.encode([*array, "later"])) == RECORDS[0]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([9, CALL]),
        msgspec.msgpack.encode([2, CALL]),
        encode(Sent(msgspec.structs.replace(FACTS, call_id="no id"))),
        encode(Sent(msgspec.structs.replace(FACTS, call_id=CALL.replace("-", "")))),
        encode(Sent(msgspec.structs.replace(FACTS, stream_id="no id"))),
    ],
)
def test_bytes_that_are_no_record_raise_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(payload)


def test_of_a_call_that_ends_in_a_batch_its_end_is_read() -> None:
    another = Sent(msgspec.structs.replace(FACTS, call_id=str(uuid4())))
    assert decode_batch([encode(record) for record in (RECORDS[0], another, RECORDS[1])]) == [another, RECORDS[1]]


def test_a_retired_record_of_an_older_version_is_passed_over() -> None:
    intent = msgspec.msgpack.encode([1, CALL, STREAM, "acme", 100, ["bg-1:total"], 5])
    assert decode_batch([intent, encode(RECORDS[0])]) == [RECORDS[0]]
