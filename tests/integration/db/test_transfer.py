"""Backups and restores between real servers: the newest that we ship and the oldest that we support, both ways."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.db import app
from hx_gateway.cli.db_transfer import EXIT_INTERRUPTED, _fill, _run, _take
from hx_gateway.cli.output_file import private_file
from hx_gateway.db.locks import LOCK_CLASS, MIGRATION_LOCK
from hx_gateway.db.partitions import ensure_partition, partition_name
from hx_gateway.db.row_security import EVERY_TENANT_SETTINGS
from hx_gateway.db.schemas import PARTITIONED_TABLES
from hx_gateway.db.transfer.archive import Backup
from hx_gateway.db.transfer.contents import Figures, Sink, Table
from hx_gateway.db.transfer.errors import NotEmpty, TransferError
from hx_gateway.db.transfer.loading import load
from hx_gateway.db.transfer.sessions import session
from hx_gateway.db.transfer.snapshot import snapshot
from hx_gateway.migrations import runner
from hx_gateway.migrations.runner import bring_to, head, upgrade
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import owned_database, sql
from tests.integration.db.test_row_security import ROWS, statement

# Rows of the tables that have no tenant, or no policy; the record's are made below.
MORE_ROWS = {
    "ledger_epoch": "(epoch, authority) VALUES (3, 'process')",
    "ledger_members": "(stream_id, root_id, host, pid, epoch) VALUES (gen_random_uuid(), 'r', 'h', 1, 3)",
    "model_prices": "(model, input_pico, output_pico) VALUES ('made-up', 1, 2)",
    "journal_cursors": "(stream_id, segment, applied_seq) VALUES (gen_random_uuid(), 1, 9223372036854775807)",
}
RECORD_ROWS = {
    "trace_events": "trace_id, event_type, message) VALUES ($1, 't', 'x', E'tab\\t, line\\n, \\\\\\\\N, ü')",
    "routing_decisions": "user_request, selected_agent, confidence_score) VALUES ($1, 'x', 'x', 0.1)",
    "performance_metrics": "metric_name, metric_value, metric_type) VALUES ($1, 'x', 1e-300, 'gauge')",
    "transformation_events": "transformation_type, input_bytes) VALUES ($1, 'x', NULL)",
}
TABLES = """
SELECT n.nspname || '.' || c.relname AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname IN ('hx_gateway', 'hx_registry', 'agent_observability') AND c.relkind IN ('r', 'p')
    AND NOT c.relispartition AND c.relname <> 'alembic_version'
