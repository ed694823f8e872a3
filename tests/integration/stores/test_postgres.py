"""The PostgreSQL service against real servers: URLs, the pool, and what a failure does to others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
import trustme

from hx_gateway.services.base import DependencyError, FailureKind, HealthSample
from hx_gateway.services.dsn import DsnError
from hx_gateway.services.embedded.postgres import DATABASE, SUPERUSER, USER, EmbeddedPostgres
from hx_gateway.services.postgres import PostgresService
from tests.fixtures.servers import Servers

# 0.25 s is promised; a busy machine gets more than five times that.
REFUSED_SECONDS = 2.0
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
AWKWARD = "p@ss/w:ö %#?[]&=+'"


async def test_all_of_a_pool_in_use_is_not_a_database_that_is_away(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, max_size=1) as service, service.acquire() as connection:
        working = asyncio.create_task(connection.fetchval("SELECT pg_sleep(0.3)::text || 'done'"))
        await asyncio.sleep(0.05)
        assert await service.healthy()
        assert await working == "done"


async def test_the_pool_is_there_before_the_database_counts_as_healthy(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, min_size=2) as service:
        assert service.pool.size == 2
        async with service.acquire():
            assert service.pool.checked_out == 1
        assert service.pool.checked_out == 0


async def test_an_error_of_the_callers_own_costs_no_connection(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, max_size=1) as service:
        seen = set()

        async def fail() -> None:
            async with service.acquire() as connection:
                seen.add(await connection.fetchval("SELECT pg_backend_pid()"))
                raise KeyError("not found")

        for _ in range(3):
            with pytest.raises(KeyError):
                await fail()
        assert len(seen) == 1


async def test_a_statements_own_error_stays_what_it_is(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url) as service:
        changes: list[HealthSample] = []
        service.on_change(changes.append)
        for sql, arguments, kind in (
            ("SELECT * FROM nowhere", (), asyncpg.UndefinedTableError),
            ("SELECT $1::int", ("x",), asyncpg.DataError),
            ("SELECT $1::int", (), asyncpg.InterfaceError),
        ):
            with pytest.raises(kind):
                async with service.acquire() as connection:
                    await connection.fetchval(sql, *arguments)
        await asyncio.sleep(0)
        assert changes == []


async def test_a_lost_connection_leaves_the_work_of_others_alone(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url) as service, service.acquire() as other:
        working = asyncio.create_task(other.fetchval("SELECT pg_sleep(0.5)::text || 'done'"))

        async def be_ended() -> None:
            async with service.acquire() as connection:
                await connection.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")

        with pytest.raises(DependencyError) as caught:
            await be_ended()
        assert caught.value.kind is FailureKind.LOST
        assert await service.healthy()
        assert await working == "done"


async def test_a_connection_that_is_terminated_between_two_steps_of_a_statement_is_a_lost_one(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = asyncpg.Connection._get_statement

    async def prepare_and_lose(connection: Any, *arguments: Any, **options: Any) -> Any:
        statement = await prepare(connection, *arguments, **options)
        service._terminate_pool()
        return statement

    async with PostgresService(servers.postgres.url, max_size=1) as service:
        monkeypatch.setattr(asyncpg.Connection, "_get_statement", prepare_and_lose)
        with pytest.raises(DependencyError) as lost:
            async with service.acquire() as connection:
                await connection.fetchval("SELECT 'lost'")
        assert lost.value.kind is FailureKind.LOST


async def test_an_error_of_ours_is_no_lost_connection(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, max_size=1) as service:
        with pytest.raises(AttributeError):
            async with service.acquire() as connection:
                connection.no_such_thing()


async def test_a_read_only_database_still_serves_readers(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, max_size=1) as service:

        async def write() -> object:
            async with service.acquire() as connection:
                backend: object = await connection.fetchval("SELECT pg_backend_pid()")
                await connection.execute("SET default_transaction_read_only = on")
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError) as caught:
                    await connection.execute("CREATE TABLE nothing (a int)")
                seen.append(backend)
                raise caught.value

        seen: list[object] = []
        with pytest.raises(DependencyError) as caught:
            await write()
        assert caught.value.kind is FailureKind.READ_ONLY
        assert service.sample.healthy
        async with service.acquire() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") not in seen


async def test_a_caller_is_not_held_up_by_a_server_that_hangs(servers: Servers) -> None:
    async with PostgresService(servers.postgres.url, heartbeat=60) as service, service.acquire():
        servers.postgres.freeze()
        try:

            async def ask() -> FailureKind:
                with pytest.raises(DependencyError) as caught:
                    async with service.acquire():
                        pass
                return caught.value.kind

            began = time.monotonic()
            kinds = await asyncio.gather(*(ask() for _ in range(20)))
            assert time.monotonic() - began < REFUSED_SECONDS
            assert set(kinds) <= {FailureKind.TIMEOUT, FailureKind.OVERLOADED}
        finally:
            servers.postgres.thaw()


async def test_a_closed_service_opens_nothing(servers: Servers) -> None:
    service = PostgresService(servers.postgres.url)
    await service.connect()
    await service.close()
    assert not await service.healthy()
    assert service.pool.size == 0
    with pytest.raises(DependencyError):
        async with service.acquire():
            pass


async def test_closing_waits_only_so_long_for_work_that_does_not_end(servers: Servers) -> None:
    service = PostgresService(servers.postgres.url)
    await service.connect()

    async def work() -> None:
        async with service.acquire() as connection:
            await connection.fetchval("SELECT pg_sleep(60)")

    working = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        await service.close()
        with pytest.raises(DependencyError):
            await working


async def test_no_more_connections_is_told_as_such_and_others_go_on(servers: Servers) -> None:
    async with (
        PostgresService(servers.postgres.url, max_size=30, acquire_timeout=5) as service,
        service.acquire() as one,
    ):
        allowed = int(await one.fetchval("SHOW max_connections"))
        held: list[asyncpg.Connection] = []

        async def take_all() -> None:
            for _ in range(allowed + 1):
                held.append(await asyncpg.connect(servers.postgres.url))  # noqa: PERF401 - those held are closed below

        try:
            with pytest.raises(asyncpg.TooManyConnectionsError):
                await take_all()
            with pytest.raises(DependencyError) as caught:
                async with service.acquire():
                    pass
            assert caught.value.kind is FailureKind.OVERLOADED
            assert service.sample.healthy
            assert await one.fetchval("SELECT 1") == 1
        finally:
            for connection in held:
                connection.terminate()


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Path, int]]:
    """Run a server that asks for passwords, our role's an awkward one; yield its socket's folder and its port."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="hxpw-", ignore_cleanup_errors=True))
        Path(directory).chmod(0o755)
        server = EmbeddedPostgres(Path(directory) / "postgres", notify=lambda _line: None)
        stack.callback(server.stop)
        server.start()
        passwords = json.loads((server.base / "credentials.json").read_text())
        folder = server._socket_folder()

        async def change() -> None:
            owner = await asyncpg.connect(
                host=str(folder), user=SUPERUSER, password=passwords["superuser_password"], database="postgres"
            )
            await owner.execute(f"ALTER ROLE {USER} PASSWORD '{AWKWARD.replace(chr(39), chr(39) * 2)}'")
            await owner.close()

        asyncio.run(change())
        yield folder, 5432


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+asyncpg", "postgres"])
async def test_awkward_credentials_work_when_encoded_and_over_a_unix_socket(
    guarded: tuple[Path, int], scheme: str
) -> None:
    folder, port = guarded
    url = f"{scheme}://{USER}:{quote(AWKWARD, safe='')}@/{DATABASE}?host={quote(str(folder), safe='/')}&port={port}"
    async with PostgresService(url) as service:
        assert await service.healthy()


