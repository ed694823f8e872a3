"""A running gateway finds out how real MCP servers are, over HTTP and STDIO."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.people import People, living
from tests.acceptance.test_registry_http import Desk
from tests.fixtures.mcp_process import McpProcess
from tests.fixtures.servers import SERVERS, running_servers

# Each probe counts by itself; a service is probed anew a few seconds later.
SECONDS = 90.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    commands = tmp_path_factory.mktemp("commands") / "commands.json"
    argv = [sys.executable, "-m", "tests.fixtures.mcp_server", "stdio"]
    commands.write_text(json.dumps({"trial": {"argv": argv, "cwd": str(ROOT)}}))
    allowed = {"HX_EGRESS_ALLOW": "127.0.0.1/32", "HX_REGISTRY_COMMANDS": str(commands)}
    with running_servers(SERVERS[0]) as servers, living(servers, allowed) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    return Desk(people)


@pytest.fixture
def server() -> Iterator[McpProcess]:
    process = McpProcess()
    process.start()
    yield process
    process.stop()


def test_a_real_server_is_found_healthy_then_unhealthy_and_why_and_recovers(desk: Desk, server: McpProcess) -> None:
    config = {"health": {"interval": 5, "timeout": 5}}
    desk.make("trial", protocol="http", endpoint=server.url, priority="critical", config=config)
    assert desk.done("POST", "/services/trial/check")["status"] == "healthy"
    since = desk.done("GET", "/changes")["next_since"]
    server.stop()
    told = desk.done("GET", f"/changes?since={since}&types=service.status_changed&wait=60s")["items"]
    assert [event["data"]["after"]["status"] for event in told] == ["unhealthy"]
    assert told[0]["data"]["actor"]["key"] == "prober"
    health = desk.done("GET", "/services/trial/health")
    assert (health["failure_class"], health["consecutive_failures"] >= 3) == ("connect", True)
    server.start()
    desk.people.gateway.wait_until(lambda: desk.done("POST", "/services/trial/check")["status"] == "healthy", SECONDS)
    periods = desk.done("GET", "/services/trial/health/history")["items"]
    assert sum(period["failures"] for period in periods) >= 3
    summary = desk.done("GET", "/health/summary")
    assert (summary["by_status"]["healthy"], summary["self_preservation"]) == (1, False)


def test_only_the_operators_commands_are_started(desk: Desk) -> None:
    desk.make("ours", config={"command": "trial"})
    desk.make("theirs", config={"command": "/bin/sh", "args": ["-c", "touch /tmp/owned"]})
    assert desk.done("POST", "/services/ours/check")["status"] == "healthy"
    refused = desk.done("POST", "/services/theirs/check")
    assert (refused["status"], refused["failure_class"]) == ("unknown", "egress_denied")


def test_what_is_not_allowed_is_not_dialled(desk: Desk) -> None:
    desk.make("metadata", protocol="http", endpoint="http://169.254.169.254/latest/meta-data")
    desk.make("private", protocol="tcp", endpoint="tcp://10.0.0.1:8000")
    for name in ("metadata", "private"):
        health = desk.done("POST", f"/services/{name}/check")
        assert (health["failure_class"], health["status"]) == ("egress_denied", "unknown")


def test_a_maintenance_ends_by_itself(desk: Desk, server: McpProcess) -> None:
    config = {"health": {"interval": 5}}
    desk.make("trial", protocol="http", endpoint=server.url, config=config)
    desk.done("POST", "/services/trial/check")
    assert desk.refused("POST", "/services/trial/maintenance", {"until": "2020-01-01T00:00:00Z"})[2] == "until"
    shown = desk.done("POST", "/services/trial/maintenance", {"until": "2999-01-01T00:00:00Z"})
    assert shown["status"] == "maintenance"
    health = desk.done("GET", "/services/trial/health")
    assert (health["admin_state"], health["observed"]) == ("maintenance", "healthy")
    assert desk.done("DELETE", "/services/trial/maintenance")["status"] == "healthy"


def test_whoever_registers_a_service_is_told_how_it_is(desk: Desk, server: McpProcess) -> None:
    body = {"name": "trial", "protocol": "http", "endpoint": server.url}
    made = desk.done("POST", "/services?probe=true", body, status=201)
    assert (made["status"], made["health"]["status"], made["health"]["level"]) == ("healthy", "healthy", "ready")
    assert made["health"]["service_id"] == made["id"]
    lost = {"name": "lost", "protocol": "tcp", "endpoint": "tcp://127.0.0.1:1"}
    found = desk.done("POST", "/services?probe=true", lost, status=201)
    assert (found["status"], found["health"]["failure_class"]) == ("unknown", "egress_denied")
    again = desk.ask("POST", "/services?probe=true&on_conflict=update", body)
    assert (again.status, again.json()["health"]["status"]) == (200, "healthy")
    desk.refused("POST", "/services?probe=true", {"name": "third"}, key=desk.reader)
    assert "third" not in desk.names("/services")


def test_a_check_on_another_level_is_told_and_does_not_count(desk: Desk, server: McpProcess) -> None:
    # At another host than its endpoint: each has slots of its own.
    fields = {"endpoint": server.url, "health_check_url": "http://127.0.0.1:1/health"}
    desk.make("trial", protocol="http", **fields)
    usual = desk.done("POST", "/services/trial/check?level=l1")
    assert (usual["failure_class"], usual["consecutive_failures"]) == ("egress_denied", 1)
    other = desk.done("POST", "/services/trial/check?level=l2")
    assert (other["level"], other["failure_class"], other["consecutive_failures"]) == ("ready", None, 1)
    assert desk.done("GET", "/services/trial/health")["consecutive_failures"] == 1
    desk.make("plain", protocol="http", endpoint=server.url)
    assert desk.refused("POST", "/services/plain/check?level=l1") == (422, "invalid_request", "level")


def test_many_are_checked_and_what_was_found_is_told_of(desk: Desk, server: McpProcess) -> None:
    later = {"health": {"interval": 3600}}
    for name, endpoint in (("up", server.url), ("down", "http://127.0.0.1:1/mcp")):
        desk.make(name, protocol="http", endpoint=endpoint, config=later, tags=["asked"])
    asked = desk.done("POST", "/services/check", {"selector": {"filter": {"tags": ["asked"]}}}, status=202)
    assert (asked["due"], asked["unknown"]) == (2, [])
    job = f"/checks/{asked['job']}"
    desk.people.gateway.wait_until(lambda: desk.done("GET", job)["pending"] == 0, SECONDS)
    items = {item["name"]: item for item in desk.done("GET", job)["items"]}
    assert (items["up"]["status"], items["down"]["failure_class"]) == ("healthy", "egress_denied")
    one = desk.done("POST", "/services/up/check?wait=false", status=202)
    assert one["due"] == 1
    desk.people.gateway.wait_until(lambda: desk.done("GET", f"/checks/{one['job']}")["probed"] == 1, SECONDS)


def test_a_service_that_falls_silent_is_unhealthy_and_its_followers_are_told_once(desk: Desk) -> None:
    desk.make("agent")
    since = desk.done("GET", "/changes")["next_since"]
    assert desk.done("POST", "/services/agent/heartbeat", {"ttl_s": 5})["updated"] == 1
    told: list[str] = []
    for _ in range(2):
        page = desk.done("GET", f"/changes?since={since}&types=service.status_changed&wait=60s")
        since, told = page["next_since"], [*told, *(event["data"]["after"]["status"] for event in page["items"])]
    assert told == ["healthy", "unhealthy"]
    health = desk.done("GET", "/services/agent/health")
    assert (health["failure_class"], health["last_error"][:18]) == ("timeout", "no heartbeat since")
    assert desk.done("GET", f"/changes?since={since}&types=service.status_changed")["items"] == []
