"""From the embedded PostgreSQL to a server of the oldest version that we support, and on as if nothing had been."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.db import app
from tests.acceptance.people import UNPROBED, People
from tests.fixtures.gateway import Gateway
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import owned_database

ALONE = {"REDIS_URL": "none", "QDRANT_URL": "none", **UNPROBED}
RECORD = "/api/v1/observability"
PASSWORD = "p%40ss-made-up-for-this"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hxmove-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with running_postgres("debian15") as server:
        yield server


def db(environ: Mapping[str, str], *arguments: str | Path) -> Result:
    """Run ``hx-gateway db`` with these settings, beside whatever runs."""
    return CliRunner(env=dict(environ)).invoke(app, [str(argument) for argument in arguments])


def started(data_dir: Path, **more: str) -> People:
    people = People(Gateway({**ALONE, **more}, data_dir).start())
    people.gateway.wait_until(lambda: people.ask("GET", "/v1/keys").status == 200)
    return people


def chat(people: People, key: dict[str, Any]) -> int:
    body = {"model": "hx-chat", "messages": [{"role": "user", "content": "Tell me something."}]}
    return people.ask("POST", "/v1/chat/completions", body, key=key["key"]).status


def spent(people: People, key: dict[str, Any], calls: int) -> float:
    """Return what a key's budget has lost, once that many calls are recorded."""
    path = f"/v1/spend/logs?key_id={key['id']}"

    def recorded() -> bool:
        found = people.done("GET", path)
        assert "items" in found, found
        return len(found["items"]) == calls

    people.gateway.wait_until(recorded)
    return float(people.done("GET", f"/v1/keys/{key['id']}")["budgets"][0]["spent_usd"])


def events_of(people: People, trace: str) -> int:
    return len(people.done("GET", f"{RECORD}/trace_events?trace_id={trace}")["items"])


def test_a_key_its_budget_and_its_spend_move(data_dir: Path, server: PostgresServer) -> None:
    people = started(data_dir)
    environ = people.gateway.environ
    try:
        key = people.key(budgets=[{"limit_usd": 1, "period": "total"}])
        people.until(key["key"], let_in=True)
        assert chat(people, key) == 200
        before = spent(people, key, 1)
        assert before > 0
        with owned_database(server) as ordinary:
            target = ordinary.replace("//hx_ordinary@", f"//hx_ordinary:{PASSWORD}@")
            place = f"postgresql://{ordinary.rpartition('@')[2]}"
            assert db(environ, "backup", data_dir / "backup").exit_code == 0
            refused = db(environ, "move", "--to", target)
            assert refused.exit_code == 1
            assert "another process uses the embedded database: stop the gateway" in refused.stderr
            # Acknowledged, and in the journal when the gateway dies.
            event = {"event_type": "t", "trace_id": "waiting"}
            assert people.ask("POST", f"{RECORD}/events", {"events": [event]}).status == 200
            people.gateway.kill()

            moved = db(environ, "move", "--to", target)
            assert moved.exit_code == 0, moved.stderr
            assert "copying hx_gateway.api_keys: 1 row, " in moved.stderr
            assert "checking hx_gateway.spend_logs: 1 row, " in moved.stderr
            assert f"the same in {place}\n" in moved.stdout
            assert moved.stdout.endswith(f"  PG_URL={place.replace('//', '//[hidden]@')}\n")
            again = db(environ, "move", "--to", target)
            assert again.exit_code == 0
            assert again.stdout.startswith(f"{place} has all of it already: nothing to do\n")
            assert "made-up-for-this" not in moved.output + again.output

            people = started(data_dir, PG_URL=target)
            people.until(key["key"], let_in=True)
            assert chat(people, key) == 200
            assert spent(people, key, 2) == pytest.approx(2 * before)
            people.gateway.wait_until(lambda: events_of(people, "waiting") == 1)
            people.gateway.stop()
            late = db(environ, "move", "--to", target)
            assert late.exit_code == 1
            assert "the target is not empty: there are rows in " in late.stderr
        restored_elsewhere(environ, data_dir)
    finally:
        people.gateway.kill()


def restored_elsewhere(environ: Mapping[str, str], data_dir: Path) -> None:
    """Restore the backup of the embedded database into another one, which nobody runs."""
    other = data_dir / "other"
    other.mkdir()
    other.chmod(0o755)
    elsewhere = {**environ, "HX_DATA_DIR": str(other)}
    nothing = db(elsewhere, "backup", data_dir / "none")
    assert nothing.exit_code != 0
    assert "there is no embedded database" in nothing.stderr
    restored = db(elsewhere, "restore", data_dir / "backup")
    assert restored.exit_code == 0, restored.stderr
    tables = json.loads(db(elsewhere, "status", "--json").stdout)["tables"]
    assert {"schema": "hx_gateway", "name": "api_keys", "rows": 1} in [
        {field: table[field] for field in ("schema", "name", "rows")} for table in tables
    ]
    assert list(other.glob("postgres/**/postmaster.pid")) == []
