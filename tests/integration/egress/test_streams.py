from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aiohttp import web

from hx_gateway.services.egress.errors import EgressDenied, EgressFailed, EgressReason
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.streams import EgressStream
from hx_gateway.services.egress.target import CheckedTarget
from hx_gateway.services.egress.url import TCP_SCHEMES, WEBSOCKET_SCHEMES
from tests.integration.egress.conftest import MakeGuard
from tests.integration.egress.servers import saying, serving, silence

# More than the buffers of two sockets take.
LOUD = 20_000_000


async def _echo(request: web.Request) -> web.StreamResponse:
    if request.path == "/closed":
        return web.Response(status=401)
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    if request.path == "/chatty":
        for _ in range(3):
            await socket.send_str("news")
            await socket.ping(b"there?")
    while request.path == "/endless":
        await socket.send_str("news")
        await asyncio.sleep(0.02)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data * (1000 if request.path == "/large" else 1))
    return socket


@pytest.fixture
async def websocket_port() -> AsyncIterator[int]:
    """Serve WebSockets."""
    application = web.Application()
    application.router.add_get("/{path:.*}", _echo)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


@pytest.mark.parametrize("path", ["/", "/chatty"])
async def test_a_websocket_is_pinged_and_spoken_with(guard: MakeGuard, websocket_port: int, path: str) -> None:
    way_out = guard({"mcp.example": ["127.0.0.1"]})
    target = await way_out.check(f"ws://mcp.example:{websocket_port}{path}", schemes=WEBSOCKET_SCHEMES)
    async with way_out.open_websocket(target) as socket:
        await socket.ping()
        await socket.send("hello")
        assert await socket.receive() == "hello"


async def test_a_server_that_does_not_upgrade_is_told_with_its_status(guard: MakeGuard, websocket_port: int) -> None:
    way_out = guard()
    target = await way_out.check(f"ws://127.0.0.1:{websocket_port}/closed", schemes=WEBSOCKET_SCHEMES)
    with pytest.raises(EgressFailed) as caught:
        await way_out.open_websocket(target).__aenter__()
    assert (caught.value.status, caught.value.reason) == (401, EgressReason.PROTOCOL)


@pytest.mark.parametrize("words", [["x" * 100], ["x"] * 3])
async def test_a_websocket_that_says_too_much_is_left(guard: MakeGuard, websocket_port: int, words: list[str]) -> None:
    way_out = guard(max_bytes=2500)
    target = await way_out.check(f"ws://127.0.0.1:{websocket_port}/large", schemes=WEBSOCKET_SCHEMES)
    async with way_out.open_websocket(target) as socket:
        for word in words[:-1]:
            await socket.send(word)
            await socket.receive()
        await socket.send(words[-1])
        with pytest.raises(EgressFailed) as caught:
            await socket.receive()
    assert caught.value.reason is EgressReason.TOO_LARGE


async def test_a_websocket_that_says_nothing_is_left_in_time(guard: MakeGuard, websocket_port: int) -> None:
    way_out = guard(read_seconds=0.1)
    target = await way_out.check(f"ws://127.0.0.1:{websocket_port}/", schemes=WEBSOCKET_SCHEMES)
    async with way_out.open_websocket(target) as socket:
        with pytest.raises(EgressFailed) as caught:
            await socket.receive()
    assert caught.value.reason is EgressReason.TIMEOUT


async def test_a_websocket_that_talks_on_is_left_all_the_same(guard: MakeGuard, websocket_port: int) -> None:
    way_out = guard()
    target = await way_out.check(f"ws://127.0.0.1:{websocket_port}/endless", schemes=WEBSOCKET_SCHEMES)
    async with asyncio.timeout(5), way_out.open_websocket(target) as socket:
        assert await socket.receive() == "news"


