"""The gateway's own record: what is in PostgreSQL after model calls, and what is not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
import pytest

from hx_gateway.observability import DatabaseConfig, DatabaseIntegrationLayer
from tests.fixtures.gateway import NO_STORES, Gateway, StartGateway, free_port
from tests.fixtures.otlp_collector import collecting
from tests.fixtures.servers import Servers
from tests.fixtures.zoo import Zoo

CANARY = "zanzibar-canary-5f1c"
LANGFUSE = "Basic bWFkZS11cDpmb3ItdGVzdHM="
# Rows come with the next batch, a second at most, and metrics every ten.
ROWS_SECONDS = 30.0
METRICS_SECONDS = 60.0
TABLES = ("trace_events", "routing_decisions", "performance_metrics", "transformation_events")


@contextmanager
def ollama() -> Iterator[str]:
    """Serve Ollama's embeddings on a port of loopback; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = json.dumps({"embeddings": [[0.5, 0.25]], "prompt_eval_count": 4}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, zoo_beside: Zoo) -> Iterator[Path]:
    """A configuration with two deployments of a model, an alias, an Ollama, and a server that is not there."""
    with ollama() as embedder:
        entries = [
            ("big", "openai/zoo:ok", f"{zoo_beside.url}/v1"),
            ("big", "openai/zoo:ok", f"{zoo_beside.url}/v1"),
            ("embedder", "ollama/nomic", embedder),
            ("away", "openai/x", f"http://127.0.0.1:{free_port()}/v1"),
        ]
        models = [
            {"model_name": name, "litellm_params": {"model": model, "api_base": base, "api_key": "sk-made-up"}}
            for name, model, base in entries
        ]
        document = {"model_list": models, "router_settings": {"model_group_alias": {"fast": "big"}}}
        path = tmp_path_factory.mktemp("config") / "config.yaml"
        path.write_text(json.dumps(document))
        yield path


@pytest.fixture(scope="module")
def recording(
    servers: Servers, config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, str]]:
    """Run one gateway that records into PostgreSQL; yields it and the database's address."""
    url = servers.postgres.url
    environ = {**NO_STORES, "PG_URL": url, "HX_MODEL_CONFIG": str(config)}
    gateway = Gateway(environ, tmp_path_factory.mktemp("gateway")).start()
    yield gateway, url
    gateway.stop()


@asynccontextmanager
async def library(url: str, journal: Path) -> Any:
    """Open the record as a library."""
    async with DatabaseIntegrationLayer(DatabaseConfig(url=url, journal_dir=journal, pool_min_size=0)) as layer:
        yield layer


def call(gateway: Gateway, request_id: str, path: str, body: dict[str, Any], *, key: str | None = None) -> int:
    """Make one request under ``request_id``; return its status."""
    headers = {"x-request-id": request_id}
    return gateway.request("POST", path, body, key=key or gateway.key, headers=headers).status


def chat(model: str, **more: Any) -> dict[str, Any]:
    """Return the body of a chat that holds the canary."""
    return {"model": model, "messages": [{"role": "user", "content": f"what about {CANARY}?"}], **more}


async def until(condition: Any, seconds: float) -> Any:
    """Return what ``condition`` returns once that is true."""
    async with asyncio.timeout(seconds):
        while not (result := await condition()):
            await asyncio.sleep(0.1)
        return result


async def trace_of(layer: DatabaseIntegrationLayer, request_id: str) -> dict[str, Any]:
    """Return the one trace event of a request."""
    (event,) = await until(lambda: layer.query_trace_events(trace_id=request_id), ROWS_SECONDS)
    return dict(event)


async def everything(url: str) -> str:
    """Return every row of every table, as text."""
    connection = await asyncpg.connect(url)
    try:
        names = [f"agent_observability.{table}" for table in TABLES] + ["hx_gateway.dead_letters"]
        rows = [row[0] for name in names for row in await connection.fetch(f"SELECT t::text FROM {name} t")]
    finally:
        await connection.close()
    return "\n".join(rows)


