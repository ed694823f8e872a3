"""Spans become rows: ids that know a repetition, columns by alias, metadata within its bounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import RFC_4122, UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.observability.otlp.events import span_event_id, trace_event
from hx_gateway.observability.otlp.metadata import MAX_METADATA_BYTES
from hx_gateway.observability.otlp.model import MAX_EVENTS, Span, SpanEvent
from hx_gateway.observability.rows import Rows
from hx_gateway.observability.tables import FORMATS

TRACE, SPAN_ID = "0123456789abcdef" * 2, "fedcba9876543210"
# Seconds are odd, so that a slip between units shows.
START_NS = 1_750_000_000_123_456_789
PLAIN = Span(
    trace_id=TRACE,
    span_id=SPAN_ID,
    parent_span_id=None,
    trace_state="",
    name="work",
    kind=1,
    start_ns=START_NS,
    end_ns=START_NS + 1_500_000,
    status_code=0,
    status_message="",
    attributes={},
    events=(),
    links=0,
    resource={"service.name": "shop"},
    scope_name="tracer",
    scope_version="1",
    truncated=False,
)


def span(**fields: Any) -> Span:
    return msgspec.structs.replace(PLAIN, **fields)


def row(keep_content: bool = False, **fields: Any) -> dict[str, Any]:
    return trace_event(span(**fields), tenant_id="default", keep_content=keep_content)


def metadata(keep_content: bool = False, **fields: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", row(keep_content, **fields)["metadata"])


def size(value: object) -> int:
    return len(msgspec.json.encode(value))


def test_a_plain_span_becomes_a_whole_row() -> None:
    assert row(parent_span_id="a" * 16) == {
        "event_id": span_event_id("default", TRACE, SPAN_ID),
        "timestamp": datetime(2025, 6, 15, 15, 6, 40, 123456, tzinfo=UTC),
        "tenant_id": "default",
        "trace_id": TRACE,
        "span_id": SPAN_ID,
        "parent_span_id": "a" * 16,
        "event_type": "span",
        "level": "INFO",
        "message": "work",
        "agent_name": None,
        "task_id": None,
        "session_id": None,
        "user_id": None,
        "duration_ms": 1.5,
        "metadata": {
            "kind": "internal",
            "attributes": {},
            "resource": {"service.name": "shop"},
            "scope": {"name": "tracer", "version": "1"},
            "events": [],
        },
    }


def test_a_repeated_export_has_the_same_id_and_another_span_another() -> None:
    again = span_event_id("default", TRACE, SPAN_ID)
    assert again == span_event_id("default", TRACE, SPAN_ID)
    others = [("tenant", TRACE, SPAN_ID), ("default", "1" + TRACE[1:], SPAN_ID), ("default", TRACE, "1" + SPAN_ID[1:])]
    assert len({again, *[span_event_id(*other) for other in others]}) == 4


def test_the_id_of_a_span_never_changes_between_releases() -> None:
    assert span_event_id("default", TRACE, SPAN_ID) == UUID("e12da7b1-7de4-8232-9b33-856d695e8b2f")


@given(st.text(max_size=20))
def test_the_id_is_a_uuid_of_version_8(tenant: str) -> None:
    identifier = span_event_id(tenant, TRACE, SPAN_ID)
    assert identifier.variant == RFC_4122
    assert identifier.version == 8


@pytest.mark.parametrize(
    ("attributes", "event_type"),
    [
        ({"gen_ai.operation.name": "chat"}, "span.chat"),
        ({"gen_ai.operation.name": "execute_tool", "openinference.span.kind": "TOOL"}, "span.execute_tool"),
        ({"openinference.span.kind": "DECISION"}, "span.decision"),
        ({"traceloop.span.kind": "workflow"}, "span.workflow"),
        ({}, "span"),
        ({"gen_ai.operation.name": "drop table; --"}, "span"),
        ({"gen_ai.operation.name": "x" * 60}, "span"),
        ({"gen_ai.operation.name": 5.5}, "span"),
    ],
)
def test_the_kind_of_work_becomes_the_type(attributes: dict[str, Any], event_type: str) -> None:
    assert row(attributes=attributes)["event_type"] == event_type


@pytest.mark.parametrize(("code", "level"), [(0, "INFO"), (1, "INFO"), (2, "ERROR"), (99, "INFO")])
def test_only_a_status_of_error_is_an_error(code: int, level: str) -> None:
    found = row(status_code=code, status_message="why")
    assert found["level"] == level
    assert found["metadata"]["status_message"] == "why"


def test_people_and_agents_have_columns_and_figures_stand_in_metadata() -> None:
    attributes = {
        "gen_ai.agent.name": "planner",
        "session.id": "s1",
        "enduser.id": "u1",
        "task.id": "t1",
        "gen_ai.system": "vertex_ai",
        "gen_ai.request.model": "gemini-3",
        "gen_ai.usage.input_tokens": 5,
        "llm.token_count.prompt_details.cache_read": 2,
        "llm.cost.total": 0.25,
    }
    found = row(attributes=attributes)
    assert [found[name] for name in ("agent_name", "session_id", "user_id", "task_id")] == ["planner", "s1", "u1", "t1"]
    shown = found["metadata"]
    assert shown["attributes"] == attributes
    canonical = {"provider": "gcp.vertex_ai", "model": "gemini-3", "input_tokens": 5, "cache_read_tokens": 2}
    assert {name: shown[name] for name in (*canonical, "cost")} == canonical | {"cost": 0.25}
    assert {"agent", "session", "user", "task"} & set(shown) == set()


@pytest.mark.parametrize(
    ("kind", "name"), [(0, "unspecified"), (2, "server"), (3, "client"), (5, "consumer"), (6, "6"), (-1, "-1")]
)
def test_the_kind_is_named(kind: int, name: str) -> None:
    assert metadata(kind=kind)["kind"] == name


@pytest.mark.parametrize("end_ns", [0, START_NS - 1])
def test_a_span_that_ends_before_it_starts_has_no_duration(end_ns: int) -> None:
    assert row(end_ns=end_ns)["duration_ms"] is None


def test_a_span_of_no_length_has_a_duration_of_zero() -> None:
    assert row(end_ns=START_NS)["duration_ms"] == 0.0


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_no_time_of_64_bits_fails(start_ns: int, end_ns: int, event_ns: int) -> None:
    event = SpanEvent(name="e", time_ns=event_ns, attributes={})
    found = row(start_ns=start_ns, end_ns=end_ns, events=(event,))
    assert 1970 <= found["timestamp"].year <= 2554
    assert found["timestamp"].tzinfo is UTC
    assert int(found["timestamp"].timestamp()) == pytest.approx(start_ns // 10**9, abs=1)
    assert (found["metadata"]["events"][0]["time"] is None) == (event_ns == 0)


def test_events_links_and_state_are_shown() -> None:
    event = SpanEvent(name="exception", time_ns=START_NS, attributes={"exception.type": "E"})
    shown = metadata(events=(event,), links=2, trace_state="a=1")
    assert shown["events"] == [
        {"name": "exception", "time": "2025-06-15T15:06:40.123456+00:00", "attributes": {"exception.type": "E"}}
    ]
    assert (shown["links"], shown["trace_state"]) == (2, "a=1")


CONTENT = {"gen_ai.input.messages": "secret", "gen_ai.prompt.0.content": "secret", "a": 1}
SAID = (
    SpanEvent(name="gen_ai.user.message", time_ns=1, attributes={"content": "secret"}),
    SpanEvent(name="other", time_ns=1, attributes={"gen_ai.output.messages": "secret", "b": 2}),
)


def test_content_is_left_out_unless_it_is_asked_for() -> None:
    shown = metadata(attributes=CONTENT, events=SAID)
    assert "secret" not in json.dumps(shown)
    assert shown["attributes"] == {"a": 1}
    assert [event["attributes"] for event in shown["events"]] == [{}, {"b": 2}]
    assert shown["content_omitted"] == 4


def test_content_is_kept_where_it_is_asked_for() -> None:
    shown = metadata(True, attributes=CONTENT, events=SAID)
    assert shown["attributes"] == CONTENT
    assert json.dumps(shown).count("secret") == 4
    assert "content_omitted" not in shown


def test_the_largest_texts_are_left_out_first() -> None:
    attributes: dict[str, Any] = {"large": "x" * 30_000, "small": "z" * 100, "list": ["w" * 40_000]}
    shown = metadata(attributes=attributes)
    assert list(shown["attributes"]) == ["small", "list"]
    assert shown["truncated"] is True
    assert size(shown) <= MAX_METADATA_BYTES


def test_other_values_go_when_texts_are_not_enough() -> None:
    attributes: dict[str, Any] = {"text": "x", "list": [["w" * 40_000]], "larger": {"a": "w" * 50_000}}
    assert list(metadata(attributes=attributes)["attributes"]) == ["list"]


def test_no_more_is_left_out_than_must_be() -> None:
    attributes: dict[str, Any] = {f"a{index:03}": "x" * 1_000 for index in range(100)}
    shown = metadata(attributes=attributes)
    assert MAX_METADATA_BYTES - 1_200 < size(shown) <= MAX_METADATA_BYTES


def test_a_row_at_the_bound_is_whole() -> None:
    room = MAX_METADATA_BYTES - size(metadata(attributes={"a": ""}))
    shown = metadata(attributes={"a": "x" * room})
    assert size(shown) == MAX_METADATA_BYTES
    assert "truncated" not in shown
    assert metadata(attributes={"a": "x" * (room + 1)})["truncated"] is True


def test_the_shared_resource_is_not_changed_when_one_row_is_too_large() -> None:
    resource: dict[str, Any] = {"large": "x" * 70_000, "service.name": "shop"}
    shown = metadata(resource=resource)
    assert shown["resource"] == {"service.name": "shop"}
    assert len(resource) == 2


def test_attributes_of_the_span_itself_are_not_changed() -> None:
    attributes: dict[str, Any] = {"large": "x" * 70_000}
    event = SpanEvent(name="e", time_ns=1, attributes={"large": "x" * 70_000})
    for keep_content in (False, True):
        metadata(keep_content, attributes=attributes, events=(event,))
    assert len(attributes) == len(event.attributes) == 1


def test_what_was_cut_when_it_was_read_is_marked() -> None:
    assert metadata(truncated=True)["truncated"] is True


def test_events_go_when_nothing_else_is_left() -> None:
    events = tuple([SpanEvent(name="\x01" * 300, time_ns=1, attributes={}) for _ in range(MAX_EVENTS)])
    shown = metadata(events=events, name="n" * 10_000)
    assert shown["events"] == []
    assert shown["truncated"] is True


# Any age is taken: what is too old is not for this package to say.
ROWS = Rows({form.table: timedelta(days=365 * 200) for form in FORMATS.values()})
TEXT = st.text(max_size=10)
BIG = st.builds(lambda text, times: text * times, TEXT, st.integers(0, 4_000))
ANY: st.SearchStrategy[Any] = st.none() | st.integers(-(2**63), 2**63 - 1) | BIG | st.lists(BIG, max_size=3)
ATTRIBUTES = st.dictionaries(TEXT, ANY, max_size=6)
EVENTS = st.builds(lambda name, found: SpanEvent(name=name, time_ns=1, attributes=found), BIG, ATTRIBUTES)


@given(
    attributes=ATTRIBUTES,
    resource=ATTRIBUTES,
    events=st.lists(EVENTS, max_size=3).map(tuple),
    names=st.tuples(BIG, BIG, BIG, BIG, BIG),
)
def test_no_row_is_too_large_or_holds_what_postgresql_cannot(
    attributes: Any, resource: Any, events: Any, names: tuple[str, ...]
) -> None:
    name, status_message, trace_state, scope_name, scope_version = names
    found = row(
        True,
        attributes=attributes,
        resource=resource,
        events=events,
        name=name,
        status_message=status_message,
        trace_state=trace_state,
        scope_name=scope_name,
        scope_version=scope_version,
    )
    assert size(found["metadata"]) <= MAX_METADATA_BYTES
    assert "\\u0000" not in json.dumps(found["metadata"]).replace("\\\\", "")
    assert "\x00" not in found["message"]
    assert len(found["message"]) <= 1_024
    ROWS.trace_event(**found)


@given(ATTRIBUTES, st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(-9, 9))
def test_the_record_takes_any_span(attributes: Any, start_ns: int, end_ns: int, code: int) -> None:
    named = {f"{name}.id": value for name, value in zip(("session", "user", "task"), attributes.values(), strict=False)}
    ROWS.trace_event(**row(attributes=attributes | named, start_ns=start_ns, end_ns=end_ns, status_code=code))
