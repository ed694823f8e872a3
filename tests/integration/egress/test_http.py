from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme

from hx_gateway.services.egress.errors import EgressDenied, EgressError, EgressFailed, EgressReason
from hx_gateway.services.egress.resolver import SystemResolver
from tests.fixtures.egress import dial
from tests.integration.egress.conftest import MakeGuard
from tests.integration.egress.servers import Answer, saying, serving, silence

HEAD = b"HTTP/1.1 200 OK\r\n"
OK = saying(HEAD + b"X-Two: a\r\nx-two: b\r\ncontent-length: 2\r\n\r\nok")
NAME = "mcp.example"


async def test_an_allowed_server_is_asked_under_its_name_with_the_path_as_written(guard: MakeGuard) -> None:
    way_out = guard({NAME: ["127.0.0.1"]})
    async with serving(OK) as server:
        target = await way_out.check(f"http://{NAME}:{server.port}/a/../b%2F?x=%20&y[]=1")
        answer = await way_out.request(target, "POST", headers={"X-Key": "v"}, body=b"{}")
    assert (answer.status, answer.body) == (200, b"ok")
    assert [field for field in answer.headers if field[0] == "x-two"] == [("x-two", "a"), ("x-two", "b")]
    lines = server.heads[0].lower().decode().splitlines()
    assert lines[0] == "post /a/../b%2f?x=%20&y[]=1 http/1.1"
    assert sorted(filter(None, lines[1:])) == [
        "accept-encoding: identity",
        "connection: close",
        "content-length: 2",
        f"host: {NAME}:{server.port}",
        "user-agent: hx-gateway",
        "x-key: v",
    ]