"""
# What a restore changes while it works, and puts back.
WALLS = """
SELECT c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
    (SELECT string_agg(tgname || tgenabled::text, ' ' ORDER BY tgname) FROM pg_trigger
     WHERE tgrelid = c.oid AND NOT tgisinternal) AS triggers
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname LIKE 'hx%' AND c.relkind = 'r' ORDER BY 1
"""


class Interrupting:
    """Presses Ctrl-C in the middle of a phase."""

    def __init__(self, phase: str) -> None:
        self._phase = phase

    def plan(self, tables: Sequence[Table]) -> None: ...
    def advance(self, rows: int, size: int) -> None: ...
    def end(self, figures: Figures) -> None: ...
    def begin(self, phase: str, table: Table) -> None:
        if phase == self._phase and table.name == "spend_logs":
            os.kill(os.getpid(), signal.SIGINT)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def asked(url: str, question: Any) -> Any:
    """Return what the coroutine function ``question`` returns for a connection that works for all tenants."""

    async def ask() -> Any:
        connection = await asyncpg.connect(url, server_settings={**EVERY_TENANT_SETTINGS})
        try:
            return await question(connection)
        finally:
            await connection.close()

    return asyncio.run(ask())


def rows_in(url: str) -> dict[str, tuple[int, str | None]]:
    """Return of each table how many rows it has, and a hash of all that is in them."""

    async def read(connection: asyncpg.Connection[Any]) -> dict[str, tuple[int, str | None]]:
        await connection.execute("SET timezone = 'UTC'")
        found = {}
        for name in [row["name"] for row in await connection.fetch(TABLES)]:
            whole = f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE \"C\")) FROM {name} AS t"
            found[name] = tuple(await connection.fetchrow(whole))
        return found

    return dict(asked(url, read))


def without_rows(url: str) -> bool:
    """Return whether there is nothing but, perhaps, the one row that the migrations make."""
    filled = {name: rows for name, (rows, _) in rows_in(url).items() if rows}
    return filled in ({}, {"hx_gateway.tenants": 1})


async def fill(url: str) -> None:
    await upgrade(url)
    connection = await asyncpg.connect(url, server_settings={**EVERY_TENANT_SETTINGS})
    for tenant in ("acme", "rival"):
        for table in ROWS:
            await connection.execute(statement(table), tenant)
    for table, row in MORE_ROWS.items():
        await connection.execute(f"INSERT INTO hx_gateway.{table} {row}")
    for days in (-40, -1, 0, 20):
        moment = datetime.now(UTC) + timedelta(days=days)
        for root in PARTITIONED_TABLES:
            await ensure_partition(connection, root, moment)
            columns = f'("timestamp", {RECORD_ROWS[root.name]}'
            await connection.execute(f"INSERT INTO {root.qualified} {columns}", moment)
    await connection.close()


@pytest.fixture(scope="module")
def newest() -> Iterator[PostgresServer]:
    with running_postgres("wheel18") as server:
        yield server


@pytest.fixture(scope="module")
def oldest() -> Iterator[PostgresServer]:
    with running_postgres("debian15") as server:
        yield server


@pytest.fixture(scope="module")
def filled(newest: PostgresServer) -> Iterator[str]:
    """Give a database with rows in every table."""
    with owned_database(newest) as url:
        asyncio.run(fill(url))
        yield url


@pytest.fixture(scope="module")
def backup(filled: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a backup of it."""
    file = tmp_path_factory.mktemp("backup") / "all.hxbackup"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PG_URL", filled)
        done = run("backup", file)
    assert done.exit_code == 0, done.output
    return file


@pytest.fixture
def target(oldest: PostgresServer) -> Iterator[str]:
    with owned_database(oldest) as url:
        yield url


def test_every_table_of_ours_is_in_a_backup_with_its_rows(filled: str, backup: Path) -> None:
    there = rows_in(filled)
    assert [name for name, (rows, _) in there.items() if not rows] == [], "these tables need rows here"
    with backup.open("rb") as file:
        assert {table.label for table in Backup(file, "it").contents.tables} == there.keys()
    assert backup.stat().st_mode & 0o777 == 0o600
    assert os.listdir(backup.parent) == [backup.name]
    told = run("restore", backup, "--check").output
    assert f"{len(there)} tables, {sum(rows for rows, _ in there.values())} rows, revision {head()}" in told


def test_what_is_restored_is_what_was_backed_up(filled: str, backup: Path, target: str) -> None:
    done = run("restore", backup, "--to", target)
    assert done.exit_code == 0, done.output
    assert rows_in(target) == rows_in(filled)
    assert asked(target, lambda c: c.fetch(WALLS)) == asked(filled, lambda c: c.fetch(WALLS))
    audit = "INSERT INTO hx_gateway.audit_log " + ROWS["audit_log"].replace("$1", "$1::text") + " RETURNING id"
    highest = asked(filled, lambda c: c.fetchval("SELECT max(id) FROM hx_gateway.audit_log"))
    assert asked(target, lambda c: c.fetchval(audit, "acme")) == highest + 1
    again = run("restore", backup, "--to", target)
    assert again.exit_code == 1
    assert "the target is not empty: there are rows in hx_gateway.api_keys, " in again.output


