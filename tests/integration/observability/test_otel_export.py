"""Model calls leave as OpenTelemetry spans and metrics, whatever the collector does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hx_gateway.events import Ending, RequestFinished
from hx_gateway.observability.otel_export import GenAiExport, parse_headers
from tests.fixtures.gateway import free_port
from tests.fixtures.otlp_collector import Collector, collecting
from tests.unit.observability.requests_made import ENDED, REFUSED, finished

CLIENT, FAILED = 3, 2
SECRET = "Basic bWFkZS11cDpmb3ItdGVzdHM="
# The conventions' text, version 1.41 (gen-ai-metrics).
DURATION_BOUNDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BOUNDS = tuple(float(4**power) for power in range(14))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


async def export_all(collector: Collector, *events: RequestFinished) -> None:
    async with GenAiExport(endpoint=collector.url) as export:
        for event in events:
            export.emit(event)


async def test_a_call_is_a_span_of_its_own_times(collector: Collector) -> None:
    await export_all(collector, finished(stream=True, first_byte_seconds=0.25))
    (span,) = collector.spans()
    assert (span["name"], span["kind"], span["status"]) == ("chat gpt-5", CLIENT, 0)
    assert (span["start"], span["end"]) == (ENDED.ended_ns - 500_000_000, ENDED.ended_ns)
    assert span["attributes"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "server.address": "api.example.org",
        "server.port": 443,
        "http.response.status_code": 200,
        "hx.request_id": "req_1",
        "hx.deployment": "gpt-5",
    }
    assert (span["resource"]["service.name"], "service.version" in span["resource"]) == ("hx-gateway", True)
    assert span["parent"] == ""


async def test_a_span_belongs_to_the_clients_trace(collector: Collector) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await export_all(collector, finished(traceparent=parent), finished(traceparent="nonsense"))
    first, second = collector.spans()
    assert (first["trace_id"], first["parent"]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert (second["trace_id"] == first["trace_id"], second["parent"]) == (False, "")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 502, "ending": Ending.ERROR, "error_code": "upstream_error"}, "upstream_error"),
        ({"status": 429}, "429"),
        ({"status": 499, "ending": Ending.CLIENT_GONE}, "client_gone"),
    ],
)
async def test_a_failed_call_says_how(collector: Collector, changes: dict[str, Any], error: str) -> None:
    await export_all(collector, finished(**changes))
    (span,) = collector.spans()
    assert span["status"] == FAILED
    assert span["attributes"]["error.type"] == error
    (point,) = collector.histograms()["gen_ai.client.operation.duration"]
    assert point["attributes"]["error.type"] == error


async def test_metrics_have_the_conventions_names_units_and_buckets(collector: Collector) -> None:
    await export_all(collector, ENDED, finished(duration=1.5), finished(operation="embedding", usage=None))
    found = collector.histograms()
    assert found.keys() == {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"}
    chat, embeddings = found["gen_ai.client.operation.duration"]
    assert (chat["unit"], chat["bounds"], chat["count"], chat["sum"]) == ("s", DURATION_BOUNDS, 2, 2.0)
    assert chat["attributes"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "server.address": "api.example.org",
        "server.port": 443,
    }
    assert embeddings["attributes"]["gen_ai.operation.name"] == "embeddings"
    tokens = {point["attributes"]["gen_ai.token.type"]: point for point in found["gen_ai.client.token.usage"]}
    assert (tokens["input"]["sum"], tokens["output"]["sum"]) == (14.0, 6.0)
    assert (tokens["input"]["unit"], tokens["input"]["bounds"]) == ("{token}", TOKEN_BOUNDS)


async def test_made_up_models_do_not_become_series_without_end(collector: Collector) -> None:
    await export_all(collector, *(finished(model=f"m{number}") for number in range(250)))
    models = {
        point["attributes"]["gen_ai.request.model"]
        for point in collector.histograms()["gen_ai.client.operation.duration"]
    }
    assert len(models) == 201
    assert "other" in models


async def test_what_never_reached_a_model_is_no_call(collector: Collector) -> None:
    await export_all(collector, REFUSED, finished(status=404, ending=Ending.ERROR, upstream=None, provider=None))
    assert collector.spans() == []


async def test_headers_are_sent_and_a_whole_address_is_used_as_it_is(collector: Collector) -> None:
    headers = f"Authorization={SECRET},x-langfuse-ingestion-version=4"
    export = GenAiExport(traces_endpoint=f"{collector.url}/api/public/otel/v1/traces", headers=headers)
    async with export:
        export.emit(ENDED)
    (path, sent, _) = collector.requests[0]
    assert path == "/api/public/otel/v1/traces"
    assert (sent["authorization"], sent["x-langfuse-ingestion-version"]) == (SECRET, "4")
    assert collector.histograms() == {}


def test_headers_are_read_as_the_specification_says() -> None:
    assert parse_headers(" Authorization = Basic%20abc== , x-a=b ,") == {"authorization": "Basic abc==", "x-a": "b"}
    assert parse_headers("authorization=Basic abc=") == {"authorization": "Basic abc="}
    assert parse_headers("") == {}
    for text in ("secret", "=secret", "na me=secret", "a=secret%0d%0ab: c", "a=secret\u00e9"):
        with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_HEADERS") as caught:
            parse_headers(text)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["collector:4318", "grpc://collector:4317", "http://", "http://a:b", "http://[a"])
def test_an_address_that_is_none_is_refused_by_its_variable(address: str) -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        GenAiExport(endpoint=address)
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        GenAiExport(traces_endpoint=address)


async def test_events_outside_of_its_time_are_forgotten(collector: Collector) -> None:
    export = GenAiExport(endpoint=collector.url)
    export.emit(ENDED)
    async with export:
        pass
    export.emit(ENDED)
    assert collector.spans() == []


async def test_a_collector_that_hangs_holds_nobody_up() -> None:
    with collecting(hangs=True) as collector, capture_logs() as logs:
        export = GenAiExport(endpoint=collector.url, shutdown_seconds=0.5)
        async with export:
            began = time.monotonic()
            for _ in range(6000):
                export.emit(ENDED)
            assert time.monotonic() - began < 10
            began = time.monotonic()
        assert 0.4 < time.monotonic() - began < 5
    assert {"event": "otlp_export_abandoned", "log_level": "warning", "seconds": 0.5} in logs


async def test_a_dead_collector_is_told_of_without_a_secret() -> None:
    with capture_logs() as logs:
        dead = f"http://127.0.0.1:{free_port()}"
        async with GenAiExport(endpoint=dead, headers=f"authorization={SECRET}", shutdown_seconds=3.0) as export:
            export.emit(ENDED)
    told = [entry["detail"] for entry in logs if entry["event"] == "otlp_export_failed"]
    assert any("ConnectionError" in detail for detail in told)
    assert SECRET not in str(logs)
    assert not any("exc_info" in entry for entry in logs)


async def test_what_the_sdk_says_of_headers_it_cannot_read_is_not_repeated(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a-secret-alone")
    with capture_logs() as logs:
        await export_all(collector, ENDED)
    assert "opentelemetry.util.re" in [entry.get("source") for entry in logs]
    assert "a-secret-alone" not in str(logs)


def test_the_exporter_is_not_imported_by_the_program_itself() -> None:
    """redis-py imports parts of the SDK wherever they are installed; the exporter and its HTTP client are ours."""
    names = ("hx_gateway.observability.otel_export", "opentelemetry.exporter", "requests")
    code = f"import sys, hx_gateway.app; sys.exit(any(name in sys.modules for name in {names!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parent).returncode == 0
