"""A running gateway with a real PostgreSQL, and what tests do to its record."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.fixtures.gateway import Answer, Gateway
from tests.fixtures.servers import Servers

PREFIX = "/api/v1/observability"
# Events are written within a second; five times that, and what a busy machine needs.
STORED_SECONDS = 30.0


class Record:
    """The record of a gateway, asked with the admin key."""

    def __init__(self, gateway: Gateway, database: str) -> None:
        self.gateway = gateway
        self._database = database

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return self.gateway.request(method, PREFIX + path, body, key=self.gateway.key, **more)

    def get(self, path: str) -> Any:
        """Return the answer of a read that works."""
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.body
        return answer.json()

    def send(self, *events: Mapping[str, Any], path: str = "/events") -> Any:
        """Send events that are all kept; return their ids."""
        answer = self.ask("POST", path + ("&" if "?" in path else "?") + "results=all", {"events": events})
        assert answer.status == 200, answer.body
        return [result["event_id"] for result in answer.json()["results"]]

    def stored(self) -> None:
        """Return once nothing waits in the journal."""
        self.gateway.wait_until(lambda: self.get("/health")["waiting"] == 0, STORED_SECONDS)

    def execute(self, statement: str) -> None:
        """Do something to the database."""

        async def run() -> None:
            connection = await asyncpg.connect(self._database)
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())

    def walk(self, path: str) -> list[dict[str, Any]]:
        """Return the items of all pages."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.get(path + cursor)
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = f"&cursor={page['next_cursor']}"


@pytest.fixture(scope="module")
def record(servers: Servers) -> Iterator[Record]:
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        stores = {"PG_URL": servers.postgres.ordinary_url(), "REDIS_URL": "none", "QDRANT_URL": "none"}
        gateway = Gateway({**stores, "HX_EVENT_BATCH_MS": "50"}, Path(directory)).start()
        made = Record(gateway, servers.postgres.url)
        # It serves before its schema is there.
        gateway.wait_until(lambda: made.ask("GET", "/dead_letters").status == 200)
        yield made
        gateway.stop()
