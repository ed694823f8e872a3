"""The registry of a running gateway, asked from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.registry.app import app
from tests.acceptance.people import People, living
from tests.acceptance.test_registry_http import Desk
from tests.fixtures.gateway import Gateway
from tests.fixtures.servers import Servers

# What is typed does not depend on the stores' versions.
pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="module")
# Whoever runs these tests in the background may have SIGINT ignored, which children inherit.
_INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from hx_gateway.cli.registry.app import app
app()
"""


@pytest.fixture(scope="module")
def people(servers: Servers) -> Iterator[People]:
    with living(servers) as found:
        yield found


@pytest.fixture
def desk(people: People, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("COLUMNS", "250")
    return Desk(people)


def run(desk: Desk, *arguments: str, key: str | None = None) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", desk.people.gateway.url, "--key", key or desk.key])


def told(desk: Desk, *arguments: str) -> str:
    """Return what a command that works prints."""
    result = run(desk, *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def names(desk: Desk, *arguments: str) -> list[str]:
    return [json.loads(line)["name"] for line in told(desk, "list", "--json", *arguments).splitlines()]


def test_a_service_is_added_set_shown_deleted_and_restored(desk: Desk) -> None:
    told(desk, "add", "db", "--tag", "a", "--port", "5432")
    shown = told(desk, "add", "Web", "--depends-on", "db", "--metadata", '{"team": "a", "tier": 1}', "--required")
    assert "db" in shown.split("dependencies")[1].splitlines()[0]
    told(desk, "set", "web", "priority=critical", "service_metadata.team=", "port=8080", "tags=x,y")
    web = json.loads(told(desk, "show", "WEB", "--json"))
    assert (web["priority"], web["service_metadata"], web["port"], web["tags"]) == (
        "critical",
        {"tier": 1},
        8080,
        ["x", "y"],
    )
    told(desk, "set", "web", "port=", "tags=")
    web = json.loads(told(desk, "show", "web", "--json"))
    assert (web["port"], web["tags"]) == (None, [])
    refused = run(desk, "delete", "db")
    assert refused.exit_code == 1
    assert "409: 'db' is needed by Web" in refused.output
    assert "undoes it" in told(desk, "delete", "db", "--dependents", "force")
    assert "deleted" in told(desk, "show", "db")
    assert "(deleted)" in told(desk, "show", "web").split("dependencies")[1].splitlines()[0]
    assert "restored" in told(desk, "restore", "db", "--new-name", "db 2")
    assert set(names(desk)) == {"db 2", "Web"}


def test_a_list_is_filtered_and_goes_over_pages(desk: Desk) -> None:
    items = [{"name": f"s{n:03}", "tags": ["even" if n % 2 == 0 else "odd"]} for n in range(250)]
    desk.done("POST", "/services/bulk", {"items": items})
    told(desk, "report", "s000", "healthy", "--response-time-ms", "12.5")
    told(desk, "report", "s001", "unhealthy")
    assert len(names(desk, "--limit", "300")) == 250
    assert len(names(desk, "--limit", "225")) == 225
    assert names(desk, "--healthy") == ["s000"]
    assert names(desk, "--unhealthy") == ["s001"]
    assert names(desk, "--status", "healthy", "--status", "unhealthy", "--sort", "-name") == ["s001", "s000"]
    assert names(desk, "--tag", "even", "--tag", "odd", "--tags-match", "all") == []
    assert names(desk, "--tag", "even", "--query", "s24", "--limit", "2") == ["s240", "s242"]
    assert len(names(desk, "--stale-after", "15m", "--not-required", "--limit", "300")) == 249
    printed = told(desk, "list", "--limit", "2")
    assert "12.5 ms" in printed
    assert "2; there are more, see --limit" in printed
    assert '"active": 250' in told(desk, "stats", "--json")
    assert "healthy 1" in told(desk, "stats")


def test_how_a_service_stands_is_decided_and_reported(desk: Desk) -> None:
    desk.make("web")
    assert "is disabled, and not to be used" in told(desk, "disable", "web")
    assert "is unknown" in told(desk, "enable", "web")
    assert "is maintenance" in told(desk, "maintenance", "web")
    assert "is maintenance" in told(desk, "report", "web", "unhealthy")
    assert "is unknown" in told(desk, "maintenance", "web", "--end")
    beaten = run(desk, "heartbeat", "web", "nobody")
    assert (beaten.exit_code, beaten.stdout) == (1, "1 noted\n")
    assert "not registered: nobody" in beaten.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("show nothing", "404: "),
        ("add web --port 70000", "422: port"),
        ("add web --depends-on nothing", "404: "),
        ("set web port=many", "422: port"),
        ("report web fine", "422: status"),
        ("list --status fine", "422: status"),
        ("watch --types shrugged", "400: types: 'service.shrugged'"),
        ("list --tenant another", "404: "),
        ("graph nothing", "there is no service 'nothing'"),
        ("graph --format picture", "tree, mermaid, dot"),
    ],
)
def test_what_is_wrong_is_said(desk: Desk, command: str, says: str) -> None:
    if "add" not in command:
        desk.make("web")
    result = run(desk, *command.split())
    assert result.exit_code == 1
    assert says in result.output


def test_who_may_only_read_changes_nothing(desk: Desk) -> None:
    result = run(desk, "add", "web", key=desk.reader)
    assert result.exit_code == 1
    assert "403: " in result.output


