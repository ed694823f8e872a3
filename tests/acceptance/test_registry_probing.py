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
