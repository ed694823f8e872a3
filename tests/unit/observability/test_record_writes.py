"""Events over HTTP: what is kept, what is refused and why, and what costs no neighbour."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hx_gateway.errors import BodyTooLarge, Forbidden, HXError, InvalidRequest, Unavailable, UnsupportedMedia
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.observability.config import DatabaseConfig
from hx_gateway.observability.ingest import MAX_EVENTS
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.writes import MAX_BODY_BYTES
from tests.unit.observability.asking import ADMIN, WRITER, Asker, asker

GOOD: dict[str, Any] = {"trace_id": "t", "event_type": "step"}
JSON_LINES = {"content-type": "application/x-ndjson"}
DEEP = "[" * 70 + "]" * 70


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[Asker]:
    async with asker(tmp_path) as made:
        yield made


def good(**more: Any) -> dict[str, Any]:
    return {**GOOD, **more}


def as_text(event: object) -> str:
    """Return an event as JSON, or the text that it is already."""
    return event if isinstance(event, str) else json.dumps(event)


DECISION = {"table": "routing_decisions", "user_request": "q", "selected_agent": "a"}
METRIC = {"table": "performance_metrics", "metric_name": "m"}
TRANSFORMATION = {"table": "transformation_events", "transformation_type": "x"}


@pytest.mark.parametrize(
    ("event", "field"),
    [
        ({"event_type": "step"}, "trace_id"),
        ({"trace_id": "t"}, "event_type"),
        ({"trace_id": None, "event_type": "step"}, "trace_id"),
        (good(trace_id=""), "trace_id"),
        (good(trace_id=7), "trace_id"),
        (good(trace_id="x" * 257), "trace_id"),
        (good(trace_id=["t"]), "trace_id"),
        (good(message={"a": 1}), "message"),
        (good(message="x" * 70_000), "message"),
        (good(agent_name="a\0b"), "agent_name"),
        (good(agent_name=True), "agent_name"),
        ('{"trace_id": "\\ud800", "event_type": "step"}', "trace_id"),
        (good(level="LOUD"), "level"),
        (good(level=9), "level"),
        (good(level=["INFO"]), "level"),
        (good(duration_ms="1"), "duration_ms"),
        (good(duration_ms=-1), "duration_ms"),
        (good(duration_ms=True), "duration_ms"),
        ('{"trace_id": "t", "event_type": "step", "duration_ms": NaN}', "duration_ms"),
        ('{"trace_id": "t", "event_type": "step", "duration_ms": Infinity}', "duration_ms"),
        ('{"trace_id": "t", "event_type": "step", "duration_ms": 1e400}', "duration_ms"),
        ('{"trace_id": "t", "event_type": "step", "metadata": {"x": NaN}}', "metadata"),
        (good(metadata=[1]), "metadata"),
        (good(metadata="text"), "metadata"),
        (good(metadata={"x": "y" * 10_000_000}), "metadata"),
        (f'{{"trace_id": "t", "event_type": "step", "metadata": {{"x": {DEEP}}}}}', "metadata"),
        (good(timestamp="yesterday"), "timestamp"),
        (good(timestamp="2026-11-24T12:00:00"), "timestamp"),
        (good(timestamp=1732449600), "timestamp"),
        (good(timestamp={"$date": 1}), "timestamp"),
        (good(timestamp="1999-01-01T00:00:00Z"), "timestamp"),
        (good(timestamp="0001-01-01T00:00:00+14:00"), "timestamp"),
        (good(timestamp="2026-02-30T00:00:00Z"), "timestamp"),
        (good(event_id="7"), "event_id"),
        (good(event_id=7), "event_id"),
        (good(tenant_id="other"), "tenant_id"),
        (good(tenant_id=["acme"]), "tenant_id"),
        (good(colour="red"), "colour"),
        (good(self=1), "self"),
        (good(table="spans"), "table"),
        (good(table=["trace_events"]), "table"),
        (DECISION, "confidence_score"),
        ({**DECISION, "confidence_score": 1.5}, "confidence_score"),
        ({**DECISION, "confidence_score": "high"}, "confidence_score"),
        ({**DECISION, "confidence_score": 1, "alternatives": {"a": 1}}, "alternatives"),
        ({**DECISION, "confidence_score": 1, "latency_ms": "fast"}, "latency_ms"),
        ({**DECISION, "confidence_score": 1, "user_request": ""}, "user_request"),
        (METRIC, "metric_value"),
        ({**METRIC, "metric_value": "7"}, "metric_value"),
        ({**METRIC, "metric_value": 1, "metric_type": 3}, "metric_type"),
        ({**TRANSFORMATION, "success": "yes"}, "success"),
        ({**TRANSFORMATION, "input_bytes": -1}, "input_bytes"),
        ({**TRANSFORMATION, "output_bytes": 1.5}, "output_bytes"),
        ({"table": "transformation_events"}, "transformation_type"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
async def test_a_wrong_field_is_named_and_its_neighbours_are_kept(record: Asker, event: object, field: str) -> None:
    body = f"[{as_text(GOOD)}, {as_text(event)}, {as_text(good(message='last'))}]".encode()
    answer = await record.post(body)
    assert answer.status == 207
    said = answer.json()
    assert (said["accepted"], said["rejected"]) == (2, 1)
    statuses = [result["status"] for result in said["results"]]
    assert statuses == ["accepted", "rejected", "accepted"]
    refused = said["results"][1]
    assert (refused["index"], refused["field"], refused["code"]) == (1, field, "invalid_event")
    assert refused["message"]
    assert [row["message"] for row in record.kept()] == [None, "last"]


@pytest.mark.parametrize("event", ["null", "7", '"text"', "[]"])
async def test_what_is_no_object_costs_itself_only(record: Asker, event: str) -> None:
    answer = await record.post(f"[{event}, {as_text(GOOD)}]".encode())
    assert answer.status == 207
    assert answer.json()["results"][0]["message"].startswith("An event must be an object")
    assert len(record.kept()) == 1


async def test_text_that_people_read_is_repaired_and_kept(record: Asker) -> None:
    body = b'[{"trace_id": "t", "event_type": "step", "message": "a\\u0000b\\ud800", "metadata": {"k": "\\udc00"}}]'
    assert (await record.post(body)).status == 200
    (row,) = record.kept()
    assert row["message"] == "a\ufffdb\ufffd"
    assert row["metadata"] == {"k": "\ufffd"}


async def test_of_a_key_that_stands_twice_the_last_counts(record: Asker) -> None:
    body = b'{"trace_id": "first", "event_type": "step", "trace_id": "last", "tenant_id": "acme"}'
    assert (await record.post(body)).status == 200
    assert [row["trace_id"] for row in record.kept()] == ["last"]


async def test_a_second_tenant_in_one_event_is_not_believed(record: Asker) -> None:
    with pytest.raises(HXError) as caught:
        await record.post(b'{"trace_id": "t", "event_type": "step", "tenant_id": "acme", "tenant_id": "other"}')
    assert caught.value.param == "tenant_id"
    assert record.kept() == []


async def test_a_time_far_ahead_is_replaced_and_kept_in_the_metadata(record: Asker) -> None:
    assert (await record.post([good(timestamp="9999-12-31T23:59:59Z")])).status == 200
    (row,) = record.kept()
    assert row["ts_clamped"] is True
    assert row["metadata"] == {"original_timestamp": "9999-12-31T23:59:59+00:00"}


@pytest.mark.parametrize("zone", ["Z", "+05:30", "-00:00"])
async def test_times_are_read_with_their_zone(record: Asker, zone: str) -> None:
    moment = datetime.now(UTC).replace(tzinfo=None, microsecond=123456) - timedelta(hours=12)
    text = moment.isoformat() + zone
    assert (await record.post([good(timestamp=text)])).status == 200
    assert datetime.fromisoformat(record.kept()[0]["timestamp"]) == datetime.fromisoformat(text)


async def test_null_is_the_same_as_not_given(record: Asker) -> None:
    event = dict.fromkeys(("level", "metadata", "timestamp", "event_id", "tenant_id", "table", "message"), None)
    assert (await record.post([{**event, **GOOD}])).status == 200
    assert record.kept()[0]["level"] == 9


@pytest.mark.parametrize("shape", ["envelope", "list", "object", "lines"])
async def test_events_come_in_any_of_the_shapes(record: Asker, shape: str) -> None:
    bodies = {
        "envelope": {"events": [GOOD]},
        "list": [GOOD],
        "object": GOOD,
        "lines": b"\r\n\n" + json.dumps(GOOD).encode() + b"\r\n  \n",
    }
    answer = await record.post(bodies[shape], headers=JSON_LINES if shape == "lines" else {})
    assert answer.status == 200
    (result,) = answer.json()["results"]
    (row,) = record.kept()
    assert result == {"index": 0, "status": "accepted", "event_id": row["event_id"]}
    assert (row["tenant_id"], row["trace_id"]) == ("acme", "t")


async def test_all_tables_may_be_in_one_batch(record: Asker) -> None:
    events = [
        {**METRIC, "metric_value": 1},
        GOOD,
        {**DECISION, "confidence_score": 0.5},
        {**TRANSFORMATION, "success": False},
        {**METRIC, "metric_value": 2},
    ]
    answer = await record.post({"events": events})
    assert [result["index"] for result in answer.json()["results"]] == [0, 1, 2, 3, 4]
    ids = [result["event_id"] for result in answer.json()["results"]]
    assert [row["event_id"] for row in record.kept("performance_metrics")] == [ids[0], ids[4]]
    assert [row["event_id"] for row in record.kept("routing_decisions")] == [ids[2]]
    assert [row["event_id"] for row in record.kept("transformation_events")] == [ids[3]]


async def test_a_line_that_is_no_json_costs_itself_only(record: Asker) -> None:
    lines = [as_text(GOOD), "{oops", "", as_text(good(message="last")), "\xff"]
    answer = await record.post("\n".join(lines).encode("latin-1"), headers={"content-type": "application/jsonl"})
    assert answer.status == 207
    said = answer.json()["results"]
    assert [result["status"] for result in said] == ["accepted", "rejected", "accepted", "rejected"]
    assert [said[1]["code"], said[3]["code"]] == ["invalid_json", "invalid_utf8"]
    assert len(record.kept()) == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{oops", "invalid_json"),
        (b'[{"trace_id": "t"}', "invalid_json"),
        (b'["\xff"', "invalid_utf8"),
        (b"[" * 5000 + b"]" * 5000, "json_too_deep"),
        (b"7", "not_an_object"),
        (b'"x"', "not_an_object"),
        (b'{"events": 7}', "invalid_request"),
        (b'{"events": NaN}', "invalid_request"),
        (b'{"events": [], "tenant_id": "other"}', "invalid_request"),
    ],
)
async def test_a_body_that_is_no_batch_is_refused_whole(record: Asker, body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await record.post(body)
    assert caught.value.code == code


async def test_a_single_event_that_is_wrong_is_an_error_of_its_own(record: Asker) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await record.post(good(level="LOUD"))
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "level", "invalid_event")


async def test_no_events_are_all_kept(record: Asker) -> None:
    answer = await record.post({"events": []})
    assert (answer.status, answer.json()) == (200, {"accepted": 0, "rejected": 0, "results": []})


async def test_a_list_whose_events_are_all_wrong_still_answers_for_each(record: Asker) -> None:
    answer = await record.post([{}, {}])
    assert answer.status == 207
    assert [result["field"] for result in answer.json()["results"]] == ["trace_id", "trace_id"]


async def test_a_large_batch_is_answered_with_its_errors_only(record: Asker) -> None:
    events = [good(message=str(number)) for number in range(1200)]
    events[700] = {"trace_id": "t"}
    said = (await record.post(events)).json()
    assert (said["accepted"], said["rejected"]) == (1199, 1)
    assert [(result["index"], result["field"]) for result in said["results"]] == [(700, "event_type")]
    assert [row["message"] for row in record.kept()] == [str(n) for n in range(1200) if n != 700]
    assert len((await record.post(events, query="results=all")).json()["results"]) == 1200
    assert len((await record.post(events[690:710], query="results=errors")).json()["results"]) == 1


async def test_a_batch_over_the_limit_is_refused_whole(record: Asker) -> None:
    with pytest.raises(BodyTooLarge) as caught:
        await record.post([GOOD] * (MAX_EVENTS + 1))
    assert (caught.value.status, caught.value.code) == (413, "too_many_events")
    assert record.kept() == []


@pytest.mark.parametrize("body", [b"[" + b"1," * 3_000_000 + b"1]", b'{"metadata": [' + b"[]," * 3_000_000 + b"1]}"])
async def test_a_body_of_countless_values_is_not_read(record: Asker, body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await record.post(body)
    assert caught.value.code == "json_too_complex"


async def test_a_body_of_countless_lines_is_not_read(record: Asker) -> None:
    with pytest.raises(BodyTooLarge) as caught:
        await record.post(b"\n" * 3_000_000, headers=JSON_LINES)
    assert caught.value.code == "too_many_events"


async def test_a_compressed_body_is_read(record: Asker) -> None:
    answer = await record.post(gzip.compress(json.dumps([GOOD]).encode()), headers={"content-encoding": "gzip"})
    assert answer.status == 200
    assert len(record.kept()) == 1


async def test_a_body_that_grows_over_the_limit_is_refused(record: Asker) -> None:
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    assert len(bomb) < 100_000
    with pytest.raises(BodyTooLarge):
        await record.post(bomb, headers={"content-encoding": "gzip"})


@pytest.mark.parametrize(
    "headers", [{"content-encoding": "br"}, {"content-type": "text/csv"}, {"content-type": "multipart/form-data"}]
)
async def test_another_encoding_or_type_is_refused(record: Asker, headers: dict[str, str]) -> None:
    with pytest.raises(UnsupportedMedia):
        await record.post([GOOD], headers=headers)


async def test_only_an_admin_may_write_for_another_tenant(record: Asker) -> None:
    assert (await record.post([GOOD], query="tenant_id=other", principal=ADMIN)).status == 200
    assert (await record.post([GOOD], query="tenant_id=acme", principal=WRITER)).status == 200
    with pytest.raises(Forbidden):
        await record.post([GOOD], query="tenant_id=other", principal=WRITER)
    assert [row["tenant_id"] for row in record.kept()] == ["other", "acme"]


@pytest.mark.parametrize("query", ["colour=red", "results=some", "results=all&results=all", "tenant_id=%FF"])
async def test_a_wrong_parameter_is_refused(record: Asker, query: str) -> None:
    with pytest.raises(InvalidRequest):
        await record.post([GOOD], query=query)


async def test_a_full_journal_is_503_when_nothing_was_kept(tmp_path: Path) -> None:
    async with asker(tmp_path, journal_max_bytes=1) as record:
        with pytest.raises(JournalRefused) as caught:
            await record.post([{**DECISION, "confidence_score": 1}, {}])
    assert (caught.value.status, caught.value.code) == (503, "journal_full")
    assert caught.value.headers["retry-after"] == "2"


async def test_a_journal_that_fills_up_on_the_way_is_told_event_by_event(tmp_path: Path) -> None:
    one = {**DECISION, "confidence_score": 1, "reasoning": "x" * 60_000}
    config = {"segment_bytes": 1_000_000, "journal_max_bytes": 8_000_000, "journal_min_free_bytes": 0}
    async with asker(tmp_path, journal_ballast_bytes=0, **config) as record:
        said = (await record.post([one] * 300, query="results=all")).json()
        assert said["accepted"] > 0
        codes = {result.get("code") for result in said["results"]}
        assert codes == {None, "journal_full"}
        assert len(record.kept("routing_decisions")) == said["accepted"]


async def test_without_a_record_nothing_is_taken(tmp_path: Path) -> None:
    layer = DatabaseIntegrationLayer(DatabaseConfig(url="none", journal_dir=tmp_path))
    with pytest.raises(Unavailable, match="no record"):
        await Asker(layer).post([GOOD])
