"""The record over HTTP, on a running gateway with a real PostgreSQL."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode

from tests.acceptance.conftest import PREFIX, Record
from tests.fixtures.gateway import Gateway
from tests.fixtures.servers import Servers

TABLES = ("trace_events", "routing_decisions", "performance_metrics", "transformation_events")
# The circuit, once open, lets nothing through for a minute.
RECOVERED_SECONDS = 180.0
POISON = """
ALTER TABLE agent_observability.trace_events ADD CONSTRAINT no_poison CHECK (event_type <> 'poison') NOT VALID
"""


def step(**more: Any) -> dict[str, Any]:
    return {"trace_id": uuid4().hex, "event_type": "step", **more}


def test_events_of_every_table_come_back_as_they_were_sent(record: Record) -> None:
    name = uuid4().hex
    moment = datetime.now(UTC) - timedelta(minutes=5)
    common = {"timestamp": moment.isoformat(), "metadata": {"n": [1, {"a": None}], "text": "é🦊"}}
    events: dict[str, dict[str, Any]] = {
        "trace_events": {"trace_id": name, "event_type": "step", "level": "ERROR", "message": "m", "duration_ms": 1.5},
        "routing_decisions": {
            "user_request": "q",
            "selected_agent": name,
            "confidence_score": 0.75,
            "alternatives": [{"agent": "b"}],
        },
        "performance_metrics": {"metric_name": name, "metric_value": 2.5, "unit": "ms", "component": "db"},
        "transformation_events": {"transformation_type": name, "success": False, "input_bytes": 10, "error": "no"},
    }
    ids = record.send(*[{"table": table, **common, **event} for table, event in events.items()])
    record.stored()
    keys = ("trace_id", "selected_agent", "metric_name", "transformation_type")
    for table, key, event_id in zip(TABLES, keys, ids, strict=True):
        page = record.get(f"/{table}?{key}={name}")
        assert page["next_cursor"] is None
        (item,) = page["items"]
        assert item.items() >= {**events[table], "metadata": common["metadata"], "tenant_id": "default"}.items()
        assert item["event_id"] == event_id
        assert datetime.fromisoformat(item["timestamp"]) == moment


def test_tenants_do_not_see_each_other(record: Record) -> None:
    tenant, event = uuid4().hex, step()
    record.send(event, path=f"/events?tenant_id={tenant}")
    record.stored()
    own, theirs = f"trace_id={event['trace_id']}", f"tenant_id={tenant}"
    assert record.get(f"/trace_events?{own}")["items"] == []
    assert len(record.get(f"/trace_events?{own}&{theirs}")["items"]) == 1
    assert record.ask("GET", f"/traces/{event['trace_id']}").status == 404
    assert record.get(f"/traces/{event['trace_id']}?{theirs}")["event_count"] == 1
    assert record.ask("GET", f"/export/trace_events?{own}").body == b""
    assert record.ask("GET", f"/export/trace_events?{own}&{theirs}").body.count(b"\n") == 1


def test_pages_hold_every_event_once(record: Record) -> None:
    agent = uuid4().hex
    moment = (datetime.now(UTC) - timedelta(hours=23)).isoformat()
    sent = record.send(*[step(agent_name=agent, timestamp=moment) for _ in range(250)])
    record.stored()
    items = record.walk(f"/trace_events?agent_name={agent}&limit=40")
    assert [item["event_id"] for item in items] == sorted(sent, reverse=True)


def test_a_window_that_moves_on_between_pages_loses_nothing(record: Record) -> None:
    agent = uuid4().hex
    edge = datetime.now(UTC) - timedelta(hours=24)
    events = [step(agent_name=agent, timestamp=(edge + timedelta(seconds=second)).isoformat()) for second in (2, 3600)]
    record.send(*events)
    record.stored()
    first = record.get(f"/trace_events?agent_name={agent}&limit=1")
    if len(record.get(f"/trace_events?agent_name={agent}")["items"]) == 2:
        time.sleep(max(0.0, 2.1 - (datetime.now(UTC) - edge - timedelta(hours=24)).total_seconds()))
        assert first["next_cursor"] is not None
        second = record.get(f"/trace_events?agent_name={agent}&limit=1&cursor={first['next_cursor']}")
        assert len(second["items"]) == 1
        assert second["window"] == first["window"]
        assert len(record.get(f"/trace_events?agent_name={agent}")["items"]) == 1
    else:
        pytest.skip("the machine was too slow to see both events in the window")


def test_the_window_is_a_day_unless_it_is_given(record: Record) -> None:
    event = step(timestamp=(datetime.now(UTC) - timedelta(hours=25)).isoformat())
    record.send(event)
    record.stored()
    found = record.get(f"/trace_events?trace_id={event['trace_id']}")
    assert found["items"] == []
    assert found["window"]["end"] is None
    age = datetime.now(UTC) - datetime.fromisoformat(found["window"]["start"])
    assert timedelta(hours=24) <= age < timedelta(hours=24, minutes=1)
    start = (datetime.now(UTC) - timedelta(hours=26)).isoformat()
    for written in (start, start.replace("+", "%2B")):
        assert len(record.get(f"/trace_events?trace_id={event['trace_id']}&start_time={written}")["items"]) == 1
    end = (datetime.now(UTC) - timedelta(hours=2)).isoformat().replace("+00:00", "Z")
    assert len(record.get(f"/trace_events?trace_id={event['trace_id']}&end_time={end}")["items"]) == 1
    assert record.get(f"/traces/{event['trace_id']}")["event_count"] == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("colour=red", "colour"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("start_time=yesterday", "start_time"),
        ("start_time=2026-11-24T00:00:00", "start_time"),
        ("end_time=2026-11-24T00:00:00", "end_time"),
        ("end_time=0001-01-01T00:00:00Z", "end_time"),
        ("start_time=2026-11-24T00:00:00Z&end_time=2026-11-23T00:00:00Z", "start_time"),
        ("cursor=abc", "cursor"),
        ("cursor=zz.abc", "cursor"),
        ("cursor=ffffffffffffffff.abc", "cursor"),
        ("trace_id=%00", "trace_id"),
        ("min_level=LOUD", "min_level"),
        ("tenant_id=", "tenant_id"),
    ],
)
def test_a_wrong_parameter_is_named(record: Record, query: str, field: str) -> None:
    answer = record.ask("GET", f"/trace_events?{query}")
    assert (answer.status, answer.json()["param"]) == (400, field), answer.body


def test_a_trace_is_a_tree(record: Record) -> None:
    trace = uuid4().hex
    record.send(
        step(trace_id=trace, span_id="a"),
        step(trace_id=trace, span_id="b", parent_span_id="a", message="below"),
        step(trace_id=trace, message="loose"),
    )
    record.stored()
    tree = record.get(f"/traces/{trace}")
    assert (tree["trace_id"], tree["span_count"], tree["event_count"]) == (trace, 2, 3)
    assert tree["roots"][0]["children"][0]["events"][0]["message"] == "below"
    assert tree["events"][0]["message"] == "loose"
    now = datetime.now(UTC)
    assert record.get(f"/traces/{trace}?around={now:%Y-%m-%dT%H:%M:%SZ}")["event_count"] == 3
    assert record.ask("GET", f"/traces/{trace}?end={now - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}").status == 404
    assert record.ask("GET", f"/traces/{trace}?limit=1").status == 400


def test_an_export_holds_more_than_a_page_and_each_line_is_a_record(record: Record) -> None:
    agent = uuid4().hex
    sent = [record.send(*[step(agent_name=agent, message="x" * 200) for _ in range(500)]) for _ in range(5)]
    record.stored()
    answer = record.ask("GET", f"/export/trace_events?agent_name={agent}")
    assert (answer.status, answer.header("content-type")) == (200, "application/x-ndjson")
    assert answer.header("x-hx-window-start") is not None
    assert answer.header("content-length") is None
    assert answer.complete
    lines = answer.body.splitlines()
    assert answer.body.endswith(b"}\n")
    assert {json.loads(line)["event_id"] for line in lines} == {event_id for batch in sent for event_id in batch}
    assert len(lines) == 2500
    assert record.ask("GET", "/export/spans").status == 404
    assert record.ask("GET", "/export/trace_events?limit=5").json()["param"] == "limit"


def test_bad_events_cost_no_neighbours_in_any_form(record: Record) -> None:
    good, bad = json.dumps(step()), '{"trace_id": "t", "event_type": "step", "duration_ms": NaN}'
    bodies = {
        "application/json": f'{{"events": [{good}, {bad}, {good}]}}',
        "application/x-ndjson": f"{good}\n{bad}\n\n{good}",
    }
    for content_type, body in bodies.items():
        headers = {"content-type": content_type, "content-encoding": "gzip"}
        answer = record.ask("POST", "/events", raw=gzip.compress(body.encode()), headers=headers)
        assert answer.status == 207
        said = answer.json()
        assert (said["accepted"], said["rejected"]) == (2, 1)
        assert said["results"][1].items() >= {"status": "rejected", "field": "duration_ms"}.items()


def test_what_is_no_batch_is_refused(record: Record) -> None:
    cases: list[tuple[bytes, dict[str, str], int]] = [
        (b"oops", {}, 400),
        (b"{}", {"content-type": "text/csv"}, 415),
        (b"{}", {"content-encoding": "br"}, 415),
        (gzip.compress(b" " * (40 << 20)), {"content-encoding": "gzip"}, 413),
        (b" " * (33 << 20), {}, 413),
        (json.dumps([step()] * 10_001).encode(), {}, 413),
    ]
    for body, headers, status in cases:
        answer = record.ask("POST", "/events", raw=body, headers=headers)
        assert answer.status == status
        assert answer.header("content-type") == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{PREFIX}/events"),
        ("GET", f"{PREFIX}/trace_events"),
        ("GET", f"{PREFIX}/traces/x"),
        ("GET", f"{PREFIX}/export/trace_events"),
        ("GET", f"{PREFIX}/health"),
        ("POST", f"{PREFIX}/retention"),
        ("GET", f"{PREFIX}/dead_letters"),
        ("DELETE", f"{PREFIX}/dead_letters?ids=1"),
        ("POST", f"{PREFIX}/dead_letters/replay"),
        ("POST", f"{PREFIX}/otlp/v1/traces"),
        ("POST", "/v1/traces"),
    ],
)
def test_nothing_answers_without_a_key(record: Record, method: str, path: str) -> None:
    assert record.gateway.request(method, path).status == 401


def test_events_are_acknowledged_while_the_database_is_away_and_read_when_it_is_back(
    record: Record, servers: Servers
) -> None:
    agent = uuid4().hex
    before = record.send(step(agent_name=agent))
    record.stored()
    servers.postgres.kill()
    try:
        during = [event_id for _ in range(20) for event_id in record.send(*[step(agent_name=agent)] * 10)]
        for path in ("/trace_events", "/export/trace_events", "/traces/x", "/dead_letters"):
            answer = record.ask("GET", path)
            assert (answer.status, answer.json()["code"]) == (503, "dependency_unavailable"), path
            assert answer.header("retry-after") is not None
        assert record.ask("POST", "/retention").status == 503
        health = record.get("/health")
        assert health["accepting"] is True
        assert health["waiting"] >= 200
        assert record.gateway.request("POST", "/v1/traces", {}, key=record.gateway.key).status == 200
    finally:
        servers.postgres.start()
    path = f"/trace_events?agent_name={agent}&limit=1000"
    record.gateway.wait_until(lambda: record.ask("GET", path).status == 200)
    record.gateway.wait_until(lambda: record.get("/health")["waiting"] == 0, RECOVERED_SECONDS)
    assert {item["event_id"] for item in record.get(path)["items"]} == {*before, *during}


def test_dead_letters_are_shown_replayed_and_purged(record: Record) -> None:
    record.stored()
    record.execute(POISON)
    try:
        trace = uuid4().hex
        poison = [step(trace_id=trace, event_type="poison", message=str(number)) for number in range(3)]
        ids = record.send(poison[0], step(trace_id=trace), *poison[1:])
        record.gateway.wait_until(lambda: len(record.get("/dead_letters?target=trace_events")["items"]) == 3)
        assert len(record.get(f"/trace_events?trace_id={trace}")["items"]) == 1
        letters = record.walk("/dead_letters?limit=2&sqlstate=23514&replayed=false")
        assert [letter["sqlstate"] for letter in letters] == ["23514"] * 3
        numbers = [letter["id"] for letter in letters]
        assert numbers == sorted(numbers, reverse=True)
        assert record.get("/dead_letters?sqlstate=22000")["items"] == []
        assert record.get("/dead_letters?tenant_id=other")["items"] == []
        assert record.ask("GET", f"/dead_letters/{numbers[0]}?tenant_id=other").status == 404
        letter = record.get(f"/dead_letters/{numbers[-1]}")
        assert letter["payload"].items() >= {"event_id": ids[0], "event_type": "poison", "message": "0"}.items()
        # Nothing was mended: it fails again, as a letter of its own.
        said = record.ask("POST", "/dead_letters/replay", {"ids": [numbers[-1], 10**9]}).json()
        assert said["replayed"] == [numbers[-1]]
        assert said["skipped"] == [{"id": 10**9, "reason": "there is no such letter"}]
        record.gateway.wait_until(lambda: len(record.get("/dead_letters?replayed=false")["items"]) == 3)
        assert [letter["id"] for letter in record.get("/dead_letters?replayed=true")["items"]] == [numbers[-1]]
    finally:
        record.execute("ALTER TABLE agent_observability.trace_events DROP CONSTRAINT no_poison")
    said = record.ask("POST", "/dead_letters/replay", {"target": "trace_events"}).json()
    assert (len(said["replayed"]), said["skipped"], said["next_after"]) == (3, [], None)
    record.gateway.wait_until(lambda: len(record.get(f"/trace_events?trace_id={trace}")["items"]) == 4)
    # Once more does no harm: the rows are there.
    assert len(record.ask("POST", "/dead_letters/replay", {"ids": numbers}).json()["replayed"]) == 3
    record.stored()
    stored = {item["event_id"] for item in record.get(f"/trace_events?trace_id={trace}")["items"]}
    assert stored == set(ids)
    assert record.get("/dead_letters?replayed=false")["items"] == []
    assert record.ask("DELETE", f"/dead_letters?ids={numbers[0]},{numbers[1]}").json() == {"deleted": 2}
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    assert record.ask("DELETE", "/dead_letters", {"older_than": now}).json() == {"deleted": 2}
    assert record.get("/dead_letters")["items"] == []
    for wrong in ("", "?ids=x", "?older_than=soon", f"?ids=1&older_than={now}", "?ids=0"):
        assert record.ask("DELETE", f"/dead_letters{wrong}").status == 400


def test_a_letter_that_a_person_mended_is_stored_as_mended(record: Record) -> None:
    record.stored()
    record.execute(POISON)
    try:
        event = step(event_type="poison")
        record.send(event)
        record.gateway.wait_until(lambda: len(record.get("/dead_letters")["items"]) == 1)
        record.execute("UPDATE hx_gateway.dead_letters SET payload = jsonb_set(payload, '{event_type}', '\"mended\"')")
        record.ask("POST", "/dead_letters/replay", {"target": "trace_events"})
        path = f"/trace_events?trace_id={event['trace_id']}"
        record.gateway.wait_until(lambda: len(record.get(path)["items"]) == 1)
        assert record.get(path)["items"][0]["event_type"] == "mended"
    finally:
        record.execute("ALTER TABLE agent_observability.trace_events DROP CONSTRAINT no_poison")
        record.execute("DELETE FROM hx_gateway.dead_letters")


def test_any_number_of_letters_is_purged(record: Record) -> None:
    record.execute(
        "INSERT INTO hx_gateway.dead_letters (tenant_id, target) "
        "SELECT CASE WHEN n > 10000 THEN 'other' ELSE 'many' END, 'x' FROM generate_series(1, 10010) AS n"
    )
    later = f"{datetime.now(UTC) + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    assert record.ask("DELETE", f"/dead_letters?tenant_id=many&older_than={later}").json() == {"deleted": 10_000}
    assert record.ask("DELETE", f"/dead_letters?tenant_id=many&older_than={later}").json() == {"deleted": 0}
    assert record.ask("DELETE", f"/dead_letters?tenant_id=other&older_than={later}").json() == {"deleted": 10}


async def test_letters_that_somebody_holds_are_given_up_on(record: Record, servers: Servers) -> None:
    connection = await asyncpg.connect(servers.postgres.url)
    try:
        await connection.execute("BEGIN; LOCK TABLE hx_gateway.dead_letters IN ACCESS EXCLUSIVE MODE")
        answer = await asyncio.to_thread(record.ask, "GET", "/dead_letters")
    finally:
        await connection.close()
    assert (answer.status, answer.json()["code"]) == (504, "narrow_the_window")


def test_retention_says_what_it_would_do_and_does_it(record: Record) -> None:
    dry = record.ask("POST", "/retention?dry_run=true").json()
    age = datetime.now(UTC) - datetime.fromisoformat(dry["cutoffs"]["trace_events"])
    assert timedelta(days=30) <= age < timedelta(days=30, minutes=1)
    assert dry.keys() == {"dry_run", "cutoffs"}
    record.execute(
        "INSERT INTO agent_observability.trace_events (\"timestamp\", trace_id, event_type) SELECT now(), 'now', 'step'"
    )
    done = record.ask("POST", "/retention").json()
    assert set(done["removed"]) == set(TABLES)
    assert done["removed"]["trace_events"]["rows"] == 0


def test_the_official_exporter_delivers(record: Record) -> None:
    exporter = OTLPSpanExporter(
        f"{record.gateway.url}/v1/traces",
        timeout=10,
        compression=Compression.Gzip,
        headers={"authorization": f"Bearer {record.gateway.key}"},
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("agents", "2.0")
    with tracer.start_as_current_span("invoke_agent planner") as parent:
        for number in range(600):
            with tracer.start_as_current_span("chat") as child:
                child.set_attribute("gen_ai.operation.name", "chat")
                child.set_attribute("gen_ai.usage.input_tokens", number)
        child.set_status(Status(StatusCode.ERROR, "refused"))
    assert provider.force_flush()
    provider.shutdown()
    record.stored()
    trace = f"{parent.get_span_context().trace_id:032x}"
    tree = record.get(f"/traces/{trace}")
    assert tree["span_count"] == 601
    (root,) = tree["roots"]
    assert (root["events"][0]["message"], len(root["children"])) == ("invoke_agent planner", 600)
    tokens = {span["events"][0]["metadata"]["input_tokens"] for span in root["children"]}
    assert tokens == set(range(600))


def test_an_exporter_that_sends_too_much_is_told_in_its_own_encoding(record: Record) -> None:
    headers = {"content-type": "application/x-protobuf"}
    answer = record.gateway.request("POST", "/v1/traces", raw=bytes(65 << 20), headers=headers, key=record.gateway.key)
    assert (answer.status, answer.header("content-type")) == (413, "application/x-protobuf")
    assert status_pb2.Status.FromString(answer.body).code == 8


def test_the_head_of_an_export_costs_no_export(record: Record) -> None:
    request = f"HEAD {PREFIX}/export/trace_events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {record.gateway.key}\r\n"
    with socket.create_connection(("127.0.0.1", record.gateway.port), timeout=20) as connection:
        connection.sendall(f"{request}connection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n")


def test_every_route_is_described(record: Record) -> None:
    paths = record.gateway.get("/openapi.json").json()["paths"]
    assert {path for path in paths if path.startswith((PREFIX, "/v1/traces"))} == {
        f"{PREFIX}/events",
        *(f"{PREFIX}/{table}" for table in TABLES),
        f"{PREFIX}/traces/{{trace_id}}",
        f"{PREFIX}/export/{{table}}",
        f"{PREFIX}/health",
        f"{PREFIX}/retention",
        f"{PREFIX}/dead_letters",
        f"{PREFIX}/dead_letters/replay",
        f"{PREFIX}/dead_letters/{{id}}",
        f"{PREFIX}/otlp/v1/traces",
        "/v1/traces",
    }
    operation = paths[f"{PREFIX}/events"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert record.ask("POST", "/events", example).status == 200


def test_a_gateway_without_a_database_takes_no_events(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway()
    for method, path in (("POST", "/events"), ("GET", "/trace_events"), ("GET", "/dead_letters")):
        body = step() if method == "POST" else None
        assert gateway.request(method, PREFIX + path, body, key=gateway.key).status == 503
    assert gateway.get(f"{PREFIX}/health", key=gateway.key).status == 503
