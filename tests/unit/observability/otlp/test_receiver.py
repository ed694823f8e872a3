"""The endpoint of OpenTelemetry's exporters, rule by rule of the OTLP/HTTP specification."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from hx_gateway.observability.otlp.encoding import MAX_BODY_BYTES, OtlpEncoding
from tests.unit.observability.asking import Asker, Told, asker
from tests.unit.observability.otlp.bodies import SpanSpec, Style, as_json, body, of_spans

JSON, PROTOBUF = OtlpEncoding.JSON, OtlpEncoding.PROTOBUF
PATHS = ("/v1/traces", "/otlp/v1/traces")
both = pytest.mark.parametrize("encoding", [PROTOBUF, JSON], ids=["protobuf", "json"])
either = pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])


@pytest.fixture
async def record(tmp_path: Path) -> AsyncIterator[Asker]:
    async with asker(tmp_path) as made:
        yield made


def recent(number: int = 1, **more: object) -> SpanSpec:
    return SpanSpec(span_id=number.to_bytes(8), start_ns=time.time_ns(), end_ns=time.time_ns() + 1_500_000, **more)  # type: ignore[arg-type]


async def send(
    record: Asker, data: bytes, content_type: str, *, compressed: bool = False, path: str = PATHS[0], raw: bool = False
) -> Told:
    headers = {"content-type": content_type, **({"content-encoding": "gzip"} if compressed else {})}
    return await record.ask("POST", path, gzip.compress(data) if compressed and not raw else data, headers=headers)


def partial(answer: Told, encoding: OtlpEncoding) -> tuple[int, str]:
    """Return what a response says of spans that were not taken."""
    assert (answer.status, answer.headers["content-type"]) == (200, encoding.value)
    if encoding is JSON:
        said = answer.json().get("partialSuccess", {})
        return int(said.get("rejectedSpans", 0)), said.get("errorMessage", "")
    response = ExportTraceServiceResponse.FromString(answer.body)
    return response.partial_success.rejected_spans, response.partial_success.error_message


def failure(answer: Told, encoding: OtlpEncoding) -> tuple[int, int]:
    """Return the HTTP status and the code of the ``google.rpc.Status`` of a failure."""
    assert answer.headers["content-type"] == encoding.value
    if encoding is JSON:
        said = json.loads(answer.body)
        assert said["message"]
        return answer.status, said["code"]
    status = status_pb2.Status.FromString(answer.body)
    assert status.message
    return answer.status, status.code


@both
@either
@pytest.mark.parametrize("path", PATHS)
async def test_spans_are_taken_and_success_is_empty(
    record: Asker, encoding: OtlpEncoding, compressed: bool, path: str
) -> None:
    data = body(encoding, of_spans(recent(1, attributes={"gen_ai.operation.name": "chat"}), recent(2)))
    answer = await send(record, data, encoding.value, compressed=compressed, path=path)
    assert answer.body == (b"{}" if encoding is JSON else b"")
    assert partial(answer, encoding) == (0, "")
    rows = record.kept()
    assert [row["event_type"] for row in rows] == ["span.chat", "span"]
    assert {row["tenant_id"] for row in rows} == {"acme"}
    assert rows[0]["duration_ms"] >= 1.5


@both
@either
async def test_spans_that_are_wrong_are_counted_and_the_others_kept(
    record: Asker, encoding: OtlpEncoding, compressed: bool
) -> None:
    old = SpanSpec(span_id=b"12345678")
    data = body(encoding, of_spans(recent(1), SpanSpec(trace_id=bytes(16)), old, recent(2)))
    rejected, message = partial(await send(record, data, encoding.value, compressed=compressed), encoding)
    assert rejected == 2
    assert "not all zero" in message
    assert "1 x timestamp is 2025-06-15" in message
    assert len(record.kept()) == 2


@both
@either
async def test_nothing_is_success_too(record: Asker, encoding: OtlpEncoding, compressed: bool) -> None:
    answer = await send(record, body(encoding, []), encoding.value, compressed=compressed)
    assert partial(answer, encoding) == (0, "")


@both
@either
async def test_bad_data_is_400(record: Asker, encoding: OtlpEncoding, compressed: bool) -> None:
    answer = await send(record, b"\xff{", encoding.value, compressed=compressed)
    assert failure(answer, encoding) == (400, 3)
    assert "x-should-retry" not in answer.headers


@both
async def test_a_stream_that_is_no_gzip_is_400(record: Asker, encoding: OtlpEncoding) -> None:
    answer = await send(record, b"not gzip", encoding.value, compressed=True, raw=True)
    assert failure(answer, encoding) == (400, 3)


@both
@either
async def test_too_much_is_413_also_when_it_is_compressed(
    record: Asker, encoding: OtlpEncoding, compressed: bool
) -> None:
    answer = await send(record, bytes(MAX_BODY_BYTES + 1), encoding.value, compressed=compressed)
    assert failure(answer, encoding) == (413, 8)


@pytest.mark.parametrize("content_type", ["text/plain", "application/grpc", ""])
async def test_another_type_is_415(record: Asker, content_type: str) -> None:
    assert failure(await send(record, b"", content_type), JSON) == (415, 3)


@both
async def test_another_content_encoding_is_415_and_the_known_ones_are_named(
    record: Asker, encoding: OtlpEncoding
) -> None:
    headers = {"content-type": encoding.value, "content-encoding": "br"}
    answer = await record.ask("POST", PATHS[0], b"x", headers=headers)
    assert failure(answer, encoding) == (415, 3)
    assert "gzip" in answer.headers["accept-encoding"]


@both
@either
async def test_a_journal_without_room_is_503_with_a_time_to_come_back(
    tmp_path: Path, encoding: OtlpEncoding, compressed: bool
) -> None:
    async with asker(tmp_path, journal_max_bytes=1) as record:
        data = body(encoding, of_spans(recent(1, status_code=2), SpanSpec(trace_id=bytes(16))))
        answer = await send(record, data, encoding.value, compressed=compressed)
    assert failure(answer, encoding) == (503, 14)
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_parameters_of_the_type_do_not_matter(record: Asker, content_type: str) -> None:
    answer = await send(record, as_json(of_spans(recent())), content_type)
    assert partial(answer, JSON) == (0, "")


@pytest.mark.parametrize("style", [Style(unknown_fields=True), Style(numbers_as_text=False), Style(upper_hex=True)])
async def test_the_liberties_of_json_are_taken(record: Asker, style: Style) -> None:
    answer = await send(record, as_json(of_spans(recent()), style), JSON.value)
    assert partial(answer, JSON) == (0, "")
    assert record.kept()[0]["trace_id"] == bytes(range(1, 17)).hex()


async def test_snake_case_is_told_that_it_holds_nothing(record: Asker) -> None:
    data = as_json(of_spans(recent())).replace(b"resourceSpans", b"resource_spans")
    rejected, message = partial(await send(record, data, JSON.value), JSON)
    assert (rejected, "lowerCamelCase" in message) == (0, True)
    snake = as_json(of_spans(recent())).replace(b"traceId", b"trace_id")
    assert partial(await send(record, snake, JSON.value), JSON)[0] == 1
    assert record.kept() == []


async def test_an_id_in_base64_is_rejected(record: Asker) -> None:
    data = as_json(of_spans(recent())).replace(bytes(range(1, 17)).hex().encode(), b"AQIDBAUGBwgJCgsMDQ4PEA==")
    rejected, message = partial(await send(record, data, JSON.value), JSON)
    assert (rejected, "32 hex digits" in message) == (1, True)


async def test_a_span_that_is_sent_again_has_the_same_id(record: Asker) -> None:
    data = body(PROTOBUF, of_spans(recent()))
    for _ in range(2):
        await send(record, data, PROTOBUF.value)
    first, second = record.kept()
    assert first["event_id"] == second["event_id"]
    assert first["timestamp"] == second["timestamp"]


async def test_what_was_said_to_a_model_is_left_out_of_spans(record: Asker) -> None:
    span = recent(1, attributes={"gen_ai.prompt": "a secret", "gen_ai.request.model": "m"})
    await send(record, body(PROTOBUF, of_spans(span)), PROTOBUF.value)
    assert "a secret" not in json.dumps(record.kept())


async def test_many_spans_are_taken_in_one_request(record: Asker) -> None:
    data = body(PROTOBUF, of_spans(*[recent(number) for number in range(1, 1301)]))
    assert partial(await send(record, data, PROTOBUF.value), PROTOBUF) == (0, "")
    assert len({row["span_id"] for row in record.kept()}) == 1300
