"""The edge over real sockets: limits, strict heads, and word of a client's going."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hx_gateway.http.protocol import EXTENSION, EdgeLimits, edge_protocol

GOOD = b"GET /good HTTP/1.1\r\nhost: example.org\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nhost: example.org\r\n"
LIMITS = EdgeLimits(head_seconds=0.4, body_idle_seconds=0.4, write_stall_seconds=0.5, max_connections=150)


class Canary:
    """An application that counts what reaches it and does what the path says."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.lost: list[str] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        path = scope["path"]
        self.paths.append(path)
        self.headers.append(scope["headers"])
        edge = scope["extensions"][EXTENSION]
        task = asyncio.current_task()
        assert task is not None

        def lost() -> None:
            self.lost.append(path)
            task.cancel()

        edge.on_disconnect(lost)
        try:
            await self._answer(path, receive, send, edge)
        except asyncio.CancelledError:
            task.uncancel()
        finally:
            edge.on_disconnect(None)

    async def _answer(self, path: str, receive: Any, send: Any, edge: Any) -> None:
        if path == "/work":
            await asyncio.sleep(30)
        if path == "/slow-reader":
            await asyncio.sleep(0.8)
        body = b""
        more = True
        while more and path != "/no-body":
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        if path == "/nap":
            await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": path.encode(), "more_body": True})
        if path == "/abort":
            edge.abort()
            return
        if path == "/stream":
            await asyncio.sleep(30)
        if path == "/flood":
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class EdgeServer:
    """uvicorn with our protocol in a thread."""

    def __init__(self, limits: EdgeLimits) -> None:
        self.app = Canary()
        self.refusals: list[str] = []
        protocol = edge_protocol(limits, self.refusals.append)
        config = uvicorn.Config(self.app, http=protocol, log_config=None, port=0, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    def __enter__(self) -> EdgeServer:
        self.thread.start()
        wait_for(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()

    def send(self, *parts: bytes, pause: float = 0.0, seconds: float = 5.0, hold: bool = False) -> bytes:
        """Send ``parts`` and return everything that comes until the server closes, or goes quiet if ``hold``."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            received = b""
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                if hold:
                    connection.settimeout(0.3)
                while data := connection.recv(65536):
                    received += data
            except (TimeoutError, ConnectionError):
                if not hold and not received:
                    raise
            return received


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def shared() -> Iterator[EdgeServer]:
    with EdgeServer(LIMITS) as running:
        yield running


@pytest.fixture
def edge(shared: EdgeServer) -> EdgeServer:
    shared.app.paths.clear()
    shared.app.bodies.clear()
    shared.app.lost.clear()
    shared.app.headers.clear()
    shared.refusals.clear()
    return shared


def line(target: bytes = b"/x", *, method: bytes = b"GET", version: bytes = b"HTTP/1.1", rest: bytes = b"") -> bytes:
    return b"%b %b %b\r\nhost: example.org\r\n%b\r\n" % (method, target, version, rest)


BAD_HEADS: dict[str, tuple[bytes, int]] = {
    "two hosts": (line(rest=b"Host: example.org\r\n"), 400),
    "no host": (b"GET /x HTTP/1.1\r\naccept: */*\r\n\r\n", 400),
    "empty host": (b"GET /x HTTP/1.1\r\nhost: \r\n\r\n", 400),
    "host with a path": (b"GET /x HTTP/1.1\r\nhost: a/b\r\n\r\n", 400),
    "host with a user": (b"GET /x HTTP/1.1\r\nhost: u@h\r\n\r\n", 400),
    "host with a query": (b"GET /x HTTP/1.1\r\nhost: x?y\r\n\r\n", 400),
    "length and chunked": (POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n", 400),
    "two lengths that differ": (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
    "two lengths alike": (POST + b"content-length: 1\r\ncontent-length: 1\r\n\r\na", 400),
    "list of lengths": (POST + b"content-length: 1, 1\r\n\r\na", 400),
    "length with plus": (POST + b"content-length: +1\r\n\r\na", 400),
    "negative length": (POST + b"content-length: -1\r\n\r\n", 400),
    "hexadecimal length": (POST + b"content-length: 0x1\r\n\r\na", 400),
    "length with letters": (POST + b"content-length: 1a\r\n\r\na", 400),
    "empty length": (POST + b"content-length: \r\n\r\n", 400),
    "endless length": (POST + b"content-length: 99999999999999999999999\r\n\r\n", 400),
    "length with spaces": (POST + b"content-length: 1 1\r\n\r\n", 400),
    "chunked twice": (POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in two fields": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "identity encoding": (POST + b"transfer-encoding: identity\r\n\r\n", 400),
    "gzip and chunked": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked with a parameter": (POST + b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
    "unknown encoding": (POST + b"transfer-encoding: xchunked\r\n\r\n", 400),
    "tab before chunked": (POST + b"transfer-encoding: \x0bchunked\r\n\r\n", 400),
    "chunked in HTTP/1.0": (b"POST /x HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "folded field": (line(rest=b"x-a: 1\r\n 2\r\n"), 400),
    "folded first field": (b"GET /x HTTP/1.1\r\n host: h\r\n\r\n", 400),
    "space before the colon": (line(rest=b"x-a : 1\r\n"), 400),
    "no colon": (line(rest=b"x-a\r\n"), 400),
    "empty name": (line(rest=b": 1\r\n"), 400),
    "name with a space": (line(rest=b"x a: 1\r\n"), 400),
    "name with parentheses": (line(rest=b"x(a): 1\r\n"), 400),
    "name with a byte above ASCII": (line(rest=b"x\xe9: 1\r\n"), 400),
    "zero byte in a value": (line(rest=b"x-a: 1\x002\r\n"), 400),
    "control in a value": (line(rest=b"x-a: 1\x012\r\n"), 400),
    "zero byte in a name": (line(rest=b"x\x00a: 1\r\n"), 400),
    "bare CR in a value": (line(rest=b"x-a: 1\rx-b: 2\r\n"), 400),
    "bare LF ends a field": (line(rest=b"x-a: 1\nx-b: 2\r\n"), 400),
    "only LF": (b"GET /x HTTP/1.1\nhost: h\n\n", 400),
    "LF after the request line": (b"GET /x HTTP/1.1\nhost: h\r\n\r\n", 400),
    "CONNECT": (b"CONNECT h:443 HTTP/1.1\r\nhost: h:443\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "version 2.0": (line(version=b"HTTP/2.0"), 400),
    "version 1.2": (line(version=b"HTTP/1.2"), 400),
    "version 0.9": (b"GET /x\r\n\r\n", 400),
    "lower-case version": (line(version=b"http/1.1"), 400),
    "lower-case method": (line(method=b"get"), 400),
    "unknown method": (line(method=b"FROB"), 400),
    "asterisk target": (line(b"*", method=b"OPTIONS"), 400),
    "target with a fragment": (line(b"/x#y"), 400),
    "target with a space": (line(b"/x y"), 400),
    "target with a control": (line(b"/x\x7fy"), 400),
    "target above ASCII": (line(b"/\xc3\xa9"), 400),
    "relative target": (line(b"x"), 400),
    "two spaces": (b"GET  /x HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    "absolute target of another host": (line(b"http://other.example.org/x"), 400),
    "absolute target with a user": (line(b"http://u@example.org/x"), 400),
    "other scheme": (line(b"ftp://example.org/x"), 400),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "long target": (line(b"/" + b"a" * 9000), 414),
    "long field": (line(rest=b"x-a: " + b"y" * 9000 + b"\r\n"), 431),
    "large head": (line(rest=b"".join(b"x-%d: %b\r\n" % (n, b"y" * 300) for n in range(60))), 431),
    "large head without end": (b"GET /x HTTP/1.1\r\n" + b"x-a: " + b"y" * 40_000, 431),
    "many fields": (line(rest=b"".join(b"x-%d: y\r\n" % n for n in range(101))), 431),
    "upgrade to WebSocket": (line(rest=b"connection: upgrade\r\nupgrade: websocket\r\n"), 501),
    "upgrade to h2c": (line(rest=b"connection: keep-alive, Upgrade\r\nupgrade: h2c\r\n"), 501),
    "unknown expectation": (line(rest=b"expect: 200-ok\r\n"), 417),
    "chunk size that is none": (POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", 400),
    "negative chunk size": (POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n", 400),
    "chunk size overflow": (POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
    "hexadecimal prefix": (POST + b"transfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),
    "chunk longer than it says": (POST + b"transfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", 400),
    "long chunk extension": (POST + b"transfer-encoding: chunked\r\n\r\n1;" + b"e" * 2000 + b"\r\na\r\n0\r\n\r\n", 400),
    "many chunk extensions": (
        POST + b"transfer-encoding: chunked\r\n\r\n" + (b"1;" + b"e" * 60 + b"\r\na\r\n") * 60 + b"0\r\n\r\n",
        400,
    ),
    "request behind a chunked one": (POST + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + GOOD, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BAD_HEADS))
def test_a_bad_request_is_refused_and_the_connection_closed(edge: EdgeServer, name: str) -> None:
    data, status = BAD_HEADS[name]
    received = edge.send(data, GOOD)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"x-request-id: " in head
    assert b"content-type: application/json" in head
    error = json.loads(body)["error"]
    assert error["code"] == edge.refusals[0]
    assert error["message"]
    assert "/good" not in edge.app.paths


@pytest.mark.parametrize("name", ["two hosts", "length and chunked", "bare LF ends a field", "many fields", "only LF"])
def test_a_request_before_a_bad_one_is_still_answered(edge: EdgeServer, name: str) -> None:
    data, status = BAD_HEADS[name]
    received = edge.send(GOOD.replace(b"/good", b"/nap") + data + GOOD)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 %d " % status in received
    assert edge.app.paths == ["/nap"]


GOOD_HEADS: dict[str, bytes] = {
    "plain": GOOD,
    "empty line before": b"\r\n" + GOOD,
    "absolute target": line(b"http://example.org/good"),
    "IPv6 host": b"GET /good HTTP/1.1\r\nhost: [::1]:4010\r\n\r\n",
    "no space after the colon": b"GET /good HTTP/1.1\r\nhost:example.org\r\n\r\n",
    "empty value": line(b"/good", rest=b"x-a:\r\n"),
    "hundred fields": line(b"/good", rest=b"".join(b"x-%d: y\r\n" % n for n in range(99))),
    "latin-1 value": line(b"/good", rest=b"x-a: caf\xe9\r\n"),
    "upgrade without connection": line(b"/good", rest=b"upgrade: h2c\r\n"),
    "http 1.0 without host": b"GET /good HTTP/1.0\r\n\r\n",
    "query": line(b"/good?a=b&c=%20"),
}


@pytest.mark.parametrize("name", sorted(GOOD_HEADS))
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_good_request_is_served_however_it_is_cut(edge: EdgeServer, name: str, size: int) -> None:
    data = GOOD_HEADS[name]
    received = edge.send(*(data[at : at + size] for at in range(0, len(data), size)), hold=True)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert edge.app.paths == ["/good"]


def test_pipelined_requests_are_answered_in_order(edge: EdgeServer) -> None:
    paths = [b"/nap", b"/two", b"/nap", b"/four", b"/five"]
    received = edge.send(b"".join(GOOD.replace(b"/good", path) for path in paths), hold=True)
    assert [part for part in (b"/nap", b"/two", b"/four", b"/five") if part in received]
    assert edge.app.paths == [path.decode() for path in paths]


def test_bodies_arrive_whole_by_length_and_by_chunks(edge: EdgeServer) -> None:
    body = b"x" * 300_000
    edge.send(POST + b"content-length: 300000\r\n\r\n" + body, hold=True)
    chunked = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 999]), body[at : at + 999]) for at in range(0, 300_000, 999)
    )
    edge.send(POST + b"transfer-encoding: chunked\r\n\r\n" + chunked + b"0\r\n\r\n", hold=True)
    assert edge.app.bodies == [body, body]


def test_trailers_change_nothing(edge: EdgeServer) -> None:
    edge.send(POST + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n", hold=True)
    assert edge.app.bodies == [b"a"]
    assert b"authorization" not in dict(edge.app.headers[0])


def test_a_client_that_waits_is_told_to_send_its_body(edge: EdgeServer) -> None:
    received = edge.send(POST + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n", b"ab", pause=0.1, hold=True)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_a_head_that_does_not_end_is_a_408(edge: EdgeServer) -> None:
    received = edge.send(b"GET /x HTTP/1.1\r\n", b"host: ", b"exa", pause=0.1)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert edge.app.paths == []


def test_a_body_that_stops_is_a_408_and_the_work_is_cancelled(edge: EdgeServer) -> None:
    received = edge.send(POST + b"content-length: 10\r\n\r\nabc")
    assert received.startswith(b"HTTP/1.1 408 ")
    wait_for(lambda: edge.app.lost == ["/p"])


def test_a_silent_connection_is_closed(edge: EdgeServer) -> None:
    assert edge.send(b"") == b""


def test_a_body_that_we_do_not_read_is_not_the_clients_fault(edge: EdgeServer) -> None:
    body = b"x" * 400_000
    received = edge.send(POST.replace(b"/p", b"/slow-reader") + b"content-length: 400000\r\n\r\n" + body, hold=False)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert edge.app.bodies == [body]


@pytest.mark.parametrize(
    "data",
    [GOOD.replace(b"/good", b"/work"), POST.replace(b"/p", b"/work") + b"content-length: 5\r\n\r\nab"]
    + [GOOD.replace(b"/good", b"/stream"), GOOD.replace(b"/good", b"/work") + GOOD],
)
@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_a_client_that_goes_is_noticed_in_every_phase(edge: EdgeServer, data: bytes, how: str) -> None:
    connection = socket.create_connection(("127.0.0.1", edge.port))
    connection.sendall(data)
    wait_for(lambda: bool(edge.app.paths))
    time.sleep(0.05)
    if how == "half":
        connection.shutdown(socket.SHUT_WR)
    elif how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    if how != "half":
        connection.close()
    wait_for(lambda: edge.app.lost == edge.app.paths[:1])
    connection.close()
    assert "/good" not in edge.app.paths


def test_an_aborted_answer_has_no_end_and_no_error_in_the_log(
    edge: EdgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        received = edge.send(GOOD.replace(b"/good", b"/abort"))
    assert received.endswith(b"6\r\n/abort\r\n")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_client_that_does_not_read_is_let_go(edge: EdgeServer) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", edge.port))
        connection.sendall(GOOD.replace(b"/good", b"/flood"))
        wait_for(lambda: edge.app.lost == ["/flood"])


def test_a_hundred_slow_heads_hold_nobody_up(edge: EdgeServer) -> None:
    slow = [socket.create_connection(("127.0.0.1", edge.port)) for _ in range(100)]
    for connection in slow:
        connection.sendall(b"GET /x HTTP/1.1\r\nx-a: " + b"y" * 1000)
    assert edge.send(GOOD, hold=True).startswith(b"HTTP/1.1 200 OK")
    for connection in slow:
        connection.close()


def test_too_many_connections_are_told_so() -> None:
    with EdgeServer(EdgeLimits(max_connections=2)) as small:
        held = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(2)]
        time.sleep(0.1)
        received = small.send(b"")
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in received
        for connection in held:
            connection.close()


def test_the_private_parts_of_uvicorn_are_where_they_were() -> None:
    """When this fails, read ``protocol.py`` beside the new uvicorn before anything else."""
    source = inspect.getsource(HttpToolsProtocol)
    for name in ("self.cycle", "self.pipeline", "self.flow", "self.tasks", "self.scope", "self.headers", "self.url"):
        assert name in source
    for name in ("_start_asgi_task", "on_response_complete", "_unset_keepalive_if_required", "on_headers_complete"):
        assert hasattr(HttpToolsProtocol, name)
