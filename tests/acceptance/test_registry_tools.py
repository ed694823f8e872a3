"""A running gateway knows the tools of real MCP servers, over HTTP and STDIO, and tells of them and what changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.people import People, living
from tests.acceptance.test_registry_http import Desk
from tests.fixtures.gateway import Answer
from tests.fixtures.mcp_process import McpProcess
from tests.fixtures.servers import SERVERS, running_servers

SECONDS = 90.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    commands = tmp_path_factory.mktemp("commands") / "commands.json"
    argv = [sys.executable, "-m", "tests.fixtures.mcp_server", "stdio"]
    commands.write_text(json.dumps({"trial": {"argv": argv, "cwd": str(ROOT), "env": {"MCP_TOOLS": "list_files"}}}))
    allowed = {"HX_EGRESS_ALLOW": "127.0.0.1/32", "HX_REGISTRY_COMMANDS": str(commands)}
    with running_servers(SERVERS[0]) as servers, living(servers, allowed) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    return Desk(people)


@pytest.fixture
def server() -> Iterator[McpProcess]:
    process = McpProcess(tools="forecast,radar")
    process.start()
    yield process
    process.stop()


def known(desk: Desk, name: str) -> list[str]:
    return desk.names(f"/services/{name}/tools")


def test_tools_are_listed_by_themselves_their_changes_told_and_they_stay_when_the_server_stops(
    desk: Desk, server: McpProcess
) -> None:
    desk.make("weather", protocol="http", endpoint=server.url, tags=["sky"], config={"health": {"timeout": 20}})
    desk.people.gateway.wait_until(lambda: known(desk, "weather") == ["add", "forecast", "radar"], SECONDS)
    since = desk.done("GET", "/changes")["next_since"]
    server.stop()
    server.tools = "forecast,tides"
    server.start()
    refreshed = desk.done("POST", "/services/weather/refresh")
    assert (refreshed["added"], refreshed["removed"], refreshed["changed"]) == (["tides"], ["radar"], [])
    (event,) = desk.done("GET", f"/changes?since={since}&types=service.tools_changed&wait=30s")["items"]
    assert event["data"]["changed_fields"] == ["tools"]
    assert [[tool["name"] for tool in event["data"][side]["tools"]] for side in ("before", "after")] == [
        ["radar"],
        ["tides"],
    ]
    one = desk.ask("GET", "/services/weather?expand=tools")
    assert [tool["name"] for tool in one.json()["expanded"]["tools"]] == ["add", "forecast", "tides"]
    assert one.json()["expanded"]["tools"][0]["input_schema"]["required"] == ["a", "b"]
    assert one.header("etag") == f'W/"{one.json()["row_version"]}"'
    server.stop()
    answer = desk.ask("POST", "/services/weather/refresh")
    assert (answer.status, answer.json()["code"]) == (502, "tools_not_listed")
    assert answer.json()["errors"][0]["failure_class"] == "connect"
    shown = desk.done("GET", "/services/weather/tools")
    assert (shown["total"], shown["failure_class"], shown["has_more"]) == (3, "connect", False)
    assert shown["fetched_at"] < shown["asked_at"]
    assert desk.done("POST", "/services/weather/versions/1/revert")["name"] == "weather"


def test_tools_of_many_services_are_looked_through_and_are_nobody_elses(desk: Desk, server: McpProcess) -> None:
    desk.make("weather", protocol="http", endpoint=server.url, tags=["sky"])
    desk.make("files", config={"command": "trial"})
    for name in ("weather", "files"):
        desk.people.gateway.wait_until(lambda: tells(desk.ask("POST", f"/services/{name}/refresh")), SECONDS)  # noqa: B023
    assert desk.names("/tools") == ["add", "add", "forecast", "list_files", "radar"]
    assert desk.names("/tools?q=LIST%20fil") == ["list_files"]
    assert desk.names("/tools?service=files&service=weather&q=add") == ["add", "add"]
    assert desk.names("/tools?tags=sky,sea") == ["add", "forecast", "radar"]
    first = desk.done("GET", "/tools?limit=3")
    assert [item["service"] for item in first["items"]] != []
    rest = desk.done("GET", f"/tools?limit=3&cursor={first['next_cursor']}")
    assert ([item["name"] for item in rest["items"]], rest["next_cursor"]) == (["list_files", "radar"], None)
    assert desk.refused("GET", f"/tools?limit=3&q=add&cursor={first['next_cursor']}")[2] == "cursor"
    for unknown in ("nobody", "weather,nobody", str(uuid4()), f"files,{uuid4()}"):
        assert desk.refused("GET", f"/tools?service={unknown}") == (404, "not_found", "service")
    other = Desk(desk.people)
    weather = desk.done("GET", "/services/weather")["id"]
    assert other.refused("GET", f"/tools?service={weather}") == (404, "not_found", "service")
    assert other.names("/tools") == []
    assert other.refused("GET", "/services/weather/tools")[0] == 404
    assert other.refused("POST", "/services/weather/refresh")[0] == 404
    assert desk.refused("POST", "/services/weather/refresh", key=desk.reader)[0] == 403
    desk.done("DELETE", "/services/files")
    assert desk.names("/tools?q=list") == []
    assert desk.refused("GET", "/services/files/tools")[0] == 410
    assert desk.refused("GET", "/tools?service=files") == (410, "deleted", "service")


def tells(answer: Answer) -> bool:
    """Whether a service told its tools; a probe at work on the same server may slow it down."""
    assert answer.status in (200, 502), answer.body
    return answer.status == 200


def test_what_cannot_be_asked_is_told_why(desk: Desk) -> None:
    desk.make("nowhere", protocol="http")
    desk.make("socket", protocol="websocket", endpoint="ws://127.0.0.1:9/mcp")
    desk.make("theirs", config={"command": "/bin/sh"})
    for name in ("nowhere", "socket"):
        assert desk.refused("POST", f"/services/{name}/refresh") == (409, "not_askable", "ref")
    assert desk.ask("POST", "/services/theirs/refresh").json()["errors"][0]["failure_class"] == "egress_denied"
    desk.refused("GET", "/tools?q=%00x")
    for query, param in (("q=%00", "q"), ("q=--", "q"), ("limit=0", "limit"), ("cursor=x", "cursor"), ("x=1", "x")):
        status, _, named = desk.refused("GET", f"/tools?{query}")
        assert (status in (400, 422), named) == (True, param)
    config = {"health": {"tools_seconds": 5}}
    assert desk.refused("POST", "/services", {"name": "hasty", "config": config})[::2] == (422, "config")


def test_the_command_lists_tools_and_asks_for_them(desk: Desk, server: McpProcess) -> None:
    desk.make("weather", protocol="http", endpoint=server.url)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hx_gateway", "registry", "tools", *arguments]
        where = ["--url", desk.people.gateway.url, "--key", desk.key]
        return subprocess.run([*command, *where], check=False, capture_output=True, text=True, timeout=SECONDS)

    desk.people.gateway.wait_until(lambda: run("weather", "--refresh").returncode == 0, SECONDS)
    shown = run("weather", "--refresh", "--json")
    assert "nothing changed" in shown.stderr
    assert [json.loads(line)["name"] for line in shown.stdout.splitlines()] == ["add", "forecast", "radar"]
    table = run("--query", "radar").stdout
    assert "radar" in table
    assert "weather" in table
    assert "forecast" not in table
    assert run("--refresh").returncode == 1
    desk.done("PATCH", "/services/weather", {"name": "weather, sea and sky"})
    shown = run("weather, sea and sky", "--query", "radar", "--json")
    assert [json.loads(line)["name"] for line in shown.stdout.splitlines()] == ["radar"], shown.stderr
    assert "There is no service 'nobody'" in run("nobody").stderr