async def test_a_server_that_reads_nothing_holds_nobody(guard: MakeGuard) -> None:
    release = asyncio.Event()

    async def deaf(request: web.BaseRequest) -> web.StreamResponse:
        answer: web.StreamResponse = web.Response()
        if "upgrade" in request.headers:
            answer = web.WebSocketResponse()
            await answer.prepare(request)
        cast(asyncio.Transport, request.transport).pause_reading()
        await release.wait()
        return answer

    runner = web.ServerRunner(web.Server(deaf), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    way_out = guard(total_seconds=0.4)
    for scheme, shout in (("ws", _shout_websocket), ("http", _shout_http)):
        url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
        target = await way_out.check(url, schemes=frozenset({scheme}))
        with pytest.raises(EgressFailed) as caught:
            await asyncio.wait_for(shout(way_out, target), 5)
        assert caught.value.reason is EgressReason.TIMEOUT
    release.set()
    await runner.cleanup()


async def _shout_websocket(way_out: EgressGuard, target: CheckedTarget) -> None:
    async with way_out.open_websocket(target) as socket:
        await socket.send("x" * LOUD)


async def _shout_http(way_out: EgressGuard, target: CheckedTarget) -> None:
    await way_out.request(target, "POST", body=b"x" * LOUD)


async def test_a_connection_nobody_reads_from_is_left_in_time(guard: MakeGuard) -> None:
    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast(asyncio.Transport, writer.transport).pause_reading()
        await asyncio.sleep(5)

    way_out = guard(total_seconds=0.2)
    async with serving(deaf, http=False) as server:
        target = await way_out.check(f"tcp://127.0.0.1:{server.port}", schemes=TCP_SCHEMES)
        async with asyncio.timeout(5), way_out.open_connection(target) as stream:
            with pytest.raises(EgressFailed) as caught:
                await stream.send(b"x" * LOUD)
    assert caught.value.reason is EgressReason.TIMEOUT


async def test_a_connection_carries_bytes_both_ways(guard: MakeGuard) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(5))

    way_out = guard({"mcp.example": ["127.0.0.1"]})
    async with serving(echo, http=False) as server:
        target = await way_out.check(f"tcp://mcp.example:{server.port}", schemes=TCP_SCHEMES)
        async with way_out.open_connection(target) as stream:
            await stream.send(b"hello")
            assert (await stream.read(), await stream.read()) == (b"hello", b"")


async def test_the_second_address_is_dialled_where_the_first_is_away(guard: MakeGuard) -> None:
    way_out = guard({"mcp.example": ["::1", "127.0.0.1"]}, allow_hosts=frozenset({"mcp.example"}))
    async with serving(saying(b"ok"), http=False) as server:
        target = await way_out.check(f"tcp://mcp.example:{server.port}", schemes=TCP_SCHEMES)
        async with way_out.open_connection(target) as stream:
            assert await stream.read() == b"ok"


async def _read_all(stream: EgressStream) -> None:
    while await stream.read():
        pass


@pytest.mark.parametrize(
    ("pieces", "every", "reason"),
    [
        ((b"x" * 1024,), 0.0, EgressReason.TOO_LARGE),
        ((b"x",), 0.02, EgressReason.TIMEOUT),
        ((), 0.0, EgressReason.TIMEOUT),
    ],
    ids=["endless", "drips", "silence"],
)
async def test_a_connection_is_read_within_the_caps(
    guard: MakeGuard, pieces: tuple[bytes, ...], every: float, reason: EgressReason
) -> None:
    way_out = guard(max_bytes=32 * 1024, total_seconds=0.4, read_seconds=0.2)
    async with serving(saying(*pieces, every=every, forever=True) if pieces else silence, http=False) as server:
        target = await way_out.check(f"tcp://127.0.0.1:{server.port}", schemes=TCP_SCHEMES)
        async with way_out.open_connection(target) as stream:
            with pytest.raises(EgressFailed) as caught:
                await _read_all(stream)
    assert caught.value.reason is reason


async def test_a_unix_socket_is_dialled_in_an_allowed_directory_only(guard: MakeGuard, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    for directory in (inside, outside):
        directory.mkdir()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ok")
        writer.close()

    servers = [await asyncio.start_unix_server(answer, directory / "a.sock") for directory in (inside, outside)]
    (inside / "link.sock").symlink_to(outside / "a.sock")
    (inside / "link").symlink_to(outside)
    (inside / "file").touch()
    way_out = guard(socket_directories=(tmp_path / "missing", inside))
    async with way_out.open_connection(await way_out.check_socket(f"unix://{inside}/a.sock")) as stream:
        assert await stream.read() == b"ok"
    others = (outside / "a.sock", inside / "link" / "a.sock", inside / "link.sock", inside / "file", inside / "none")
    for path in (*others, inside):
        with pytest.raises(EgressDenied, match=r"^endpoint: it is no socket") as caught:
            await way_out.check_socket(f"unix://{path}", field="endpoint")
        assert caught.value.reason is EgressReason.SOCKET_PATH
    for server in servers:
        server.close()


async def test_a_unix_socket_nobody_listens_on_is_told(guard: MakeGuard, tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda _, writer: writer.close(), tmp_path / "a.sock")
    server.close()
    await server.wait_closed()
    way_out = guard(socket_directories=(tmp_path,))
    target = await way_out.check_socket(f"unix://{tmp_path}/a.sock")
    with pytest.raises(EgressFailed) as caught:
        await way_out.open_connection(target).__aenter__()
    assert caught.value.reason is EgressReason.CONNECT
