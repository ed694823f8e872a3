"""What the pages about the registry say to type works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.people import UNPROBED, People
from tests.acceptance.terminal import Shell
from tests.acceptance.test_record_docs import run
from tests.contract.doc_pages import example, read
from tests.fixtures.gateway import NO_STORES, Gateway
from tests.fixtures.servers import Servers

PAGE = "howto/registry.md"


@pytest.fixture(scope="module")
def gateway(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Run a gateway that has a database."""
    running = Gateway(
        {**NO_STORES, **UNPROBED, "PG_URL": servers.postgres.url}, tmp_path_factory.mktemp("registry")
    ).start()
    try:
        running.wait_until(lambda: running.get("/api/v1/registry/tags", key=running.key).status == 200)
        yield running
    finally:
        running.stop()


def test_the_examples_of_the_how_to_do_what_they_say(gateway: Gateway, tmp_path: Path) -> None:
    def answers(name: str) -> list[Any]:
        folder = tmp_path / name
        folder.mkdir()
        return list(run(example(read(PAGE), f"registry {name}"), gateway, folder))

    maps, weather, reported, healthy, dependents = answers("curl")
    assert weather["dependencies"] == [maps["id"]]
    assert reported["status"] == "healthy"
    assert [item["name"] for item in healthy["items"]] == ["weather"]
    assert [item["id"] for item in dependents["items"]] == [weather["id"]]
    beaten, stale = answers("heartbeat")
    assert beaten == {"updated": 1, "unknown": ["nobody"]}
    assert [item["name"] for item in stale["items"]] == ["maps"]
    (bulk,) = answers("bulk")
    assert (bulk["created"], bulk["failed"], bulk["results"][2]["param"]) == (2, 1, "port")
    (changes,) = answers("changes")
    assert [item["subject"] for item in changes["items"]] == ["maps", "weather"]


def test_the_commands_of_the_how_to_do_what_they_say(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("weather", "maps"):
        made = gateway.post("/api/v1/registry/services?on_conflict=update", {"name": name}, key=gateway.key)
        assert made.status in (200, 201)
    terminal = Shell(People(gateway), tmp_path)

    def typed(name: str) -> list[str]:
        return list(terminal.type(example(read(PAGE), f"registry {name}")))

    added, dependent, reported, healthy, changed, shown, graph = typed("command")
    assert "https://books.example.org/mcp" in added
    assert "books" in dependent.split("dependencies")[1].splitlines()[0]
    assert "is healthy" in reported
    assert "search" in healthy
    assert "books" not in healthy
    assert '{"team": "reading"}' in changed
    assert "library, fast" in shown
    assert "search  healthy  required\n└── books  unknown\n" in graph
    beaten, stale = typed("heartbeat command")
    assert beaten == "2 noted\n"
    assert "books" in stale
    assert "weather" not in stale
    printed = terminal.run(example(read(PAGE), "registry itself"))
    made, alive, refused = map(json.loads, printed.replace("}{", "}\n{").splitlines())
    assert (made["name"], alive["updated"], refused["code"]) == ("acme-search", 1, "permission_denied")
    _, tried, imported, exported, again = typed("import command")
    assert "2 created; a dry run: nothing was kept" in tried
    assert imported == "2 created\n"
    assert exported.endswith("services in all.json\n")
    assert "created" not in again
    assert "failed" not in again