async def test_awkward_credentials_are_told_when_not_encoded(guarded: tuple[Path, int]) -> None:
    with pytest.raises(DsnError, match="percent-encode") as caught:
        PostgresService(f"postgresql://{USER}:{AWKWARD}@localhost/{DATABASE}")
    assert "p@ss" not in str(caught.value).replace("p%40ss for p@ss", "")


async def test_a_wrong_password_is_told_as_such_and_does_not_stop_the_start(guarded: tuple[Path, int]) -> None:
    folder, _port = guarded
    async with PostgresService(f"postgresql://{USER}:wrong@/{DATABASE}?host={folder}") as service:
        assert not await service.healthy()
        assert service.sample.failure is FailureKind.AUTH


class EncryptedRelay:
    """A PostgreSQL with TLS: the embedded one is built without, so it is put before it (protocol docs, 54.2.11)."""

    def __init__(self, behind: int) -> None:
        self.encrypted = 0
        self.authority = trustme.CA()
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost").configure_cert(self._context)

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == SSL_REQUEST
        writer.write(b"S")
        with contextlib.suppress(OSError):
            await writer.start_tls(self._context)
            self.encrypted += 1
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
            await asyncio.gather(_relay(reader, behind_writer), _relay(behind_reader, writer))
        writer.transport.abort()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@pytest.fixture
async def relay(servers: Servers) -> AsyncIterator[tuple[EncryptedRelay, str, Path]]:
    """Yield the relay, a URL that leads through it without a way to trust it, and its authority's certificate."""
    encrypted = EncryptedRelay(servers.postgres.port)
    server = await asyncio.start_server(encrypted.visit, "localhost", 0)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        encrypted.authority.cert_pem.write_to_path(Path(directory) / "ca.pem")
        yield encrypted, f"postgresql://hx@localhost:{port}/postgres?sslmode=verify-full", Path(directory) / "ca.pem"
    server.close()
    await server.wait_closed()


async def test_tls_is_checked_against_the_given_authority(relay: tuple[EncryptedRelay, str, Path]) -> None:
    encrypted, url, authority = relay
    async with PostgresService(f"{url}&sslrootcert={authority}") as service, service.acquire() as connection:
        assert await connection.fetchval("SELECT 41 + 1") == 42
    assert encrypted.encrypted


async def test_a_server_of_another_authority_is_not_trusted(
    relay: tuple[EncryptedRelay, str, Path], tmp_path: Path
) -> None:
    _, url, _ = relay
    trustme.CA().cert_pem.write_to_path(tmp_path / "stranger.pem")
    async with PostgresService(f"{url}&sslrootcert={tmp_path / 'stranger.pem'}") as service:
        assert service.sample.failure is FailureKind.TLS


async def test_a_server_without_tls_is_refused_where_it_is_asked_for(servers: Servers) -> None:
    async with PostgresService(f"{servers.postgres.url}?sslmode=require") as service:
        assert service.sample.failure is FailureKind.TLS
