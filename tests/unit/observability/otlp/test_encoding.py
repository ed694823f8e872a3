"""Bodies and answers of OTLP/HTTP: what is read, how much of it, and what is said back."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from google.rpc import code_pb2, status_pb2  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from hx_gateway.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia
from hx_gateway.observability.otlp import encoding as encoding_module
from hx_gateway.observability.otlp.encoding import (
    MAX_BODY_BYTES,
    MAX_GZIP_MEMBERS,
    OtlpEncoding,
    encoding_of,
    export_response,
    inflate,
    rpc_code,
    status_response,
)

DATA = b"spans " * 1000
GZIPPED = gzip.compress(DATA, mtime=0)


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/x-protobuf", OtlpEncoding.PROTOBUF),
        ("application/json", OtlpEncoding.JSON),
        ("Application/JSON; charset=utf-8", OtlpEncoding.JSON),
        ("  application/x-protobuf ;foo=bar", OtlpEncoding.PROTOBUF),
    ],
)
def test_the_media_type_alone_chooses_the_encoding(content_type: str, encoding: OtlpEncoding) -> None:
    assert encoding_of(content_type) is encoding


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/protobuf", "application/jsonl", "application/x-protobufs", "json"],
)
def test_another_media_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        encoding_of(content_type)
    assert caught.value.status == 415
    assert "application/x-protobuf or application/json" in caught.value.message


@pytest.mark.parametrize(
    ("content_encoding", "body"),
    [
        (None, DATA),
        ("", DATA),
        ("identity", DATA),
        ("gzip", GZIPPED),
        (" GZip ", GZIPPED),
        ("x-gzip", GZIPPED),
        ("deflate", zlib.compress(DATA)),
    ],
)
def test_what_sdks_send_is_inflated(content_encoding: str | None, body: bytes) -> None:
    assert inflate(body, content_encoding) == DATA


def test_an_empty_compressed_body_is_empty() -> None:
    assert inflate(gzip.compress(b""), "gzip") == b""


@given(st.lists(st.binary(max_size=200_000), min_size=1, max_size=5))
def test_gzip_of_several_members_is_all_of_them(parts: list[bytes]) -> None:
    assert inflate(b"".join(gzip.compress(part, 1) for part in parts), "gzip") == b"".join(parts)


@pytest.mark.parametrize("content_encoding", ["zstd", "br", "gzip, gzip", "compress", "deflate;q=1"])
def test_another_content_encoding_is_refused_and_the_known_ones_named(content_encoding: str) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        inflate(DATA, content_encoding)
    assert caught.value.status == 415
    assert caught.value.headers == {"accept-encoding": "gzip, deflate, identity"}


@pytest.mark.parametrize(
    ("content_encoding", "body"),
    [
        ("gzip", b""),
        ("gzip", DATA),
        ("gzip", GZIPPED[:-1]),
        ("gzip", GZIPPED[:15]),
        ("gzip", GZIPPED[:-8] + b"\x00" * 8),
        ("gzip", GZIPPED + b"more"),
        ("gzip", zlib.compress(DATA)),
        ("deflate", GZIPPED),
        ("deflate", zlib.compress(DATA)[:-2]),
        ("deflate", zlib.compress(DATA) + zlib.compress(DATA)),
    ],
)
def test_a_broken_stream_is_the_senders_fault(content_encoding: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        inflate(body, content_encoding)


@pytest.mark.parametrize("content_encoding", [None, "gzip", "deflate"])
def test_the_limit_counts_what_is_inflated_and_is_met_exactly(content_encoding: str | None) -> None:
    packs: dict[str | None, Callable[[bytes], bytes]]
    packs = {None: bytes, "gzip": gzip.compress, "deflate": zlib.compress}
    pack = packs[content_encoding]
    assert inflate(pack(b"x" * 5000), content_encoding, 5000) == b"x" * 5000
    with pytest.raises(BodyTooLarge) as caught:
        inflate(pack(b"x" * 5001), content_encoding, 5000)
    assert caught.value.status == 413


def test_members_count_together() -> None:
    with pytest.raises(BodyTooLarge):
        inflate(gzip.compress(b"x" * 3000) * 2, "gzip", 5000)


def test_the_limit_is_what_the_specification_recommends() -> None:
    assert MAX_BODY_BYTES == 64 * 1024 * 1024
    assert len(inflate(gzip.compress(bytes(MAX_BODY_BYTES), 1), "gzip")) == MAX_BODY_BYTES


@pytest.mark.parametrize("content_encoding", ["gzip", "deflate"])
def test_a_bomb_costs_no_more_memory_than_the_limit(content_encoding: str) -> None:
    pack = zlib.compressobj(9, zlib.DEFLATED, 31 if content_encoding == "gzip" else 15)
    zeros = bytes(1024 * 1024)
    bomb = b"".join([pack.compress(zeros) for _ in range(256)] + [pack.flush()])
    limit = 1024 * 1024
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            inflate(bomb, content_encoding, limit)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit


def test_a_body_of_countless_empty_members_is_not_followed() -> None:
    with pytest.raises(InvalidRequest):
        inflate(gzip.compress(b"") * (MAX_GZIP_MEMBERS + 1), "gzip")
    assert inflate(gzip.compress(b"") * MAX_GZIP_MEMBERS, "gzip") == b""


def test_full_success_is_an_empty_message_in_either_encoding() -> None:
    assert export_response(OtlpEncoding.PROTOBUF) == b""
    assert export_response(OtlpEncoding.JSON) == b"{}"


def test_partial_success_names_number_and_reason() -> None:
    response = ExportTraceServiceResponse.FromString(export_response(OtlpEncoding.PROTOBUF, 3, "no id"))
    assert response.partial_success.rejected_spans == 3
    assert response.partial_success.error_message == "no id"
    assert json.loads(export_response(OtlpEncoding.JSON, 3, "no id")) == {
        "partialSuccess": {"rejectedSpans": "3", "errorMessage": "no id"}
    }


def test_a_message_without_rejections_is_a_warning() -> None:
    response = ExportTraceServiceResponse.FromString(export_response(OtlpEncoding.PROTOBUF, message="careful"))
    assert response.HasField("partial_success")
    assert response.partial_success.rejected_spans == 0
    assert json.loads(export_response(OtlpEncoding.JSON, message="careful")) == {
        "partialSuccess": {"errorMessage": "careful"}
    }


@pytest.mark.parametrize("encoding", list(OtlpEncoding))
def test_a_message_is_bounded(encoding: OtlpEncoding) -> None:
    assert len(export_response(encoding, 1, "x" * 10**6)) < 3000
    assert len(status_response(encoding, 3, "x" * 10**6)) < 3000


def test_a_failure_is_a_google_rpc_status_in_the_same_encoding() -> None:
    status = status_pb2.Status.FromString(status_response(OtlpEncoding.PROTOBUF, 3, "bad ü"))
    assert (status.code, status.message) == (3, "bad ü")
    assert json.loads(status_response(OtlpEncoding.JSON, 3, "bad ü")) == {"code": 3, "message": "bad ü"}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, code_pb2.INVALID_ARGUMENT),
        (401, code_pb2.UNAUTHENTICATED),
        (403, code_pb2.PERMISSION_DENIED),
        (404, code_pb2.NOT_FOUND),
        (413, code_pb2.RESOURCE_EXHAUSTED),
        (415, code_pb2.INVALID_ARGUMENT),
        (429, code_pb2.RESOURCE_EXHAUSTED),
        (503, code_pb2.UNAVAILABLE),
        (504, code_pb2.DEADLINE_EXCEEDED),
        (418, code_pb2.FAILED_PRECONDITION),
        (599, code_pb2.INTERNAL),
    ],
)
def test_statuses_have_their_rpc_codes(status: int, code: int) -> None:
    assert rpc_code(status) == code


def test_windows_do_not_show_in_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding_module, "WINDOW_BYTES", 7)
    assert inflate(GZIPPED * 3, "gzip") == DATA * 3
