"""The record as a library, against real databases."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from hx_gateway.errors import HXError, Unavailable
from hx_gateway.kit.breaker import CircuitState
from hx_gateway.observability import (
    DatabaseConfig,
    DatabaseHealthStatus,
    DatabaseIntegrationLayer,
    Durability,
    InvalidEvent,
    TraceLogger,
    get_database_layer,
    get_trace_logger,
)
from hx_gateway.observability.figures import RecordFigures
from hx_gateway.telemetry import Metrics
from tests.fixtures.gateway import free_port
from tests.fixtures.servers import Servers
from tests.integration.db.databases import fresh_database

NOBODY = "postgresql://nobody@127.0.0.1:{port}/nowhere"


class MovedClock:
    """A clock that a test sets; it does not run."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("not in these tests")


@asynccontextmanager
async def layer(url: str, folder: Path, **changes: Any) -> AsyncIterator[DatabaseIntegrationLayer]:
    config = DatabaseConfig(
        url=url, journal_dir=folder / "journal", pool_min_size=0, pool_max_size=3, batch_seconds=0.05, **changes
    )
    async with DatabaseIntegrationLayer(config) as made:
        yield made


async def test_each_kind_of_event_comes_back_as_it_was_written(database: str, tmp_path: Path) -> None:
    async with layer(database, tmp_path) as db:
        await db.write_trace_event(
            "t1", "AGENT_START", "ERROR", "hello", "agent", "task", metadata={"a": [1, None, "x"]}
        )
        await db.write_routing_decision(
            "fix it", "debugger", 0.75, [{"agent": "other"}], "why", "fuzzy", latency_ms=1.5
        )
        await db.write_performance_metric("latency", 12.5, "latency", "router", unit="ms")
        await db.write_transformation_event("alias", source_agent="a", target_agent="b", input_bytes=7, success=False)
        assert await db.flush(10)
        (event,) = await db.query_trace_events(trace_id="t1", agent_name="agent", event_type="AGENT_START")
        (decision,) = await db.query_routing_decisions(selected_agent="debugger", min_confidence=0.5)
        (metric,) = await db.query_performance_metrics(metric_name="latency", component="router")
        (transformation,) = await db.query_transformation_events(source_agent="a", target_agent="b")
    assert (event["level"], event["message"], event["task_id"]) == ("ERROR", "hello", "task")
    assert event["metadata"] == {"a": [1, None, "x"]}
    assert (decision["user_request"], decision["confidence_score"], decision["latency_ms"]) == ("fix it", 0.75, 1.5)
    assert decision["alternatives"] == [{"agent": "other"}]
    assert (metric["metric_value"], metric["metric_type"], metric["unit"]) == (12.5, "latency", "ms")
    assert (transformation["input_bytes"], transformation["success"]) == (7, False)
    assert event["tenant_id"] == decision["tenant_id"] == "default"


async def test_a_shutdown_without_a_flush_loses_nothing(database: str, tmp_path: Path) -> None:
    async with layer(database, tmp_path) as db:
        for number in range(250):
            await db.write_trace_event(f"t{number}", "A")
    async with layer(database, tmp_path) as db:
        assert len(await db.query_trace_events(limit=1000)) == 250


async def test_without_a_database_events_wait_and_the_next_start_stores_them(database: str, tmp_path: Path) -> None:
    async with layer(NOBODY.format(port=free_port()), tmp_path, shutdown_seconds=0.5) as db:
        await db.write_trace_event("t1", "A")
        assert not await db.flush(0.3)
        with pytest.raises(HXError):
            await db.query_trace_events()
        health = await db.get_health_metrics()
        assert health.status is not DatabaseHealthStatus.HEALTHY
        assert (health.accepting, health.durable, health.waiting) == (True, True, 1)
    async with layer(database, tmp_path) as db:
        while not await db.query_trace_events(trace_id="t1"):
            assert await db.flush(5)
        assert db.journal.counts.of("trace_events").recovered == 1


async def test_before_the_tables_are_there_a_query_says_so(servers: Servers, tmp_path: Path) -> None:
    with fresh_database(servers.postgres) as url:
        async with layer(url, tmp_path, migrate=False) as db:
            assert db.postgres is not None
            assert await db.postgres.healthy()
            with pytest.raises(Unavailable, match="not there yet"):
                await db.query_trace_events()