async def test_a_chat_is_a_trace_a_decision_and_a_transformation(
    recording: tuple[Gateway, str], tmp_path: Path
) -> None:
    gateway, url = recording
    assert call(gateway, "req-chat", "/v1/chat/completions", chat("fast")) == 200
    async with library(url, tmp_path) as layer:
        trace = await trace_of(layer, "req-chat")
        assert (trace["event_type"], trace["level"], trace["tenant_id"]) == ("REQUEST", "INFO", "default")
        assert trace["metadata"]["prompt_tokens"] == 5
        assert trace["metadata"]["upstream_ms"] > 0
        assert (trace["metadata"]["requested_model"], trace["metadata"]["model"]) == ("fast", "big")
        (decision,) = await layer.query_routing_decisions(trace_id="req-chat")
        assert (decision["user_request"], decision["selected_agent"]) == ("chat big", "big")
        assert decision["alternatives"] == ["big#2"]
        assert decision["latency_ms"] >= 0
        (change,) = await layer.query_transformation_events(trace_id="req-chat")
        assert change["transformation_type"] == "alias"


async def test_an_embedding_in_another_wire_format_is_a_transformation(
    recording: tuple[Gateway, str], tmp_path: Path
) -> None:
    gateway, url = recording
    assert call(gateway, "req-embed", "/v1/embeddings", {"model": "embedder", "input": CANARY}) == 200
    async with library(url, tmp_path) as layer:
        trace = await trace_of(layer, "req-embed")
        assert (trace["metadata"]["operation"], trace["metadata"]["provider"]) == ("embedding", "ollama")
        (change,) = await layer.query_transformation_events(trace_id="req-embed")
        assert (change["transformation_type"], change["success"]) == ("embedding_input_to_prompt", True)


async def test_a_stream_is_recorded_with_its_first_byte_and_tokens(
    recording: tuple[Gateway, str], tmp_path: Path
) -> None:
    gateway, url = recording
    assert call(gateway, "req-stream", "/v1/chat/completions", chat("big", stream=True)) == 200
    async with library(url, tmp_path) as layer:
        metadata = (await trace_of(layer, "req-stream"))["metadata"]
        assert (metadata["stream"], metadata["ending"], metadata["completion_tokens"]) == (True, "complete", 2)
        assert metadata["first_byte_ms"] > 0


@pytest.mark.parametrize(
    ("name", "model", "key", "status", "level", "code", "decided"),
    [
        ("refused", "big", "sk-wrong", 401, "WARN", "invalid_api_key", False),
        ("unknown", "nobody-has-it", None, 404, "WARN", "model_not_found", False),
        ("down", "away", None, 502, "ERROR", "upstream_unreachable", True),
    ],
)
async def test_what_fails_is_recorded_too(
    recording: tuple[Gateway, str],
    tmp_path: Path,
    name: str,
    model: str,
    key: str | None,
    status: int,
    level: str,
    code: str,
    decided: bool,
) -> None:
    gateway, url = recording
    assert call(gateway, f"req-{name}", "/v1/chat/completions", chat(model), key=key) == status
    async with library(url, tmp_path) as layer:
        trace = await trace_of(layer, f"req-{name}")
        assert (trace["level"], trace["metadata"]["error_code"]) == (level, code)
        assert bool(await layer.query_routing_decisions(trace_id=f"req-{name}")) is decided


async def test_latencies_are_metrics_soon(recording: tuple[Gateway, str], tmp_path: Path) -> None:
    gateway, url = recording
    assert call(gateway, "req-metrics", "/v1/chat/completions", chat("big", stream=True)) == 200
    names = ("routing_decision_latency", "request_duration", "upstream_latency", "time_to_first_byte")
    async with library(url, tmp_path) as layer:
        for name in names:
            row = (await until(lambda name=name: layer.query_performance_metrics(name), METRICS_SECONDS))[0]
            assert (row["metric_type"], row["component"], row["unit"]) == ("latency", "gateway", "ms")
            assert row["metadata"]["min"] <= row["metric_value"] <= row["metadata"]["max"]


async def test_other_routes_are_not_recorded(recording: tuple[Gateway, str], tmp_path: Path) -> None:
    gateway, url = recording
    assert gateway.request("GET", "/v1/models", key=gateway.key, headers={"x-request-id": "req-list"}).status == 200
    assert call(gateway, "req-after", "/v1/chat/completions", chat("big")) == 200
    async with library(url, tmp_path) as layer:
        await trace_of(layer, "req-after")
        assert await layer.query_trace_events(trace_id="req-list") == []


