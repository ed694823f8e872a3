"""Scripts over one connection: who gets which reply, and what becomes of those who wait when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import trustme
import uvloop

from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.dsn import DsnError
from hx_gateway.services.redis_pipe import RedisPipe, Script
from tests.fixtures.servers import RedisServer
from tests.integration.limits.redis_only import KINDS, running

USER = "someone"
PASSWORD = "p%40ss%2Fword"
# What is not about time must not fail on a machine that has none.
PATIENT_SECONDS = 10.0
TAG = Script("tag", "return {KEYS[1], ARGV[1]}")


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with running(request.param) as started:
        yield started


@pytest.fixture
async def pipe(server: RedisServer) -> AsyncIterator[RedisPipe]:
    pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
    yield pipe
    await pipe.close()


async def tagged(pipe: RedisPipe, tag: str) -> None:
    """Ask for a value of our own and see that it is ours."""
    assert await pipe.run(TAG, (tag,), (tag * 3,)) == [tag.encode(), (tag * 3).encode()]


async def failure(asking: Coroutine[Any, Any, Any]) -> FailureKind:
    """Return why a command failed."""
    with pytest.raises(DependencyError) as caught:
        await asking
    assert caught.value.dependency == "Redis"
    return caught.value.kind


async def test_everybody_gets_the_reply_to_what_they_asked(pipe: RedisPipe) -> None:
    await asyncio.gather(*(tagged(pipe, f"tag-{number}") for number in range(500)))


async def test_commands_of_one_turn_share_one_connection(pipe: RedisPipe) -> None:
    ids = await asyncio.gather(*(pipe.command("CLIENT", "ID") for _ in range(50)))
    assert len(set(ids)) == 1


async def test_replies_are_those_of_the_server(pipe: RedisPipe) -> None:
    await pipe.command("SET", "number", 7)
    assert await pipe.command("GET", "number") == b"7"
    assert await pipe.command("GET", "nothing") is None
    assert await pipe.command("INCRBY", "number", 5) == 12


async def test_a_command_that_the_server_refuses_fails_alone(pipe: RedisPipe) -> None:
    refused, answered = await asyncio.gather(failure(pipe.command("NOTHING")), pipe.command("ECHO", "x"))
    assert (refused, answered) == (FailureKind.PROTOCOL, b"x")


async def test_a_script_that_fails_is_told(pipe: RedisPipe) -> None:
    assert await failure(pipe.run(Script("broken", "return nothing.at_all"), (), ())) is FailureKind.PROTOCOL
    assert await failure(pipe.run(Script("unread", "return {"), (), ())) is FailureKind.PROTOCOL


async def test_scripts_that_the_server_has_lost_are_loaded_again(pipe: RedisPipe) -> None:
    for _ in range(2):
        await pipe.command("SCRIPT", "FLUSH")
        await asyncio.gather(*(tagged(pipe, f"tag-{number}") for number in range(20)))


@pytest.mark.parametrize("fresh", [True, False], ids=["first-command", "connected"])
async def test_a_caller_cancelled_at_any_point_leaves_everybody_their_replies(server: RedisServer, fresh: bool) -> None:
    for steps in range(25):
        pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
        if not fresh:
            await tagged(pipe, "before")
        task = asyncio.create_task(tagged(pipe, "cancelled"))
        others = [asyncio.create_task(tagged(pipe, f"other-{number}")) for number in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.gather(*others)
        await tagged(pipe, f"after-{steps}")
        assert pipe.waiting == 0
        await pipe.close()


async def test_callers_cancelled_at_random_times_shift_no_reply(pipe: RedisPipe) -> None:
    async def sometimes(number: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0004 if number % 3 == 0 else 5):
                await tagged(pipe, f"tag-{number}")

    for turn in range(20):
        await asyncio.gather(*(sometimes(turn * 100 + number) for number in range(100)))


async def test_a_server_that_is_killed_fails_all_that_wait_and_is_found_again(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
    await tagged(pipe, "before")
    server.freeze()
    waiting = [asyncio.create_task(failure(pipe.command("ECHO", "x"))) for _ in range(20)]
    await asyncio.sleep(0.05)
    server.kill()
    try:
        assert set(await asyncio.gather(*waiting)) == {FailureKind.LOST}
        assert await failure(pipe.command("ECHO", "x")) is FailureKind.REFUSED
    finally:
        server.start()
    await tagged(pipe, "after")
    await pipe.close()


async def test_a_server_that_hangs_is_given_up_in_time_and_its_late_replies_reach_nobody(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=0.3)
    await tagged(pipe, "before")
    server.freeze()
    try:
        begun = time.monotonic()
        failed = await asyncio.gather(*(failure(pipe.command("ECHO", f"late-{number}")) for number in range(20)))
        assert set(failed) == {FailureKind.TIMEOUT}
        assert await failure(pipe.command("ECHO", "late")) is FailureKind.TIMEOUT
        assert time.monotonic() - begun < 4.0
    finally:
        server.thaw()
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(DependencyError):
                await tagged(pipe, "after")
                break
    await asyncio.gather(*(tagged(pipe, f"tag-{number}") for number in range(50)))
    await pipe.close()


async def test_who_waits_less_long_gives_up_alone(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
    await tagged(pipe, "before")
    server.freeze()
    try:
        patient = asyncio.create_task(pipe.run(TAG, ("patient",), ("p",)))
        began = time.monotonic()
        kinds = await asyncio.gather(*(failure(pipe.run(TAG, ("k",), ("v",), within=0.03)) for _ in range(3)))
        waited = time.monotonic() - began
        assert kinds == [FailureKind.TIMEOUT] * 3
        # Far from what the others would wait.
        assert 0.03 <= waited < PATIENT_SECONDS / 2
        assert not patient.done()
    finally:
        server.thaw()
    assert await patient == [b"patient", b"p"]
    # The replies that nobody waited for reach nobody else.
    await asyncio.gather(*(tagged(pipe, f"after-{number}") for number in range(20)))
    assert await pipe.run(TAG, ("k",), ("v",), within=PATIENT_SECONDS) == [b"k", b"v"]
    await pipe.close()


async def test_who_gives_up_reads_first_what_a_loop_that_stood_still_has_received(pipe: RedisPipe) -> None:
    await tagged(pipe, "before")
    asking = asyncio.create_task(pipe.run(TAG, ("k",), ("v",), within=0.03))
    # Long enough to be sent, and then no turn until the time is up.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.2)
    assert await asking == [b"k", b"v"]


async def test_a_loop_that_stood_still_does_not_take_the_server_for_hung(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hx_gateway.services.redis_pipe.GRACE_SECONDS", 5.0)

    async def stand_still() -> None:
        pipe = RedisPipe(server.url, timeout=0.1)
        await tagged(pipe, "before")
        for turns in (1, 2, 3):
            asking = asyncio.create_task(tagged(pipe, "during"))
            for _ in range(turns):
                await asyncio.sleep(0)
            time.sleep(0.15)
            await asking
        await pipe.close()

    await stand_still()
    await asyncio.to_thread(uvloop.run, stand_still())


async def test_no_more_wait_than_may(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS, max_waiting=10)
    asking = asyncio.gather(*(pipe.command("ECHO", "x") for _ in range(15)), return_exceptions=True)
    await asyncio.sleep(0)
    assert pipe.waiting == 10
    outcomes = await asking
    refused = [outcome for outcome in outcomes if outcome != b"x"]
    assert [outcome.kind for outcome in refused if isinstance(outcome, DependencyError)] == [FailureKind.OVERLOADED] * 5
    await tagged(pipe, "after")
    outcomes = await asyncio.gather(*(pipe.command("ECHO", "x") for _ in range(15)), return_exceptions=True)
    assert outcomes.count(b"x") == 10
    await pipe.close()


async def test_a_pipe_that_is_closed_fails_all_that_wait_and_sends_nothing_more(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
    await tagged(pipe, "before")
    server.freeze()
    try:
        waiting = asyncio.create_task(failure(pipe.command("ECHO", "x")))
        await asyncio.sleep(0.01)
        await pipe.close()
        assert await waiting is FailureKind.LOST
        assert await failure(pipe.command("ECHO", "x")) is FailureKind.LOST
    finally:
        server.thaw()


async def test_a_pipe_that_is_closed_while_it_connects_ends(server: RedisServer) -> None:
    pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
    server.freeze()
    try:
        waiting = asyncio.create_task(failure(pipe.command("ECHO", "x")))
        await asyncio.sleep(0.01)
        await pipe.close()
        assert await waiting is FailureKind.LOST
    finally:
        server.thaw()


async def test_nobody_is_asked_where_nobody_listens() -> None:
    pipe = RedisPipe("redis://127.0.0.1:1/0")
    assert await failure(pipe.command("PING")) is FailureKind.REFUSED
    assert await failure(pipe.run(TAG, ("a",), ("b",))) is FailureKind.REFUSED
    await pipe.close()


async def test_a_server_that_speaks_something_else_is_told_as_such() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    stranger = await asyncio.start_server(greet, "127.0.0.1", 0)
    pipe = RedisPipe(f"redis://127.0.0.1:{stranger.sockets[0].getsockname()[1]}", timeout=PATIENT_SECONDS)
    assert await failure(pipe.command("PING")) is FailureKind.PROTOCOL
    await pipe.close()
    stranger.close()


async def test_a_user_name_and_a_database_are_those_of_the_url(pipe: RedisPipe, server: RedisServer) -> None:
    await pipe.command("ACL", "SETUSER", USER, "on", ">p@ss/word", "~*", "+@all")
    place = server.url.removeprefix("redis://").removesuffix("/0")
    known = RedisPipe(f"redis://{USER}:{PASSWORD}@{place}/3", timeout=PATIENT_SECONDS)
    assert await known.command("ACL", "WHOAMI") == USER.encode()
    await known.command("SET", "only-here", 1)
    assert await pipe.command("EXISTS", "only-here") == 0
    await known.close()
    wrong = RedisPipe(f"redis://{USER}:wrong@{place}/3", timeout=PATIENT_SECONDS)
    assert await failure(wrong.command("PING")) is FailureKind.AUTH
    await wrong.close()
    await pipe.command("ACL", "DELUSER", USER)


async def test_a_password_without_a_user_name_logs_in(pipe: RedisPipe, server: RedisServer) -> None:
    await pipe.command("CONFIG", "SET", "requirepass", "p@ss/word")
    place = server.url.removeprefix("redis://")
    known, unknown = (
        RedisPipe(f"redis://:{PASSWORD}@{place}", timeout=PATIENT_SECONDS),
        RedisPipe(server.url, timeout=PATIENT_SECONDS),
    )
    assert await known.command("PING") == b"PONG"
    assert await failure(unknown.command("PING")) is FailureKind.AUTH
    await pipe.command("CONFIG", "SET", "requirepass", "")
    await known.close()
    await unknown.close()


class Relay:
    """Carries bytes between those who come to another door and the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one who came."""
        behind = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target in ((reader, behind[1]), (behind[0], writer)):
            self._tasks.add(asyncio.create_task(self._carry(source, target)))

    async def ended(self) -> None:
        """Wait until all have left."""
        await asyncio.wait_for(asyncio.gather(*self._tasks), 5)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()


async def test_a_socket_of_this_machine_is_as_good(server: RedisServer) -> None:
    path, relay = server.base / "socket", Relay(server.port)
    listener = await asyncio.start_unix_server(relay.visit, path)
    pipe = RedisPipe(f"unix://{path}?db=2", timeout=PATIENT_SECONDS)
    await tagged(pipe, "tag")
    await pipe.close()
    await relay.ended()
    listener.close()
    path.unlink(missing_ok=True)


async def test_tls_is_checked_against_the_authority_of_the_url(server: RedisServer) -> None:
    authority, relay = trustme.CA(), Relay(server.port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    listener = await asyncio.start_server(relay.visit, "localhost", 0, ssl=context)
    port, trusted = listener.sockets[0].getsockname()[1], server.base / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    pipe = RedisPipe(f"rediss://localhost:{port}?ssl_ca_certs={trusted}", timeout=PATIENT_SECONDS)
    stranger = RedisPipe(f"rediss://localhost:{port}", timeout=PATIENT_SECONDS)
    await tagged(pipe, "tag")
    assert await failure(stranger.command("PING")) is FailureKind.TLS
    await pipe.close()
    await relay.ended()
    listener.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
async def test_either_loop_will_do(server: RedisServer, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def ask() -> None:
        pipe = RedisPipe(server.url, timeout=PATIENT_SECONDS)
        await asyncio.gather(*(tagged(pipe, f"tag-{number}") for number in range(100)))
        await pipe.close()

    await asyncio.to_thread(run, ask())


def test_a_url_of_something_else_is_refused() -> None:
    with pytest.raises(DsnError):
        RedisPipe("http://127.0.0.1:6379")
