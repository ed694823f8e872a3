"""The Redis service against real servers: users, TLS, the pool, and commands that are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import trustme

from hx_gateway.services.base import FailureKind
from hx_gateway.services.redis import RedisService
from tests.fixtures.servers import Servers

USER = "someone"
PASSWORD = "p%40ss%2Fword"
MOST = 4


@pytest.fixture
async def user(servers: Servers) -> AsyncIterator[str]:
    """Make a user, and yield the URL that logs in as it."""
    client: Any = redis.asyncio.Redis.from_url(servers.redis.url)
    await client.execute_command("ACL", "SETUSER", USER, "on", ">p@ss/word", "~*", "+@all")
    yield servers.redis.url.replace("redis://", f"redis://{USER}:{PASSWORD}@")
    await client.execute_command("ACL", "DELUSER", USER)
    await client.aclose()


async def test_answers_are_text(servers: Servers) -> None:
    async with RedisService(servers.redis.url) as service:
        await service.client.set("greeting", "grüß")
        assert await service.client.get("greeting") == "grüß"


async def test_a_user_name_logs_in_as_that_user(user: str) -> None:
    async with RedisService(user) as service:
        assert await service.healthy()
        client: Any = service.client
        assert await client.execute_command("ACL", "WHOAMI") == USER


async def test_a_wrong_password_is_told_as_such_and_does_not_stop_the_start(user: str) -> None:
    async with RedisService(user.replace(PASSWORD, "wrong")) as service:
        assert not await service.healthy()
        assert service.sample.failure is FailureKind.AUTH


async def test_many_commands_at_once_share_few_connections(servers: Servers) -> None:
    async with RedisService(servers.redis.url, max_connections=MOST) as service:
        before = len(await service.client.client_list())
        assert await asyncio.gather(*(service.client.echo(str(number)) for number in range(40))) == [
            str(number) for number in range(40)
        ]
        others = before - 2  # the watch's and the one that asks are ours
        assert len(await service.client.client_list()) - others <= MOST
        assert service.pool.size <= service.pool.maximum == MOST


async def test_a_cancelled_commands_answer_is_read_by_nobody_else(servers: Servers) -> None:
    async with RedisService(servers.redis.url, max_connections=2) as service:
        for steps in range(12):

            async def ask(steps: int = steps) -> None:
                await service.client.echo(f"secret-{steps}")

            task = asyncio.create_task(ask())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await service.client.echo(f"mine-{steps}") == f"mine-{steps}"


async def test_a_command_cancelled_while_the_server_works_closes_its_connection(servers: Servers) -> None:
    async with RedisService(servers.redis.url, max_connections=2) as service:
        first = await service.client.client_id()

        async def wait() -> None:
            await service.client.blpop(["nothing"], timeout=30)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await service.client.client_id() != first


async def test_connections_that_ended_with_the_server_are_not_used_again(servers: Servers) -> None:
    async with RedisService(servers.redis.url) as service:
        await asyncio.gather(*(service.client.ping() for _ in range(5)))
        servers.redis.kill()
        servers.redis.start()
        async with asyncio.timeout(15):
            while not await service.healthy():
                await asyncio.sleep(0.05)
        assert await asyncio.gather(*(service.client.ping() for _ in range(5))) == [True] * 5


async def test_a_full_server_is_told_as_such_and_is_not_one_that_is_away(servers: Servers) -> None:
    async with RedisService(servers.redis.url) as service:
        await service.client.config_set("maxclients", 1)
        try:
            stranger = RedisService(servers.redis.url)
            await stranger.connect()
            assert stranger.sample.failure in (FailureKind.OVERLOADED, FailureKind.LOST)
            await stranger.close()
            assert await service.healthy()
        finally:
            await service.client.config_set("maxclients", 10_000)


@pytest.fixture
async def encrypted(servers: Servers) -> AsyncIterator[tuple[int, Path]]:
    """Put TLS for ``localhost`` before the server; yield the port and the authority's certificate."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    relays: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", servers.redis.port)
        for source, target in ((reader, behind[1]), (behind[0], writer)):
            task = asyncio.create_task(relay(source, target))
            relays.add(task)
            task.add_done_callback(relays.discard)

    server = await asyncio.start_server(visit, "localhost", 0, ssl=context)
    with tempfile.TemporaryDirectory() as directory:
        authority.cert_pem.write_to_path(Path(directory) / "ca.pem")
        yield server.sockets[0].getsockname()[1], Path(directory) / "ca.pem"
    server.close()
    for task in list(relays):
        task.cancel()
    await asyncio.gather(*relays, return_exceptions=True)


async def test_tls_is_checked_against_the_given_authority(encrypted: tuple[int, Path]) -> None:
    port, authority = encrypted
    async with RedisService(f"rediss://localhost:{port}/0?ssl_ca_certs={authority}") as service:
        assert await service.healthy()
        assert await service.client.ping()


async def test_a_server_of_another_authority_is_not_trusted(encrypted: tuple[int, Path]) -> None:
    port, _authority = encrypted
    async with RedisService(f"rediss://localhost:{port}/0") as service:
        assert service.sample.failure is FailureKind.TLS
