"""What the pages about the registry say to type works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_record_docs import run
from tests.contract.doc_pages import example, read
from tests.fixtures.gateway import NO_STORES, Gateway
from tests.fixtures.servers import Servers

PAGE = "howto/registry.md"


@pytest.fixture(scope="module")
def gateway(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Run a gateway that has a database."""
    running = Gateway({**NO_STORES, "PG_URL": servers.postgres.url}, tmp_path_factory.mktemp("registry")).start()
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