def test_many_services_go_from_one_tenant_to_another_through_a_file(desk: Desk, people: People, tmp_path: Path) -> None:
    # The last ones first: each depends on one that comes after it in the file, over the bounds of batches.
    items: list[dict[str, Any]] = [
        {"name": f"s{n}", "dependencies": [f"s{n - 300}"] if n >= 300 else [], "tags": ["t"]}
        for n in range(1_199, -1, -1)
    ]
    items[5] = {**items[5], "port": 0}
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps({"items": items}))
    bad = run(desk, "import", str(first), "--dry-run")
    assert bad.exit_code == 1
    assert "invalid_request" in bad.output
    assert names(desk) == []
    del items[5]["port"]
    first.write_text(json.dumps({"items": items}))
    assert told(desk, "import", str(first)) == "1200 created\n"
    assert "1200 services in " in told(desk, "export", str(second))
    other = Desk(people)
    assert told(other, "import", str(second)) == "1200 created\n"
    assert told(other, "export") == second.read_text()
    assert told(desk, "import", str(second), "--on-conflict", "skip") == "1200 skipped\n"
    taken = run(desk, "import", str(second))
    assert taken.exit_code == 1
    assert "1200 failed" in taken.output


def test_an_atomic_import_keeps_all_or_none(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "services.json"
    file.write_text(json.dumps([{"name": "web"}, {"name": "bad", "port": 0}]))
    result = run(desk, "import", str(file), "--mode", "atomic")
    assert (result.exit_code, names(desk)) == (1, [])
    assert "not_kept" in result.output


def test_what_services_depend_on_is_drawn(desk: Desk) -> None:
    desk.make("db")
    desk.make("api", dependencies=["db"])
    desk.make("web", dependencies=["api", "db"])
    desk.make("alone")
    desk.done("DELETE", "/services/db?dependents=force")
    assert told(desk, "graph", "WEB") == ("web  unknown\n├── api  unknown\n│   └── db  deleted\n└── db  deleted\n")
    assert told(desk, "graph").startswith("alone  unknown\nweb  unknown\n")
    assert "db  deleted\n├── api" in told(desk, "graph", "db", "--dependents")
    assert told(desk, "graph", "--format", "mermaid").count(" --> ") == 3
    assert told(desk, "graph", "--format", "dot").count(" -> ") == 3


# Watching


@contextmanager
def watching(gateway: Gateway, key: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``registry watch`` in a process of its own."""
    command = [sys.executable, "-c", _INTERRUPTED, "watch", *arguments, "--url", gateway.url, "--key", key]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that is printed; the test's own limit of time is the bound."""
    assert process.stdout is not None
    return process.stdout.readline()


def aside(process: subprocess.Popen[str]) -> str:
    """Return the next line beside what is printed."""
    assert process.stderr is not None
    return process.stderr.readline()


def interrupted(process: subprocess.Popen[str]) -> int:
    """Press Ctrl-C; return the exit status."""
    process.send_signal(signal.SIGINT)
    return process.wait(20)


def test_changes_that_are_wanted_are_printed_as_they_happen(desk: Desk) -> None:
    since = desk.done("GET", "/changes")["next_since"]
    options = ["--types", "status_changed,deleted", "--name", "web", "--since", str(since)]
    with watching(desk.people.gateway, desk.reader, *options) as process:
        desk.make("web")
        desk.make("api")
        for name in ("api", "web"):
            desk.done("PUT", f"/services/{name}/health", {"status": "healthy"})
        assert "status_changed  web  unknown → healthy  by " in line(process)
        desk.done("DELETE", "/services/web")
        assert "deleted  web  by " in line(process)
        assert interrupted(process) == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_watch_misses_nothing_over_a_restart_of_the_gateway(
    desk: Desk, people: People, servers: Servers, end: str
) -> None:
    """Another gateway of the same database makes changes while the one that is watched is away."""
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        watched = Gateway(watched_environ(servers), Path(directory)).start()
        # Secrets of keys are a gateway's own, but for the admin's.
        tags, since = f"/api/v1/registry/tags?tenant_id={desk.tenant}", desk.done("GET", "/changes")["next_since"]
        options = ["--json", "--tenant", desk.tenant, "--since", str(since)]
        try:
            watched.wait_until(lambda: watched.get(tags, key=watched.key).status == 200)
            with watching(watched, watched.key, *options) as process:
                desk.make("before")
                told: list[Any] = [json.loads(line(process))["subject"]]
                watched.stop() if end == "stop" else watched.kill()
                assert "the gateway is away" in aside(process)
                desk.make("meanwhile 1")
                desk.make("meanwhile 2")
                watched.start()
                assert aside(process) == "the gateway is back\n"
                desk.make("after")
                told += [json.loads(line(process))["subject"] for _ in range(3)]
                assert interrupted(process) == 0
        finally:
            watched.stop()
    assert told == ["before", "meanwhile 1", "meanwhile 2", "after"]


def watched_environ(servers: Servers) -> dict[str, str]:
    return {"PG_URL": servers.postgres.ordinary_url(), "REDIS_URL": servers.redis.url, "QDRANT_URL": "none"}


def test_a_gateway_that_is_not_there_is_named(desk: Desk) -> None:
    result = CliRunner().invoke(app, ["watch", "--url", "http://127.0.0.1:1", "--key", desk.key])
    assert result.exit_code == 1
    assert "nothing listens at http://127.0.0.1:1" in result.output