async def test_nothing_is_looked_up_between_the_check_and_the_connection(
    guard: MakeGuard, connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    way_out = guard({NAME: ["127.0.0.1"]}, {NAME: ["127.0.0.2"]})
    async with serving(OK) as server, serving(OK, host="127.0.0.2", port=server.port) as inside:
        target = await way_out.check(f"http://{NAME}:{server.port}/")

        loop = asyncio.get_running_loop()
        read = loop.getaddrinfo

        def look_up(host: str, *rest: Any, **options: Any) -> Any:
            ip_address(host)  # a loop may read a number this way; a name is a ValueError
            return read(host, *rest, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(loop, "getaddrinfo", look_up)
        assert (await way_out.request(target)).status == 200
        assert (await way_out.request(target)).status == 200
        async with way_out.open_connection(target) as stream:
            await stream.send(b"GET / HTTP/1.1\r\n\r\n")
            assert (await stream.read()).startswith(HEAD)
    assert connected == [("127.0.0.1", server.port)] * 3
    assert inside.connections == 0


async def test_a_name_that_begins_to_lead_inside_is_refused_at_the_next_check(guard: MakeGuard) -> None:
    way_out = guard({NAME: ["127.0.0.1"]}, {NAME: ["127.0.0.1", "127.0.0.2"]})
    async with serving(OK) as server:
        await way_out.check(f"http://{NAME}:{server.port}/")
        with pytest.raises(EgressDenied):
            await way_out.check(f"http://{NAME}:{server.port}/")
    assert server.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_redirect_is_refused_and_not_followed(guard: MakeGuard, status: int, scheme: str) -> None:
    way_out = guard({NAME: ["127.0.0.1"]})
    async with serving(OK, host="127.0.0.2") as inside:
        for place in (
            f"//127.0.0.2:{inside.port}/",
            f"http://127.0.0.2:{inside.port}/",
            "/same",
            "http://169.254.169.254",
        ):
            head = f"HTTP/1.1 {status} Away\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode()
            async with serving(saying(head)) as server:
                target = await way_out.check(
                    f"{scheme}://{NAME}:{server.port}/", schemes=frozenset({scheme}), field="endpoint"
                )
                with pytest.raises(EgressDenied, match=r"^endpoint: its server redirects") as caught:
                    await dial(way_out, target)
            assert caught.value.reason is EgressReason.REDIRECT
            assert "127.0.0.2" not in caught.value.message
            assert server.connections == 1
        assert inside.connections == 0


async def test_a_handshake_that_stops_is_left_in_time(guard: MakeGuard) -> None:
    way_out = guard(connect_seconds=0.2)
    async with serving(silence, http=False) as server:
        target = await way_out.check(f"https://127.0.0.1:{server.port}/")
        with pytest.raises(EgressFailed) as caught:
            await asyncio.wait_for(way_out.request(target), 2)
    assert caught.value.reason is EgressReason.TIMEOUT


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
SLOW = {
    "silence": silence,
    "a head in drips": saying(HEAD, b"x: y\r\n", every=0.02, forever=True),
    "a body in drips": saying(CHUNKED, b"1\r\nx\r\n", every=0.02, forever=True),
    "a body that stops": saying(HEAD + b"content-length: 9\r\n\r\nx", b"", every=0.02, forever=True),
    "interim heads": saying(b"HTTP/1.1 103 Early Hints\r\n\r\n", every=0.02, forever=True),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
async def test_a_slow_server_is_left_in_time(guard: MakeGuard, answer: Answer) -> None:
    way_out = guard(total_seconds=0.4, read_seconds=0.3)
    async with serving(answer) as server:
        target = await way_out.check(f"http://127.0.0.1:{server.port}/")
        started = asyncio.get_running_loop().time()
        with pytest.raises(EgressFailed) as caught:
            await way_out.request(target)
        assert asyncio.get_running_loop().time() - started < 2.0
    assert (caught.value.reason, caught.value.failure_class) in (
        (EgressReason.TIMEOUT, "timeout"),
        (EgressReason.PROTOCOL, "protocol"),  # more fields than are read, before the time was over
    )


@pytest.mark.parametrize("start", [HEAD + b"\r\n", CHUNKED, HEAD + b"content-length: 99999999\r\n\r\n"])
async def test_an_endless_body_is_read_to_the_cap(guard: MakeGuard, start: bytes) -> None:
    piece = b"1000\r\n" + b"x" * 4096 + b"\r\n" if start is CHUNKED else b"x" * 4096
    way_out = guard(max_bytes=64 * 1024)
    async with serving(saying(start, piece, forever=True)) as server:
        target = await way_out.check(f"http://127.0.0.1:{server.port}/")
        with pytest.raises(EgressFailed) as caught:
            await way_out.request(target)
    assert caught.value.reason is EgressReason.TOO_LARGE


async def test_a_body_nobody_wants_is_not_waited_for(guard: MakeGuard) -> None:
    way_out = guard(max_bytes=1)
    async with serving(saying(CHUNKED, b"4\r\nxxxx\r\n", every=0.02, forever=True)) as server:
        target = await way_out.check(f"http://127.0.0.1:{server.port}/")
        answer = await way_out.request(target, want_body=False)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    "answer",
    [
        saying(HEAD + b"x: " + b"y" * 9000 + b"\r\n\r\n"),
        saying(HEAD + b"x: y\r\n" * 100 + b"\r\n"),
        saying(b"SSH-2.0-OpenSSH_9.6\r\n"),
        saying(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx"),
        saying(b""),
    ],
    ids=["a long field", "many fields", "no HTTP", "half a body", "nothing"],
)
async def test_what_is_no_answer_is_told_without_its_text(guard: MakeGuard, answer: Answer) -> None:
    way_out = guard()
    async with serving(answer) as server:
        target = await way_out.check(f"http://127.0.0.1:{server.port}/", field="endpoint")
        with pytest.raises(EgressFailed, match=r"^endpoint: its server did not answer by the protocol") as caught:
            await way_out.request(target)
    assert "SSH" not in caught.value.message


async def test_a_compressed_body_is_not_unpacked(guard: MakeGuard) -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    way_out = guard()
    async with serving(
        saying(HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb) + bomb)
    ) as server:
        answer = await way_out.request(await way_out.check(f"http://127.0.0.1:{server.port}/"))
    assert answer.body == bomb


async def test_the_environment_adds_no_proxy_and_no_password(
    guard: MakeGuard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password secret\n")
    netrc.chmod(0o600)
    asking = b"HTTP/1.1 401 No\r\nwww-authenticate: Basic realm=x\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    async with serving(OK) as proxy, serving(saying(asking)) as server:
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        way_out = guard()
        target = await way_out.check(f"http://127.0.0.1:{server.port}/")
        assert [(await way_out.request(target)).status for _ in range(2)] == [401, 401]
    assert proxy.connections == 0
    assert all(b"authorization" not in head.lower() and b"cookie" not in head.lower() for head in server.heads)


async def test_a_port_where_nobody_listens_is_told(guard: MakeGuard) -> None:
    way_out = guard()
    async with serving(OK) as server:
        pass
    for url in (f"http://127.0.0.1:{server.port}/", f"ws://127.0.0.1:{server.port}/", f"tcp://127.0.0.1:{server.port}"):
        target = await way_out.check(url, schemes=frozenset({"http", "ws", "tcp"}))
        with pytest.raises(EgressError) as caught:
            await dial(way_out, target)
        assert caught.value.failure_class == "connect"


@pytest.mark.parametrize(("certified", "passes"), [(NAME, True), ("other.example", False), ("127.0.0.1", False)])
async def test_tls_verifies_the_name_at_the_checked_address(guard: MakeGuard, certified: str, passes: bool) -> None:
    authority = trustme.CA()
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(serves)
    named: list[str | None] = []
    serves.sni_callback = lambda _, name, __: named.append(name)
    trusts = ssl.create_default_context()
    authority.configure_trust(trusts)
    way_out = guard({NAME: ["127.0.0.1"]}, tls=trusts)
    async with serving(OK, tls=serves) as server:
        target = await way_out.check(f"https://{NAME}:{server.port}/")
        if passes:
            assert (await way_out.request(target)).status == 200
            assert f"host: {NAME}:{server.port}\r\n".encode() in server.heads[0].lower()
        else:
            with pytest.raises(EgressFailed) as caught:
                await way_out.request(target)
            assert caught.value.failure_class == "tls"
            assert server.heads == []
    assert named == [NAME]


async def test_the_system_resolver_knows_loopback_and_not_what_is_no_name() -> None:
    resolver = SystemResolver(threads=1)
    try:
        assert {str(address) for address in await resolver.resolve("localhost")} <= {"127.0.0.1", "::1"}
        with pytest.raises(OSError, match=r".+"):
            await resolver.resolve("no-such-name.invalid")
    finally:
        resolver.close()