async def test_an_open_circuit_is_unhealthy_and_says_why(tmp_path: Path) -> None:
    url = NOBODY.format(port=free_port())
    async with layer(url, tmp_path, failure_threshold=1, shutdown_seconds=0.1) as db:
        with capture_logs() as logs:
            await db.write_trace_event("t1", "A")
            await db.flush(3)
        health = await db.get_health_metrics()
        assert (health.status, health.circuit_state) == (DatabaseHealthStatus.UNHEALTHY, CircuitState.OPEN)
        assert "circuit_open" in health.reasons
        assert db.drain is not None
        metrics = Metrics()
        RecordFigures(metrics, db, [db.drain]).publish()
        assert metrics.registry.get_sample_value("hx_record_health") == 3
        free = metrics.registry.get_sample_value("hx_journal_free_bytes", {"journal": "events"})
        assert free is not None
        assert free > 0
        assert health.last_error is not None
        assert health.failed_queries > 0
        assert [entry["event"] for entry in logs].count("circuit_changed") == 1
        json.dumps(health.to_dict())


async def test_one_bad_event_of_a_batch_costs_no_other(database: str, tmp_path: Path) -> None:
    async with layer(database, tmp_path) as db:
        events: list[dict[str, Any]] = [
            {"trace_id": "t1", "event_type": "A"},
            {"trace_id": "", "event_type": "A"},
            {"trace_id": "t2"},
            {"trace_id": "t3", "event_type": "A", "colour": "red"},
            {"trace_id": "t4", "event_type": "A", "duration_ms": float("nan")},
            {"trace_id": "t5", "event_type": "A", "level": "DEBUG"},
        ]
        results = await db.write_many("trace_events", events)
        assert await db.flush(10)
        stored = await db.query_trace_events()
    fields = [result.error.param if result.error else None for result in results]
    assert fields == [None, "trace_id", "event_type", "colour", "duration_ms", None]
    assert {event["event_id"] for event in stored} == {result.event_id for result in results if result.error is None}


async def test_what_comes_twice_is_stored_once_and_counted(database: str, tmp_path: Path) -> None:
    event = {
        "trace_id": "t1",
        "event_type": "A",
        "timestamp": datetime.now(UTC),
        "event_id": "5ddaa8e8-16fc-4389-9671-627f1007298f",
    }
    async with layer(database, tmp_path) as db:
        await db.write_many("trace_events", [event, event])
        assert await db.flush(10)
        await db.write_trace_event(**event)  # type: ignore[arg-type]
        await db.write_trace_event("t1", "B")
        assert await db.flush(10)
        counts = db.journal.counts.of("trace_events")
        assert (counts.committed, counts.duplicate, counts.waiting) == (2, 2, 0)
        assert len(await db.query_trace_events(trace_id="t1")) == 2


async def test_the_metrics_of_the_record_add_up(database: str, tmp_path: Path) -> None:
    metrics = Metrics()
    async with layer(database, tmp_path) as db:
        assert db.drain is not None
        figures = RecordFigures(metrics, db, [db.drain])
        event = {"trace_id": "t1", "event_type": "A", "timestamp": datetime.now(UTC)}
        twice = {**event, "event_id": "5ddaa8e8-16fc-4389-9671-627f1007298f"}
        await db.write_many("trace_events", [twice, twice, event, {**event, "trace_id": ""}])
        # A row that PostgreSQL refuses: its metadata is not JSON.
        row = db._rows.trace_event("t2", "A")
        db.journal.append(1, row.data[:-2] + b"{!", 1, row.time_us, row.time_us)
        assert await db.flush(10)
        db.drain._connect = _away
        for lane in db.drain._lanes:
            lane.drop()
            lane._connect = _away
        await db.write_trace_event("t3", "A")
        figures.publish()

    def value(name: str) -> float:
        return sum(
            sample.value
            for metric in metrics.registry.collect()
            for sample in metric.samples
            if sample.name == name and sample.labels.get("table") == "trace_events"
        )

    assert value("hx_events_received_total") == 5
    assert value("hx_events_committed_total") == 2
    assert value("hx_events_duplicate_total") == 1
    assert value("hx_events_dead_lettered_total") == 1
    assert value("hx_events_waiting") == 1
    into = value("hx_events_received_total") + value("hx_events_recovered_total")
    names = ("committed_total", "duplicate_total", "dead_lettered_total", "dropped_total", "waiting")
    assert into == sum(value(f"hx_events_{name}") for name in names)


async def _away() -> asyncpg.Connection[Any]:
    raise ConnectionRefusedError