def test_from_the_oldest_server_to_the_newest(
    backup: Path, target: str, newest: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("restore", backup, "--to", target).exit_code == 0
    monkeypatch.setenv("PG_URL", target)
    assert run("backup", tmp_path / "file").exit_code == 0
    with owned_database(newest) as url:
        monkeypatch.setenv("PG_URL", url)
        done = run("restore", tmp_path / "file")
        assert done.exit_code == 0, done.output
        assert rows_in(url) == rows_in(target)


def test_an_earlier_revision_is_restored_and_brought_up_to_date(
    oldest: PostgresServer, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owned_database(oldest) as before:
        asyncio.run(bring_to(before, "0013"))
        key = f"INSERT INTO hx_gateway.api_keys {ROWS['api_keys'].replace('$1', '$1::text')}"
        asked(before, lambda c: c.execute(key, "default"))
        monkeypatch.setenv("PG_URL", before)
        assert run("backup", tmp_path / "file").exit_code == 0
    # There already, empty and newer than the backup.
    asyncio.run(upgrade(target))
    done = run("restore", tmp_path / "file", "--to", target)
    assert done.exit_code == 0, done.output
    found = asked(target, lambda c: c.fetchrow("SELECT id, cache FROM hx_gateway.api_keys"))
    assert tuple(found) == ("key-default", None)
    monkeypatch.setenv("PG_URL", target)
    assert head() in run("current").output.splitlines()[0]


@pytest.mark.parametrize("harm", ["cut short", "was changed"])
def test_a_damaged_file_is_named_and_nothing_is_touched(backup: Path, target: str, tmp_path: Path, harm: str) -> None:
    data = bytearray(backup.read_bytes())
    if harm == "cut short":
        del data[-100:]
    else:
        data[len(data) // 2] ^= 4
    (tmp_path / "harmed").write_bytes(data)
    failed = run("restore", tmp_path / "harmed", "--to", target)
    assert failed.exit_code == 1
    assert f"{str(tmp_path / 'harmed')!r} is damaged: it" in failed.output
    assert harm in failed.output
    assert rows_in(target) == {}


def test_a_newer_revision_is_refused(target: str, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(filled, lambda c: c.execute("UPDATE hx_gateway.alembic_version SET version_num = '0099'"))
    try:
        monkeypatch.setenv("PG_URL", filled)
        assert run("backup", tmp_path / "file").exit_code == 0
    finally:
        asked(filled, lambda c: c.execute(f"UPDATE hx_gateway.alembic_version SET version_num = '{head()}'"))
    failed = run("restore", tmp_path / "file", "--to", target)
    assert failed.exit_code == 1
    assert "is of revision '0099', which this program does not know" in failed.output
    assert rows_in(target) == {}


def test_a_restore_that_is_interrupted_leaves_nothing(backup: Path, target: str) -> None:
    # When all rows are there, and are being looked at.
    with backup.open("rb") as file, pytest.raises(SystemExit) as left:
        _run(_fill(target, Backup(file, "it"), Interrupting("checking")), "there", "Nothing was restored.")
    assert left.value.code == EXIT_INTERRUPTED
    assert without_rows(target)
    assert run("restore", backup, "--to", target).exit_code == 0


def test_what_fails_after_all_rows_are_there_is_told_as_that(
    backup: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(dsn: str) -> list[str]:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(runner, "upgrade", lost)
    failed = run("restore", backup, "--to", target)
    assert failed.exit_code == 1
    assert "all rows are in the target, and only the newest schema is missing (gone): run" in failed.output
    assert not without_rows(target)


def test_rows_that_came_just_before_it_was_locked_are_noticed(backup: Path, target: str) -> None:
    async def late() -> None:
        with backup.open("rb") as file:
            async with session(target) as connection:
                await load(connection, Backup(file, "it"), Interrupting("never"))

    asyncio.run(upgrade(target))
    price = "INSERT INTO hx_gateway.model_prices (model, input_pico, output_pico) VALUES ('late', 2, 3)"
    asked(target, lambda c: c.execute(price))
    with pytest.raises(NotEmpty, match=r"rows in hx_gateway\.model_prices\."):
        asyncio.run(late())


@pytest.mark.parametrize(
    ("piece", "gone", "failure"),
    [
        (b"half a ro", True, TransferError),
        (b"not a price\n" * 100_000, False, asyncpg.BadCopyFileFormatError),
        (b"not a price\n" * 100_000, True, TransferError),
    ],
    ids=["the source", "the target", "both"],
)
def test_what_fails_in_the_middle_of_a_table_leaves_nothing(
    backup: Path, target: str, piece: bytes, gone: bool, failure: type[Exception]
) -> None:
    class Failing(Backup):
        async def copy(self, table: Table, sink: Sink) -> Figures:
            if table.name == "model_prices":
                for _ in range(20):
                    await sink(piece)
                if gone:
                    raise TransferError("the source is gone")
            return await super().copy(table, sink)

    async def restore() -> None:
        with backup.open("rb") as file:
            await _fill(target, Failing(file, "it"), Interrupting("never"))

    with pytest.raises(failure):
        asyncio.run(asyncio.wait_for(restore(), 60))
    assert without_rows(target)


def test_nobody_writes_or_comes_while_a_database_is_moved(filled: str) -> None:
    async def come() -> None:
        async with session(filled) as connection, snapshot(connection, alone=True) as source:
            other = await asyncpg.connect(filled)
            await other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await other.execute("DELETE FROM hx_gateway.model_prices")
            with pytest.raises(TransferError, match="somebody connected to the database meanwhile"):
                await source.finish()
            await other.close()

    asyncio.run(come())


def test_others_write_while_a_backup_is_taken_and_are_not_in_it(filled: str) -> None:
    async def write() -> tuple[int, int]:
        async with session(filled) as connection, snapshot(connection) as source:
            other = await asyncpg.connect(filled)
            await other.execute("UPDATE hx_gateway.model_prices SET updated_by = 'late'")
            (prices,) = (table for table in source.contents.tables if table.name == "model_prices")
            pieces: list[bytes] = []

            async def take(chunk: bytes) -> None:
                pieces.append(chunk)

            await source.copy(prices, take)
            await other.close()
            return len(pieces), b"".join(pieces).count(b"late")

    assert asyncio.run(write()) == (1, 0)


def test_a_database_that_is_being_migrated_is_left_alone(filled: str) -> None:
    async def meet() -> None:
        other = await asyncpg.connect(filled)
        await other.execute(f"SELECT pg_advisory_lock({LOCK_CLASS}, {MIGRATION_LOCK})")
        async with session(filled) as connection:
            with pytest.raises(TransferError, match="is being migrated: try again"):
                async with snapshot(connection):
                    pass
        await other.close()

    asyncio.run(meet())


def test_a_target_that_changes_rows_keeps_nothing(backup: Path, target: str) -> None:
    # On a partition, where nobody looks for triggers.
    leaf = f"agent_observability.{partition_name(PARTITIONED_TABLES[0], datetime.now(UTC))}"
    change = f"""
    CREATE FUNCTION public.change() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.message := 'changed'; RETURN NEW; END $$;
    CREATE TRIGGER change BEFORE INSERT ON {leaf} FOR EACH ROW EXECUTE FUNCTION public.change()
    """

    async def prepare(connection: asyncpg.Connection[Any]) -> None:
        await ensure_partition(connection, PARTITIONED_TABLES[0], datetime.now(UTC))
        await connection.execute(change)

    asyncio.run(upgrade(target))
    asked(target, prepare)
    failed = run("restore", backup, "--to", target)
    assert failed.exit_code == 1
    assert "agent_observability.trace_events came out otherwise in the target (4 rows of 4, or others)" in failed.output
    assert without_rows(target)


def test_a_target_with_other_columns_is_refused(backup: Path, target: str) -> None:
    asyncio.run(upgrade(target))
    asked(target, lambda c: c.execute("ALTER TABLE hx_gateway.teams DROP COLUMN tags"))
    failed = run("restore", backup, "--to", target)
    assert failed.exit_code == 1
    assert "hx_gateway.teams would not fit" in failed.output
    assert without_rows(target)


def test_a_backup_that_is_interrupted_leaves_no_file(filled: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left, private_file(tmp_path / "file", overwrite=False) as out:
        _run(_take(filled, out, Interrupting("copying")), "there", "No backup was written.")
    assert left.value.code == EXIT_INTERRUPTED
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_is_kept_unless_told_otherwise(
    filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_URL", filled)
    (tmp_path / "file").write_text("mine")
    refused = run("backup", tmp_path / "file")
    assert refused.exit_code != 0
    assert "--overwrite" in refused.output
    assert (tmp_path / "file").read_text() == "mine"
    assert run("backup", tmp_path / "file", "--overwrite").exit_code == 0
    assert "chmod 600" not in run("restore", tmp_path / "file", "--check").output
    (tmp_path / "file").chmod(0o640)
    told = run("restore", tmp_path / "file", "--check")
    assert (told.exit_code, "is open to others than you: chmod 600" in told.output) == (0, True)
    nowhere = run("backup", tmp_path / "missing" / "file")
    assert nowhere.exit_code == 1
    assert "cannot be written: No such file or directory" in nowhere.output


def test_a_policy_that_hides_rows_is_refused_rather_than_backed_up_in_part(
    newest: PostgresServer, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiding = "CREATE POLICY own_only ON hx_gateway.spend_logs AS RESTRICTIVE USING (tenant_id = 'acme')"
    asked(filled, lambda c: c.execute(hiding))
    try:
        monkeypatch.setenv("PG_URL", filled)
        refused = run("backup", tmp_path / "file")
        assert refused.exit_code == 1
        assert "may hide rows of hx_gateway.spend_logs" in refused.output
        assert os.listdir(tmp_path) == []
        # A superuser sees all.
        monkeypatch.setenv("PG_URL", filled.replace("//hx_ordinary@", "//hx@"))
        assert run("backup", tmp_path / "file").exit_code == 0
    finally:
        asked(filled, lambda c: c.execute("DROP POLICY own_only ON hx_gateway.spend_logs"))


def test_a_role_without_rights_is_told_what_it_lacks(
    newest: PostgresServer,
    oldest: PostgresServer,
    filled: str,
    backup: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for server in (newest, oldest):
        sql(server, "CREATE ROLE hx_stranger LOGIN")
    monkeypatch.setenv("PG_URL", filled.replace("//hx_ordinary@", "//hx_stranger@"))
    refused = run("backup", tmp_path / "file")
    assert refused.exit_code == 1
    assert "permission denied" in refused.output
    assert "take one that owns the gateway's tables" in refused.output
    with owned_database(oldest) as url:
        refused = run("restore", backup, "--to", url.replace("//hx_ordinary@", "//hx_stranger@"))
        assert refused.exit_code == 1
        assert "permission denied for database" in refused.output
        assert rows_in(url) == {}


def test_what_is_not_ours_is_named_and_left_out(
    oldest: PostgresServer, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = datetime(2026, 1, 5, tzinfo=UTC)
    detached = f"agent_observability.{partition_name(PARTITIONED_TABLES[0], day)}"

    async def make(connection: asyncpg.Connection[Any]) -> None:
        await connection.execute("CREATE TABLE hx_gateway.notes (id int); INSERT INTO hx_gateway.notes VALUES (1)")
        await connection.execute("CREATE TABLE hx_gateway.meanings (id int)")
        await ensure_partition(connection, PARTITIONED_TABLES[0], day)
        await connection.execute(f"ALTER TABLE agent_observability.trace_events DETACH PARTITION {detached}")

    with owned_database(oldest) as url:
        asyncio.run(upgrade(url))
        asked(url, make)
        monkeypatch.setenv("PG_URL", url)
        done = run("backup", tmp_path / "file")
        assert f"not in it: {detached}\n" in done.output
        assert "not in it: hx_gateway.meanings\n" in done.output
    restored = run("restore", tmp_path / "file", "--to", target)
    assert restored.exit_code == 0, restored.output
    assert "left out, for no migration of ours makes it: hx_gateway.notes" in restored.output


def test_status_tells_of_the_database(
    oldest: PostgresServer, filled: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_URL", filled)
    told = json.loads(run("status", "--json").output)
    assert (told["role"], told["exempt"], told["revision"], told["pending"]) == ("hx_ordinary", False, head(), [])
    assert told["version"].startswith("18")
    tables = {f"{table['schema']}.{table['name']}": table for table in told["tables"]}
    assert tables.keys() == rows_in(filled).keys() | {"hx_gateway.alembic_version"}
    assert tables["agent_observability.trace_events"]["partitions"] == 4
    monkeypatch.setenv("PG_URL", target)
    shown = run("status").output
    assert "PostgreSQL 15" in shown
    assert "none, newest" in shown
    assert "0001, 0002" in shown