async def test_no_prompt_answer_key_or_address_gets_into_the_database_or_the_log(
    recording: tuple[Gateway, str], tmp_path: Path
) -> None:
    gateway, url = recording
    assert call(gateway, "req-canary", "/v1/chat/completions", chat("big", user=CANARY, metadata={"x": CANARY})) == 200
    assert call(gateway, "req-canary-away", "/v1/chat/completions", chat("away")) == 502
    assert call(gateway, "req-canary-bad", "/v1/chat/completions", {"model": "big", "messages": CANARY}) == 400
    async with library(url, tmp_path) as layer:
        for request_id in ("req-canary", "req-canary-away", "req-canary-bad"):
            await trace_of(layer, request_id)
    found = await everything(url)
    assert "req-canary" in found
    for secret in (CANARY, "hello zoo", "sk-made-up", gateway.key, "127.0.0.1"):
        assert secret not in found, secret
    assert CANARY not in gateway.log()


async def test_while_the_database_is_away_the_journal_keeps_requests_and_no_prompt(
    start_gateway: StartGateway, servers: Servers, config: Path, tmp_path: Path
) -> None:
    away = f"postgresql://hx@127.0.0.1:{free_port()}/postgres"
    gateway = start_gateway({"PG_URL": away, "HX_MODEL_CONFIG": str(config)}, wait=False)
    gateway.wait_until(lambda: gateway.get("/livez").status == 200)
    assert call(gateway, "req-journal", "/v1/chat/completions", chat("fast")) == 200
    gateway.stop()
    kept = b"".join(path.read_bytes() for path in gateway.data_dir.rglob("*") if path.is_file())
    assert b"req-journal" in kept
    assert CANARY.encode() not in kept
    gateway.environ["PG_URL"] = servers.postgres.url
    gateway.start()
    async with library(servers.postgres.url, tmp_path) as layer:
        trace = await trace_of(layer, "req-journal")
        assert trace["metadata"]["model"] == "big"
        assert len(await layer.query_routing_decisions(trace_id="req-journal")) == 1


async def test_of_a_sample_only_failures_are_sure(
    start_gateway: StartGateway, servers: Servers, config: Path, tmp_path: Path
) -> None:
    url = servers.postgres.url
    gateway = start_gateway({"PG_URL": url, "HX_MODEL_CONFIG": str(config), "HX_TRACE_SAMPLE": "0"})
    assert call(gateway, "req-unsampled", "/v1/chat/completions", chat("big")) == 200
    assert call(gateway, "req-failed", "/v1/chat/completions", chat("away")) == 502
    gateway.stop()
    async with library(url, tmp_path) as layer:
        await trace_of(layer, "req-failed")
        assert await layer.query_trace_events(trace_id="req-unsampled") == []


def exporting(config: Path, url: str) -> dict[str, str]:
    """Return the variables of a gateway that sends to the collector at ``url``."""
    headers = f"Authorization={LANGFUSE}"
    return {"HX_MODEL_CONFIG": str(config), "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_HEADERS": headers}


def test_calls_are_sent_to_a_collector(start_gateway: StartGateway, config: Path) -> None:
    with collecting() as collector:
        gateway = start_gateway(exporting(config, collector.url))
        assert call(gateway, "req-1", "/v1/chat/completions", chat("fast")) == 200
        assert call(gateway, "req-2", "/v1/chat/completions", chat("away")) == 502
        assert call(gateway, "req-3", "/v1/chat/completions", chat("nobody-has-it")) == 404
        spans = {span["attributes"]["hx.request_id"]: span for span in collector.wait_for_spans(2)}
        gateway.stop()
    assert spans.keys() == {"req-1", "req-2"}
    assert (spans["req-1"]["name"], spans["req-1"]["attributes"]["gen_ai.usage.input_tokens"]) == ("chat big", 5)
    assert spans["req-2"]["attributes"]["error.type"] == "upstream_unreachable"
    durations = collector.histograms()["gen_ai.client.operation.duration"]
    assert sum(point["count"] for point in durations) == 2
    assert {sent["authorization"] for _, sent, _ in collector.requests} == {LANGFUSE}
    assert CANARY.encode() not in b"".join(body for _, _, body in collector.requests)
    assert LANGFUSE not in gateway.log()


@pytest.mark.parametrize("hangs", [True, False], ids=["hanging", "dead"])
def test_a_lost_collector_slows_neither_requests_nor_the_end(
    start_gateway: StartGateway, config: Path, hangs: bool
) -> None:
    with collecting(hangs=True) as collector:
        url = collector.url if hangs else f"http://127.0.0.1:{free_port()}"
        gateway = start_gateway(exporting(config, url))
        for number in range(50):
            began = time.monotonic()
            assert call(gateway, f"req-{number}", "/v1/chat/completions", chat("big")) == 200
            assert time.monotonic() - began < 5
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 15
    assert "otlp_export_abandoned" in gateway.log()
    assert LANGFUSE not in gateway.log()
