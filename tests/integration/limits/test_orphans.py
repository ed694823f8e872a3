"""What a worker that died leaves behind: charged, voided, and out of the way of others, once its journal is applied."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from hx_gateway.journal.segment import segment_name
from hx_gateway.journal.streams import StreamFolder
from hx_gateway.limits.durable import Authority
from hx_gateway.limits.records import Sent
from hx_gateway.limits.repository import PostgresLedger
from hx_gateway.limits.roots import JournalRoot
from hx_gateway.services.postgres import PostgresService
from tests.integration.limits.conftest import MakeLedger
from tests.integration.limits.ledger_samples import (
    WINDOW,
    apply,
    ask_for,
    assert_sums_agree,
    done,
    new_call,
    rows,
    windows,
)

SILENCE = "UPDATE hx_gateway.ledger_members SET seen_at = now() - interval '16 seconds' WHERE stream_id = $1"
SPENT = "SELECT cost_nano, settled_by, error_code FROM hx_gateway.spend_logs"
MEMBERS = "SELECT count(*) FROM hx_gateway.ledger_members"


@pytest.fixture
async def ledger(make_ledger: MakeLedger) -> PostgresLedger:
    """Give the ledger of a worker that lives."""
    ledger = make_ledger()
    await ledger.join(uuid4())
    return ledger


async def silent_member(make_ledger: MakeLedger, connection: asyncpg.Connection[Any], root: str = "here") -> UUID:
    """Let a worker join that is not heard of any more."""
    stream = uuid4()
    await make_ledger(root).join(stream)
    await connection.execute(SILENCE, stream)
    return stream


async def test_what_a_dead_worker_sent_is_charged(
    ledger: PostgresLedger, make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    dead = await silent_member(make_ledger, connection)
    sent = new_call(stream_id=str(dead))
    await apply(connection, [Sent(sent, "deployment", "openai")])

    assert await ledger.settle_orphans() == 1

    assert await rows(connection, SPENT) == [(100, "unknown", "worker_lost")]
    assert await windows(connection) == {WINDOW: (100, 0)}
    assert await rows(connection, MEMBERS) == [(1,)]
    assert await ledger.settle_orphans() == 0
    await assert_sums_agree(connection)
    await apply(connection, [done(sent, 40)])
    assert await windows(connection) == {WINDOW: (40, 0)}


async def test_a_reservation_of_a_dead_worker_is_void(
    ledger: PostgresLedger, make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    dying, stream = make_ledger(), uuid4()
    await dying.join(stream)
    await dying.reserve(ask_for(str(uuid4()), 600), 1)
    await connection.execute(SILENCE, stream)
    assert await ledger.settle_orphans() == 1
    assert await windows(connection) == {WINDOW: (0, 0)}


async def test_nothing_is_settled_while_there_is_something_left_to_apply(
    ledger: PostgresLedger, make_ledger: MakeLedger, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    dead = await silent_member(make_ledger, connection)
    folder = tmp_path / "here" / str(dead)
    folder.mkdir()
    segment = folder / segment_name(1)
    segment.write_bytes(b"records")
    await apply(connection, [Sent(new_call(stream_id=str(dead)))])

    assert await ledger.settle_orphans() == 0
    segment.unlink()
    assert await ledger.settle_orphans() == 1
    assert not folder.exists()


async def test_nothing_is_settled_of_a_worker_that_holds_its_journal(
    ledger: PostgresLedger, make_ledger: MakeLedger, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    folder = StreamFolder.create(tmp_path / "here")
    await make_ledger().join(folder.stream)
    await connection.execute(SILENCE, folder.stream)
    await ledger.settle_orphans()
    assert await rows(connection, MEMBERS) == [(2,)]
    folder.remove()
    await ledger.settle_orphans()
    assert await rows(connection, MEMBERS) == [(1,)]


async def test_a_worker_that_is_heard_of_is_let_alone_unless_its_process_is_gone(
    ledger: PostgresLedger, make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    await make_ledger().join(uuid4())
    await ledger.settle_orphans()
    assert await rows(connection, MEMBERS) == [(2,)]
    gone = subprocess.Popen(["true"])
    gone.wait()
    await connection.execute(
        "UPDATE hx_gateway.ledger_members SET pid = $1 WHERE stream_id <> $2", gone.pid, ledger._stream
    )
    await ledger.settle_orphans()
    assert await rows(connection, MEMBERS) == [(1,)]


async def test_a_worker_that_is_heard_of_while_it_is_looked_for_is_let_alone(
    make_ledger: MakeLedger, connection: asyncpg.Connection[Any], postgres: PostgresService, tmp_path: Path
) -> None:
    slow = await silent_member(make_ledger, connection)

    class Root(JournalRoot):
        def is_applied(self, stream: UUID) -> bool:
            asyncio.run_coroutine_threadsafe(make_ledger().beat(stream), loop).result()
            return True

    loop = asyncio.get_running_loop()
    ledger = PostgresLedger(postgres, Root(tmp_path / "here"), Authority.REDIS)
    await ledger.join(uuid4())
    await apply(connection, [Sent(new_call(stream_id=str(slow)))])
    assert await ledger.settle_orphans() == 0
    assert await rows(connection, MEMBERS) == [(2,)]


async def test_members_of_another_root_are_let_alone(
    ledger: PostgresLedger, make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    far = await silent_member(make_ledger, connection, "elsewhere")
    await apply(connection, [Sent(new_call(stream_id=str(far)))])
    assert await ledger.settle_orphans() == 0
    assert await rows(connection, MEMBERS) == [(2,)]
    assert await windows(connection) == {WINDOW: (0, 100)}


async def test_an_epoch_goes_on_once_a_dead_member_of_this_root_is_settled(
    ledger: PostgresLedger, make_ledger: MakeLedger, connection: asyncpg.Connection[Any]
) -> None:
    await silent_member(make_ledger, connection)
    await ledger.turn(1, Authority.POSTGRES)
    assert (await ledger.acknowledge(ledger._stream, 2)).behind == 1
    await ledger.settle_orphans()
    assert (await ledger.state()).acknowledged


async def test_who_leaves_leaves_nothing_open(ledger: PostgresLedger, connection: asyncpg.Connection[Any]) -> None:
    await apply(connection, [Sent(new_call(stream_id=str(ledger._stream)))])
    await ledger.leave(ledger._stream)
    assert await rows(connection, MEMBERS) == [(0,)]
    assert await windows(connection) == {WINDOW: (100, 0)}
    await ledger.leave(ledger._stream)


async def test_processes_on_one_root_read_one_id(make_ledger: MakeLedger, tmp_path: Path) -> None:
    ids = {make_ledger(root)._root.id for root in ("here", "here", "elsewhere")}
    assert len(ids) == 2
    assert os.listdir(tmp_path / "here") == ["root"]
