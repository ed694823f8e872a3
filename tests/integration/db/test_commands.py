"""``hx-gateway db``: what it does to a database, and what it says where it cannot."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.db import EXIT_FAILED, app
from hx_gateway.cli.start import EX_CONFIG
from hx_gateway.migrations.runner import head
from hx_gateway.services.embedded.postgres import EmbeddedPostgres

APPLIED = "".join(f"applied {number:04}\n" for number in range(1, int(head()) + 1))


def run(command: str) -> Result:
    return CliRunner().invoke(app, [command])


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a data directory that any account may pass through, named by the settings."""
    with tempfile.TemporaryDirectory(prefix="hxdb-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setenv("HX_DATA_DIR", directory)
        yield Path(directory)


def test_the_database_of_pg_url_is_brought_up_to_date(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_URL", empty.replace("postgresql://", "postgresql+psycopg://"))
    assert run("current").output.split() == ["database", "none", "newest", head()]
    first, second = run("upgrade"), run("upgrade")
    assert (first.exit_code, first.output) == (0, APPLIED)
    assert (second.exit_code, second.output) == (0, f"{head()} already: nothing to do\n")
    assert run("current").output.split() == ["database", head(), "newest", head()]


def test_a_newer_database_is_refused(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def make_newer() -> None:
        connection = await asyncpg.connect(migrated)
        await connection.execute("UPDATE hx_gateway.alembic_version SET version_num = '0099'")
        await connection.close()

    asyncio.run(make_newer())
    monkeypatch.setenv("PG_URL", migrated)
    refused = run("upgrade")
    assert refused.exit_code == EX_CONFIG
    assert "'0099'" in refused.output
    assert "run the newer program" in refused.output
    assert run("current").output.split() == ["database", "0099", "newest", head()]


def test_a_database_that_is_away_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_URL", "postgresql://someone:hidden@127.0.0.1:1/there")
    for command in ("upgrade", "current"):
        failed = run(command)
        assert failed.exit_code == EXIT_FAILED
        assert "postgresql://127.0.0.1:1/there failed (refused)" in failed.output
        assert "hidden" not in failed.output


@pytest.mark.parametrize(
    ("variables", "advice"),
    [
        ({"PG_URL": "none"}, "there is no database"),
        ({"PG_URL": "postgresql://user:p@ss@host/name"}, "percent-encode"),
    ],
)
def test_without_a_database_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], advice: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    failed = run("upgrade")
    assert failed.exit_code == EX_CONFIG
    assert advice in failed.output


def test_the_embedded_database_is_used_while_it_runs(data_dir: Path) -> None:
    stopped = run("upgrade")
    assert stopped.exit_code == EXIT_FAILED
    assert "start the gateway" in stopped.output
    server = EmbeddedPostgres(data_dir / "postgres", notify=lambda line: None)
    server.start()
    try:
        assert run("upgrade").output == APPLIED
        assert run("current").output.split() == ["database", head(), "newest", head()]
    finally:
        server.stop()
    assert run("current").exit_code == EXIT_FAILED