async def test_retention_takes_partitions_and_the_older_rows_of_the_last_one(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = MovedClock()
    config = DatabaseConfig(
        url=database, journal_dir=tmp_path, pool_min_size=0, batch_seconds=0.05, health_check_interval=3600
    )
    async with layer(database, tmp_path) as db:
        now = datetime.now(UTC).replace(hour=12, minute=0)
        for days in (0, 5, 20):
            for hour in (-6, 6):
                await db.write_trace_event("t1", f"D{days}", timestamp=now - timedelta(days=days, hours=-min(hour, 0)))
        assert await db.flush(10)
    late = DatabaseIntegrationLayer(config, clock=clock)
    assert late.upkeep is not None
    # 30 days after noon of five days ago: the day of 20 days before is past, that of 5 days before is cut in two.
    clock.moment = now - timedelta(days=5) + timedelta(days=30) - timedelta(hours=1)

    async def moved(_connection: object) -> datetime:
        return clock.moment

    with capture_logs() as logs:
        # Our clock alone is not believed: it may be wrong.
        assert (await late.apply_retention_policy())["trace_events"] == 0
        monkeypatch.setattr(late.upkeep, "_surely_past", moved)
        assert (await late.apply_retention_policy())["trace_events"] == 3
    applied = [entry for entry in logs if entry["event"] == "retention_applied"]
    assert [(entry["table"], entry["rows"], entry["trimmed"]) for entry in applied] == [("trace_events", 3, 1)]
    connection = await asyncpg.connect(database)
    try:
        left = await connection.fetch("SELECT event_type FROM agent_observability.trace_events ORDER BY timestamp")
    finally:
        await connection.close()
    assert [row["event_type"] for row in left] == ["D5", "D0", "D0"]


async def test_a_trace_logger_writes_to_its_file_at_once_and_to_the_database(database: str, tmp_path: Path) -> None:
    async with layer(database, tmp_path) as db:
        logger = TraceLogger(db, tmp_path / "trace.jsonl")
        await logger.log_event("t1", "A", message="line one\nline two", metadata={"a": 1})
        with pytest.raises(InvalidEvent):
            await logger.log_event("", "A")
        (line,) = map(json.loads, (tmp_path / "trace.jsonl").read_text().splitlines())
        assert await db.flush(10)
        (event,) = await db.query_trace_events(trace_id="t1")
        logger.close()
    assert line["message"] == event["message"] == "line one\nline two"
    assert line["metadata"] == event["metadata"] == {"a": 1}
    assert datetime.fromisoformat(line["timestamp"]) == event["timestamp"]


@pytest.mark.parametrize("durability", list(Durability))
async def test_every_durability_stores_what_was_written(database: str, tmp_path: Path, durability: Durability) -> None:
    async with layer(database, tmp_path, durability=durability, segment_bytes=4096) as db:
        for number in range(100):
            await db.write_trace_event(f"t{number}", "A", message="x" * 200)
            if durability.syncs and number > 5:
                break
        assert await db.flush(10)
        assert len(await db.query_trace_events(limit=1000)) == (7 if durability.syncs else 100)
        health = await db.get_health_metrics()
        assert health.durable is (durability is not Durability.MEMORY)


def test_there_is_one_layer_and_one_logger_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PG_URL", NOBODY.format(port=1))
    monkeypatch.setenv("HX_JOURNAL_DIR", str(tmp_path))
    assert get_database_layer() is get_database_layer()
    assert get_trace_logger() is get_trace_logger()
    assert get_trace_logger().path == tmp_path / "trace-events.jsonl"


@pytest.mark.parametrize(
    ("environ", "dsn"),
    [
        ({}, "postgresql://postgres@localhost:5436/omninode_bridge"),
        ({"POSTGRES_HOST": "db.example.org", "POSTGRES_PASSWORD": "p@ss"}, "p%40ss@db.example.org:5436"),
        ({"PG_URL": "postgresql://a@b/c", "POSTGRES_HOST": "d"}, "postgresql://a@b/c"),
    ],
)
def test_the_library_finds_its_database_in_the_environment(environ: dict[str, str], dsn: str) -> None:
    found = DatabaseConfig.from_env(environ, env_file=None).dsn
    assert found is not None
    assert dsn in found


def test_the_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("POSTGRES_PORT=1111\nPOSTGRES_POOL_MAX_SIZE=7\nTRACE_EVENTS_RETENTION_DAYS=3\n")
    config = DatabaseConfig.from_env({"POSTGRES_PORT": "2222"}, env_file=file)
    assert (config.port, config.pool_max_size, config.retention_days["trace_events"]) == (2222, 7, 3)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("POSTGRES_PORT", "high"), ("POSTGRES_POOL_MAX_SIZE", "0"), ("HX_JOURNAL_DURABILITY", "iron")],
)
def test_a_bad_variable_is_named(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        DatabaseConfig.from_env({variable: value}, env_file=None)


def test_the_library_does_not_bring_the_server_with_it() -> None:
    script = "import sys, hx_gateway.observability; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert not {"fastapi", "uvicorn", "hx_gateway.settings", "hx_gateway.app"} & set(done.stdout.split())
