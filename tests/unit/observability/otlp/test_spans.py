"""Export requests become spans, and one that is wrong costs no other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hx_gateway.errors import BodyTooLarge, InvalidRequest
from hx_gateway.observability.otlp import wire_json, wire_protobuf
from hx_gateway.observability.otlp.encoding import OtlpEncoding, export_response, inflate
from hx_gateway.observability.otlp.model import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_EVENTS,
    MAX_NESTED_VALUES,
    MAX_SPAN_BYTES,
    MAX_SPANS,
)
from hx_gateway.observability.otlp.spans import Decoded, Span, SpanEvent, decode
from tests.unit.observability.otlp.bodies import (
    PARENT,
    START_NS,
    TRACE,
    EventSpec,
    ScopeSpec,
    SpanSpec,
    Style,
    as_json,
    as_protobuf,
    body,
    json_span,
    of_spans,
)

ENCODINGS = list(OtlpEncoding)
PROTOBUF, JSON = OtlpEncoding.PROTOBUF, OtlpEncoding.JSON
GOOD = SpanSpec()
both = pytest.mark.parametrize("encoding", ENCODINGS)
packed = pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])


def receive(encoding: OtlpEncoding, scopes: list[ScopeSpec], compressed: bool) -> tuple[Decoded, bytes]:
    data = inflate(body(encoding, scopes, compressed=compressed), "gzip" if compressed else None)
    decoded = decode(data, encoding)
    return decoded, export_response(encoding, len(decoded.rejected), decoded.message)


def json_request(*spans: Any) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}).encode()


def changed(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in (json_span(GOOD) | fields).items() if value is not ...}


def field(number: int, data: bytes) -> bytes:
    size, varint = len(data), b""
    while size > 0x7F:
        varint, size = varint + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + varint + bytes([size]) + data


@both
@packed
def test_a_full_request_is_read_whole_and_answered_with_nothing(encoding: OtlpEncoding, compressed: bool) -> None:
    decoded, answer = receive(encoding, of_spans(GOOD, SpanSpec(span_id=PARENT)), compressed)
    assert [span.span_id for span in decoded.spans] == [GOOD.span_id.hex(), PARENT.hex()]
    assert decoded.rejected == []
    assert answer == (b"{}" if encoding is JSON else b"")


@both
@packed
def test_an_empty_request_is_a_full_success(encoding: OtlpEncoding, compressed: bool) -> None:
    decoded, answer = receive(encoding, [], compressed)
    assert decoded == Decoded([], [])
    assert answer == (b"{}" if encoding is JSON else b"")


@both
@packed
def test_a_partial_request_keeps_what_is_right(encoding: OtlpEncoding, compressed: bool) -> None:
    decoded, answer = receive(encoding, of_spans(GOOD, SpanSpec(trace_id=b"\x01" * 15), GOOD), compressed)
    assert len(decoded.spans) == 2
    assert len(decoded.rejected) == 1
    assert decoded.message.startswith("1 of 3 spans rejected: 1 x trace")
    assert b"1 of 3 spans" in answer


@pytest.mark.parametrize(
    ("encoding", "data"),
    [(PROTOBUF, data) for data in (b"\xff", b"not otlp", b"\x0a\x05abc", b"\x0b\x0c", b"\x0a", b"\x59abc", b"\x0a\x80")]
    + [
        (JSON, data) for data in (b"", b"\xff", b"not otlp", b"[]", b'{"resourceSpans":7}', b'{"resourceSpans":[', b"5")
    ],
)
def test_a_body_that_is_no_request_is_refused_whole(encoding: OtlpEncoding, data: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(data, encoding)
    assert caught.value.status == 400


def test_json_sent_as_protobuf_and_the_other_way_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        decode(as_json(of_spans(GOOD)), PROTOBUF)
    with pytest.raises(InvalidRequest):
        decode(as_protobuf(of_spans(GOOD)), JSON)


@both
def test_every_field_of_a_span_is_read(encoding: OtlpEncoding) -> None:
    spec = SpanSpec(
        parent_span_id=PARENT,
        trace_state="a=1",
        name="chat gpt",
        kind=3,
        status_code=2,
        status_message="refused",
        attributes={
            "text": "ü",
            "int": -(2**63),
            "float": 0.5,
            "bool": False,
            "bytes": b"\x00\xff",
            "nothing": None,
            "list": ["a", 1, [True]],
            "map": {"a": {"b": None}},
            "nan": float("nan"),
            "inf": float("-inf"),
        },
        events=[EventSpec("boom", 7, {"a": 1})],
        links=2,
    )
    (span,) = decode(body(encoding, of_spans(spec)), encoding).spans
    assert span == Span(
        trace_id=TRACE.hex(),
        span_id=GOOD.span_id.hex(),
        parent_span_id=PARENT.hex(),
        trace_state="a=1",
        name="chat gpt",
        kind=3,
        start_ns=START_NS,
        end_ns=START_NS + 1_500_000,
        status_code=2,
        status_message="refused",
        attributes={
            "text": "ü",
            "int": -(2**63),
            "float": 0.5,
            "bool": False,
            "bytes": "AP8=",
            "nothing": None,
            "list": ["a", 1, [True]],
            "map": {"a": {"b": None}},
            "nan": "NaN",
            "inf": "-Infinity",
        },
        events=(SpanEvent(name="boom", time_ns=7, attributes={"a": 1}),),
        links=2,
        resource={"service.name": "shop"},
        scope_name="tracer",
        scope_version="1.2",
        truncated=False,
    )


@both
@pytest.mark.parametrize(
    "bad",
    [
        SpanSpec(trace_id=b""),
        SpanSpec(trace_id=bytes(16)),
        SpanSpec(trace_id=b"\x01" * 17),
        SpanSpec(span_id=b""),
        SpanSpec(span_id=bytes(8)),
        SpanSpec(span_id=b"\x01" * 7),
        SpanSpec(parent_span_id=b"\x01" * 9),
        SpanSpec(start_ns=0),
    ],
)
def test_a_span_with_wrong_ids_or_no_start_is_rejected_alone(encoding: OtlpEncoding, bad: SpanSpec) -> None:
    decoded = decode(body(encoding, of_spans(GOOD, bad, GOOD)), encoding)
    assert len(decoded.spans) == 2
    assert len(decoded.rejected) == 1


@both
def test_the_reason_of_a_missing_start_is_told(encoding: OtlpEncoding) -> None:
    decoded = decode(body(encoding, of_spans(SpanSpec(start_ns=0))), encoding)
    assert decoded.rejected[0].reason == "start time missing"


@both
@pytest.mark.parametrize("parent", [b"", bytes(8)])
def test_no_parent_and_one_of_zeros_are_no_parent(encoding: OtlpEncoding, parent: bytes) -> None:
    (span,) = decode(body(encoding, of_spans(SpanSpec(parent_span_id=parent))), encoding).spans
    assert span.parent_span_id is None


@both
def test_absurd_times_are_kept_as_they_are(encoding: OtlpEncoding) -> None:
    spec = SpanSpec(start_ns=2**64 - 1, end_ns=1)
    (span,) = decode(body(encoding, of_spans(spec)), encoding).spans
    assert (span.start_ns, span.end_ns) == (2**64 - 1, 1)


@both
def test_unknown_kinds_and_status_codes_pass(encoding: OtlpEncoding) -> None:
    (span,) = decode(body(encoding, of_spans(SpanSpec(kind=77, status_code=-4))), encoding).spans
    assert (span.kind, span.status_code) == (77, -4)


@both
def test_each_span_has_its_own_resource_and_scope(encoding: OtlpEncoding) -> None:
    scopes = [ScopeSpec([GOOD], {"n": index}, f"scope {index}") for index in range(3)]
    spans = decode(body(encoding, scopes), encoding).spans
    assert [span.resource for span in spans] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [span.scope_name for span in spans] == ["scope 0", "scope 1", "scope 2"]


@pytest.mark.parametrize(
    "bad",
    [
        changed(traceId=5),
        changed(name=["x"]),
        changed(kind="SPAN_KIND_CLIENT"),
        changed(kind=1.5),
        changed(kind=2**31),
        changed(startTimeUnixNano="soon"),
        changed(startTimeUnixNano=-1),
        changed(startTimeUnixNano="1_0"),
        changed(startTimeUnixNano=1.5),
        changed(endTimeUnixNano=str(2**64)),
        changed(status={"code": "STATUS_CODE_OK"}),
        changed(status=2),
        changed(attributes={"a": 1}),
        changed(attributes=[{"key": 1}]),
        changed(attributes=[{"key": "a", "value": "b"}]),
        changed(attributes=[{"key": "a", "value": {"intValue": True}}]),
        changed(attributes=[{"key": "a", "value": {"intValue": 2**63}}]),
        changed(attributes=[{"key": "a", "value": {"intValue": "0x1"}}]),
        changed(attributes=[{"key": "a", "value": {"boolValue": "true"}}]),
        changed(attributes=[{"key": "a", "value": {"doubleValue": "one"}}]),
        changed(attributes=[{"key": "a", "value": {"bytesValue": "*"}}]),
        changed(attributes=[{"key": "a", "value": {"bytesValue": "AAAAA"}}]),
        changed(attributes=[{"key": "a", "value": {"arrayValue": [1]}}]),
        changed(events=[{"timeUnixNano": -1}]),
        changed(links=3),
        None,
        5,
        [],
    ],
)
def test_a_json_span_of_wrong_types_is_rejected_alone(bad: Any) -> None:
    decoded = decode(json_request(changed(), bad, changed()), JSON)
    assert len(decoded.spans) == 2
    assert len(decoded.rejected) == 1


def test_a_reason_names_the_field_and_repeats_no_value() -> None:
    decoded = decode(json_request(changed(name={"secret": 1})), JSON)
    assert decoded.rejected[0].reason == "Expected `str | null`, got `object` - at `$.name`"


@pytest.mark.parametrize("identifier", ["AQIDBAUGBwgJCgsMDQ4PEA==", "AQIDBAUGBwgJCgsMDQ4PEA", "0x" + "1" * 30])
def test_an_id_in_base64_or_another_form_is_rejected(identifier: str) -> None:
    decoded = decode(json_request(changed(traceId=identifier)), JSON)
    assert decoded.spans == []
    assert decoded.rejected[0].reason == "traceId must be 32 hex digits, not all zero"


def test_a_base64_id_of_the_length_of_a_hex_one_is_rejected() -> None:
    decoded = decode(json_request(changed(spanId="FRYXGBkaGxw="[:11] + "=" * 5)), JSON)
    assert decoded.rejected[0].reason == "spanId must be 16 hex digits, not all zero"


def test_hex_ids_are_read_in_either_case() -> None:
    spec = SpanSpec(trace_id=b"\xab" * 16, span_id=b"\xcd" * 8, parent_span_id=b"\xef" * 8)
    (span,) = decode(as_json(of_spans(spec), Style(upper_hex=True)), JSON).spans
    assert (span.trace_id, span.span_id, span.parent_span_id) == ("ab" * 16, "cd" * 8, "ef" * 8)


def test_json_numbers_are_read_as_numbers_and_as_texts() -> None:
    spec = SpanSpec(attributes={"i": 2**62}, events=[EventSpec()])
    as_text = decode(as_json(of_spans(spec), Style(numbers_as_text=True)), JSON)
    as_number = decode(as_json(of_spans(spec), Style(numbers_as_text=False)), JSON)
    assert as_text == as_number
    (span,) = decode(json_request(changed(attributes=[{"key": "a", "value": {"doubleValue": "1e3"}}])), JSON).spans
    assert span.attributes == {"a": 1000.0}


@pytest.mark.parametrize("text", ["+/+/AA==", "-_-_AA==", "-_-_AA"])
def test_base64_is_read_in_all_its_forms(text: str) -> None:
    (span,) = decode(json_request(changed(attributes=[{"key": "a", "value": {"bytesValue": text}}])), JSON).spans
    assert span.attributes == {"a": "+/+/AA=="}


def test_unknown_json_fields_are_ignored() -> None:
    scopes = of_spans(SpanSpec(attributes={"a": 1}))
    assert decode(as_json(scopes, Style(unknown_fields=True)), JSON) == decode(as_json(scopes), JSON)


def test_unknown_protobuf_fields_are_ignored() -> None:
    data = as_protobuf(of_spans(GOOD))
    unknown = field(9, b"later") + b"\x50\x96\x01" + b"\x59" + bytes(8) + b"\x5d" + bytes(4)
    assert decode(unknown + data + unknown, PROTOBUF) == decode(data, PROTOBUF)


def test_null_is_a_field_that_is_not_set() -> None:
    scopes = of_spans(SpanSpec(attributes={"a": None}, name="", kind=0))
    assert decode(as_json(scopes, Style(nulls=True)), JSON) == decode(as_json(scopes), JSON)


def test_a_json_span_in_snake_case_is_one_without_ids_and_is_rejected() -> None:
    snake = {"trace_id": TRACE.hex(), "span_id": GOOD.span_id.hex(), "start_time_unix_nano": "1", "name": "x"}
    decoded = decode(json_request(snake, changed()), JSON)
    assert len(decoded.spans) == 1
    assert decoded.rejected[0].reason == "traceId must be 32 hex digits, not all zero"


@pytest.mark.parametrize(
    "document",
    [
        {"resource_spans": [{"scope_spans": [{"spans": [changed()]}]}]},
        {"resourceSpans": [{"scope_spans": [{"spans": [changed()]}]}]},
    ],
)
def test_a_body_in_snake_case_holds_no_span_and_the_sender_is_told(document: Any) -> None:
    decoded = decode(json.dumps(document).encode(), JSON)
    assert decoded.spans == []
    assert decoded.rejected == []
    assert "lowerCamelCase" in decoded.message


def test_a_body_with_spans_is_not_suspect_for_a_name_in_it() -> None:
    decoded = decode(as_json(of_spans(SpanSpec(attributes={"scope_spans": 1}))), JSON)
    assert len(decoded.spans) == 1
    assert decoded.message == ""


def test_a_text_that_is_not_utf_8_costs_its_span_only() -> None:
    marked = SpanSpec(name="MARK")
    for encoding in ENCODINGS:
        data = body(encoding, of_spans(GOOD, marked, GOOD)).replace(b"MARK", b"M\xff\xfeK")
        decoded = decode(data, encoding)
        assert len(decoded.spans) == 2, encoding
        assert "UTF-8" in decoded.rejected[0].reason


def test_half_a_character_is_read_as_the_replacement_character() -> None:
    text = rb"a\ud83d b\ude00 c\ud83d\ude00 d\\ud83d e"
    data = as_json(of_spans(SpanSpec(name="MARK"), GOOD)).replace(b"MARK", text)
    decoded = decode(data, JSON)
    assert decoded.spans[0].name == "a\ufffd b\ufffd c\U0001f600 d\\ud83d e"
    assert len(decoded.spans) == 2


@pytest.mark.parametrize(
    ("resource", "scope"), [({"attributes": 5}, {}), ({}, {"name": 5}), (5, {}), ({"attributes": [{"key": 1}]}, {})]
)
def test_a_wrong_json_resource_or_scope_costs_the_spans_below_it(resource: Any, scope: Any) -> None:
    good = {"scopeSpans": [{"spans": [changed()]}]}
    wrong = {"resource": resource, "scopeSpans": [{"scope": scope, "spans": [changed(), changed()]}]}
    decoded = decode(json.dumps({"resourceSpans": [good, wrong, good]}).encode(), JSON)
    assert len(decoded.spans) == 2
    assert len(decoded.rejected) == 2
    assert decoded.message.startswith(("2 of 4 spans rejected: 2 x resource: ", "2 of 4 spans rejected: 2 x scope: "))


@pytest.mark.parametrize("mark", ["resource", "scope"])
def test_a_wrong_protobuf_resource_or_scope_costs_the_spans_below_it(mark: str) -> None:
    wrong = ScopeSpec([GOOD, GOOD], {"k": "MARK"} if mark == "resource" else {}, "MARK" if mark == "scope" else "")
    data = as_protobuf([*of_spans(GOOD), wrong, *of_spans(GOOD)]).replace(b"MARK", b"\xff\xff\xff\xff")
    decoded = decode(data, PROTOBUF)
    assert len(decoded.spans) == 2
    assert [rejection.reason[: len(mark)] for rejection in decoded.rejected] == [mark, mark]


@pytest.mark.parametrize("resource", ["null", "{}"])
def test_a_json_resource_and_scope_may_be_null_or_missing(resource: str) -> None:
    span = json.dumps(changed())
    data = f'{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"scope":null,"spans":[{span}]}}]}}]}}'
    (found,) = decode(data.encode(), JSON).spans
    assert (found.resource, found.scope_name) == ({}, "")
    assert decode(json_request(changed()), JSON).spans == [found]


@pytest.mark.parametrize("data", [b'{"resourceSpans":null}', b'{"resourceSpans":[{"scopeSpans":null}]}', b"{}"])
def test_json_without_spans_is_empty(data: bytes) -> None:
    assert decode(data, JSON) == Decoded([], [])


def test_a_resource_in_pieces_is_merged_as_protobuf_demands() -> None:
    whole = ExportTraceServiceRequest.FromString(as_protobuf(of_spans(GOOD)))
    resource_spans = whole.resource_spans[0]
    pieces = [{"a": 1}, {"b": 2}]
    data = b"".join(
        field(
            1,
            ExportTraceServiceRequest.FromString(as_protobuf([ScopeSpec([], piece)]))
            .resource_spans[0]
            .resource.SerializeToString(),
        )
        for piece in pieces
    ) + field(2, resource_spans.scope_spans[0].SerializeToString())
    (span,) = decode(field(1, data), PROTOBUF).spans
    assert span.resource == {"a": 1, "b": 2}


@both
def test_attributes_and_events_beyond_the_bounds_are_left_out_and_it_is_said(encoding: OtlpEncoding) -> None:
    at_bound = SpanSpec(
        attributes={f"a{index}": index for index in range(MAX_ATTRIBUTES)}, events=[EventSpec()] * MAX_EVENTS
    )
    more_attributes = SpanSpec(attributes={f"a{index}": index for index in range(MAX_ATTRIBUTES + 1)})
    more_events = SpanSpec(events=[EventSpec()] * (MAX_EVENTS + 1))
    spans = decode(body(encoding, of_spans(at_bound, more_attributes, more_events)), encoding).spans
    assert [span.truncated for span in spans] == [False, True, True]
    assert spans[0].attributes == spans[1].attributes
    assert len(spans[0].attributes) == MAX_ATTRIBUTES
    assert len(spans[2].events) == MAX_EVENTS


@both
def test_nested_values_are_bounded_in_depth_and_number(encoding: OtlpEncoding) -> None:
    def nest(depth: int) -> Any:
        return [nest(depth - 1)] if depth else "x"

    wide = ["x"] * MAX_NESTED_VALUES
    specs = [SpanSpec(attributes={"a": value}) for value in (nest(MAX_DEPTH), nest(MAX_DEPTH + 1), wide, [*wide, "x"])]
    specs.append(SpanSpec(attributes={"a": [{"b": "x"}] * MAX_NESTED_VALUES}))
    spans = decode(body(encoding, of_spans(*specs)), encoding).spans
    assert [span.truncated for span in spans] == [False, True, False, True, True]
    assert spans[0].attributes == {"a": nest(MAX_DEPTH)}
    assert spans[2].attributes == spans[3].attributes == {"a": wide}


@both
def test_a_resource_over_the_bound_marks_its_spans(encoding: OtlpEncoding) -> None:
    scopes = [ScopeSpec([GOOD], {f"a{index}": index for index in range(MAX_ATTRIBUTES + 1)})]
    (span,) = decode(body(encoding, scopes), encoding).spans
    assert span.truncated
    assert len(span.resource) == MAX_ATTRIBUTES


@both
def test_nesting_without_end_costs_its_span_only(encoding: OtlpEncoding) -> None:
    value: Any = "x"
    for _ in range(90):
        value = [value]
    deep = SpanSpec(attributes={"a": value})
    decoded = decode(body(encoding, of_spans(GOOD, deep, GOOD)), encoding)
    assert len(decoded.spans) + len(decoded.rejected) == 3
    assert len(decoded.spans) >= 2


def test_json_nested_beyond_reading_is_refused() -> None:
    span = b'{"traceId":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        decode(b'{"resourceSpans":[{"scopeSpans":[{"spans":[' + span + b"]}]}]}", JSON)


@both
def test_a_huge_span_is_rejected_alone(encoding: OtlpEncoding) -> None:
    huge = SpanSpec(attributes={"a": "x" * MAX_SPAN_BYTES})
    decoded = decode(body(encoding, of_spans(GOOD, huge, GOOD)), encoding)
    assert len(decoded.spans) == 2
    assert decoded.rejected[0].reason == f"larger than {MAX_SPAN_BYTES} bytes"


def test_a_huge_resource_costs_the_spans_below_it() -> None:
    scopes = [ScopeSpec([GOOD], {"a": "x" * MAX_SPAN_BYTES}), *of_spans(GOOD)]
    for encoding in ENCODINGS:
        decoded = decode(body(encoding, scopes), encoding)
        assert len(decoded.spans) == 1
        assert decoded.rejected[0].reason == f"resource: larger than {MAX_SPAN_BYTES} bytes"


@pytest.mark.parametrize(
    ("data", "encoding", "many"),
    [
        (field(1, field(2, field(2, b"") * (MAX_SPANS * 4 + 1))), PROTOBUF, "spans"),
        (field(1, b"") * (MAX_SPANS * 4 + 1), PROTOBUF, "spans"),
        (b"\x08\x00" * (MAX_SPANS * 4 + 1), PROTOBUF, "spans"),
        (json_request(*[0] * (MAX_SPANS + 1)), JSON, "spans"),
        (json_request(*[0] * (wire_json.MAX_COMMAS + 2)), JSON, "too many values"),
    ],
    ids=["spans", "resources", "unknown", "json spans", "json values"],
)
def test_a_request_of_countless_entries_is_too_large(data: bytes, encoding: OtlpEncoding, many: str) -> None:
    with pytest.raises(BodyTooLarge, match=many):
        decode(data, encoding)


def test_more_spans_than_the_bound_are_too_many_in_protobuf_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_protobuf, "MAX_SPANS", 2)
    assert len(decode(as_protobuf(of_spans(GOOD, GOOD)), PROTOBUF).spans) == 2
    with pytest.raises(BodyTooLarge):
        decode(as_protobuf(of_spans(GOOD, GOOD, GOOD)), PROTOBUF)


@both
def test_the_message_counts_reasons_and_is_bounded(encoding: OtlpEncoding) -> None:
    bad = [SpanSpec(trace_id=b"")] * 3 + [SpanSpec(start_ns=0)] * 2
    message = decode(body(encoding, of_spans(*bad, GOOD)), encoding).message
    assert message.startswith("5 of 6 spans rejected: 3 x trace")
    assert message.endswith("; 2 x start time missing.")


def test_many_different_reasons_are_not_all_told() -> None:
    bad = [changed(**{name: {}}) for name in ("traceId", "spanId", "name", "kind", "traceState", "links", "events")]
    message = decode(json_request(*bad), JSON).message
    assert message.count(" x ") == 5
    assert message.endswith("; others.")
