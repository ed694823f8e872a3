"""What becomes of a model request's record when it is drained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from hx_gateway.events import Ending, RequestFinished
from hx_gateway.journal.format import Record
from hx_gateway.observability.request_facts import decode_facts, encode_facts, level_of
from hx_gateway.observability.request_rows import RequestRows
from tests.unit.observability.requests_made import ENDED, REFUSED, finished, record_of, shown


def rows_of(event: RequestFinished) -> dict[str, list[dict[str, Any]]]:
    return shown(RequestRows()(record_of(event)))


def test_a_request_is_a_trace_and_a_decision() -> None:
    tables = rows_of(ENDED)
    assert tables.keys() == {"trace_events", "routing_decisions"}
    (trace,) = tables["trace_events"]
    began = datetime(2026, 11, 24, 12, tzinfo=UTC) - timedelta(seconds=0.5)
    assert (trace["timestamp"], trace["received_at"]) == (began.isoformat(), began.isoformat())
    assert (trace["trace_id"], trace["tenant_id"], trace["event_type"]) == ("req_1", "acme", "REQUEST")
    assert (trace["level"], trace["duration_ms"], trace["agent_name"], trace["message"]) == (9, 500.0, None, None)
    assert len(trace["span_id"]) == 16
    assert trace["metadata"] == {
        "component": "gateway",
        "route": "chat_completions",
        "method": "POST",
        "status": 200,
        "ending": "complete",
        "attempts": 1,
        "stream": False,
        "bytes_sent": 120,
        "model": "gpt-5",
        "operation": "chat",
        "upstream": "gpt-5",
        "provider": "openai",
        "key_id": "k1",
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "upstream_ms": 375.0,
    }


def test_a_decision_names_the_chosen_and_the_others() -> None:
    (decision,) = rows_of(finished(upstream="a#1", alternatives=("a#2", "a#3"), model="a"))["routing_decisions"]
    assert (decision["user_request"], decision["selected_agent"]) == ("chat a", "a#1")
    assert decision["alternatives"] == ["a#2", "a#3"]
    assert (decision["confidence_score"], decision["routing_strategy"]) == (1.0, "first_listed")
    assert (decision["latency_ms"], decision["trace_id"], decision["tenant_id"]) == (250.0, "req_1", "acme")


def test_the_same_record_gives_the_same_rows_whenever_and_by_whom() -> None:
    event = finished(requested_model="alias", translation="embedding_input_to_prompt")
    maker = RequestRows()
    maker(record_of(finished(request_id="another", ended_ns=1)))
    first = maker(record_of(event))
    assert len(first) == 4
    assert maker(record_of(event)) == first
    assert RequestRows()(record_of(event)) == first


def test_rows_stand_at_the_beginning_of_the_request_and_the_decision_at_its_own_time() -> None:
    tables = rows_of(finished(requested_model="alias"))
    seconds = {table: rows[0]["timestamp"][17:] for table, rows in tables.items()}
    assert seconds == {
        "trace_events": "59.500000+00:00",
        "routing_decisions": "59.750000+00:00",
        "transformation_events": "59.500000+00:00",
    }


def test_rows_do_not_depend_on_how_old_they_are() -> None:
    old = finished(ended_ns=ENDED.ended_ns - 400 * 86400 * 10**9)
    (trace,) = rows_of(old)["trace_events"]
    assert trace["timestamp"].startswith("2025-10-20T11:59:59")
    assert trace["ts_clamped"] is False


def test_ids_are_of_version_8_and_differ_by_row_and_request() -> None:
    event = finished(requested_model="alias", translation="embedding_input_to_prompt")
    both = [*RequestRows()(record_of(event)), *RequestRows()(record_of(finished(event, request_id="req_2")))]
    ids = [UUID(row["event_id"]) for table in shown(both).values() for row in table]
    assert len(set(ids)) == 8
    assert {(event_id.version, event_id.variant) for event_id in ids} == {(8, "specified in RFC 4122")}


def test_an_alias_is_a_transformation() -> None:
    (change,) = rows_of(finished(requested_model="fast", model="gpt-5"))["transformation_events"]
    assert (change["transformation_type"], change["trace_id"], change["success"]) == ("alias", "req_1", True)
    assert change["metadata"] == {"field": "model", "before": "fast", "after": "gpt-5"}


@pytest.mark.parametrize(("status", "code", "success"), [(200, None, True), (502, "upstream_error", False)])
def test_a_change_of_wire_format_is_a_transformation(status: int, code: str | None, success: bool) -> None:
    ending = Ending.COMPLETE if success else Ending.ERROR
    event = finished(translation="embedding_input_to_prompt", status=status, error_code=code, ending=ending)
    (change,) = rows_of(event)["transformation_events"]
    assert change["transformation_type"] == "embedding_input_to_prompt"
    assert (change["input_schema"], change["output_schema"]) == ("openai.embeddings", "ollama.embed")
    assert (change["target_agent"], change["success"], change["error"]) == ("gpt-5", success, code)


def test_a_refused_request_is_a_trace_only() -> None:
    tables = rows_of(REFUSED)
    assert tables.keys() == {"trace_events"}
    (trace,) = tables["trace_events"]
    assert (trace["tenant_id"], trace["level"]) == ("default", 13)
    assert trace["metadata"]["error_code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("status", "ending", "level"),
    [
        (200, Ending.COMPLETE, "INFO"),
        (404, Ending.ERROR, "WARN"),
        (400, Ending.COMPLETE, "WARN"),
        (499, Ending.CLIENT_GONE, "WARN"),
        (200, Ending.SHUTDOWN, "WARN"),
        (200, Ending.ERROR, "ERROR"),
        (502, Ending.ERROR, "ERROR"),
        (503, Ending.COMPLETE, "ERROR"),
    ],
)
def test_levels(status: int, ending: Ending, level: str) -> None:
    assert level_of(status, ending) == level


def test_names_that_no_row_may_hold_do_not_lose_the_row() -> None:
    tables = rows_of(finished(model="a\0b", requested_model="c\0d", upstream="e\0f" * 200, alternatives=("g\0h",)))
    assert tables.keys() == {"trace_events", "routing_decisions", "transformation_events"}
    assert "\0" not in str(tables)


def test_a_record_that_cannot_be_read_gives_no_rows() -> None:
    for payload in (b"", b"\xc1", encode_facts(ENDED)[:-9]):
        assert RequestRows()(Record(1, 16, 0, 1, 0, 0, payload)) == []


def test_a_record_with_more_fields_than_are_known_is_read() -> None:
    payload = encode_facts(ENDED)
    assert payload[:3] == b"\xdc\x00\x1a"
    longer = b"\xdc\x00\x1b" + payload[3:] + b"\xc0"
    assert decode_facts(longer) == decode_facts(payload)


def test_a_record_from_before_the_cache_is_read() -> None:
    payload = encode_facts(ENDED)
    assert payload.endswith(b"\xc0")
    assert decode_facts(b"\xdc\x00\x19" + payload[3:-1]) == decode_facts(payload)


def test_neither_the_clients_address_nor_the_upstreams_is_kept() -> None:
    payload = encode_facts(ENDED)
    assert b"192.0.2.1" not in payload
    assert b"api.example.org" not in payload
