"""The edge over real sockets: which requests are served, which are refused, and what stands behind them."""

from __future__ import annotations

import inspect
import json
import logging
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tests.integration.edge import CHUNKED, END, GOOD, LIMITS, POST, EdgeServer, get, line, wait_for


@pytest.fixture(scope="module")
def shared() -> Iterator[EdgeServer]:
    with EdgeServer(replace(LIMITS, head_seconds=10, body_idle_seconds=10)) as running:
        yield running


@pytest.fixture
def edge(shared: EdgeServer) -> EdgeServer:
    shared.clear()
    return shared


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
    "CONNECT with a path": (line(method=b"CONNECT"), 400),
    "CONNECT with an absolute target": (line(b"http://example.org/x", method=b"CONNECT"), 400),
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
    "absolute target without a host": (b"GET http:///x HTTP/1.0\r\n\r\n", 400),
    "absolute target with only a port": (b"GET http://:80/x HTTP/1.0\r\n\r\n", 400),
    "absolute target with half an address": (b"GET http://[::1/x HTTP/1.0\r\n\r\n", 400),
    "absolute target with a user and no host field": (b"GET http://a:b@h/x HTTP/1.0\r\n\r\n", 400),
    "two empty lines before": (b"\r\n\r\n" + line(), 400),
    "DEL in a value": (line(rest=b"x-a: \x7f\r\n"), 400),
    "CR CR LF": (line(rest=b"x-a: 1\r\r\n"), 400),
    "tab before the colon": (line(rest=b"x-a\t: 1\r\n"), 400),
    "fold with a tab": (line(rest=b"x-a: 1\r\n\t2\r\n"), 400),
    "LF ends the head": (b"GET /x HTTP/1.1\r\nhost: h\r\n\n\r\n\r\n", 400),
    "space behind the version": (line(version=b"HTTP/1.1 "), 400),
    "version with two digits": (line(version=b"HTTP/1.10"), 400),
    "tab in the request line": (b"GET\t/x HTTP/1.1\r\nhost: h\r\n\r\n", 400),
    "port that is none": (b"GET /x HTTP/1.1\r\nhost: h:port\r\n\r\n", 400),
    "two hosts in one": (b"GET /x HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
    "upgrade and then not": (line(rest=b"connection: upgrade\r\nupgrade: websocket\r\nconnection: close\r\n"), 501),
    "upgrade with a body": (POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 1\r\n\r\na", 501),
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
    "chunk size that is none": (CHUNKED + b"xyz\r\n", 400),
    "negative chunk size": (CHUNKED + b"-1\r\n", 400),
    "chunk size overflow": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "hexadecimal prefix": (CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    "chunk longer than it says": (CHUNKED + b"1\r\nabc\r\n0\r\n\r\n", 400),
    "long chunk extension": (CHUNKED + b"1;" + b"e" * 2000 + b"\r\na\r\n0\r\n\r\n", 400),
    "many chunk extensions": (
        CHUNKED + b"" + (b"1;" + b"e" * 60 + b"\r\na\r\n") * 60 + b"0\r\n\r\n",
        400,
    ),
    "chunk extensions after many chunks": (CHUNKED + b"1\r\na\r\n" * 200 + b"1;" + b"e" * 1100 + b"\r\n", 400),
    "chunk lines that end in LF": (CHUNKED + b"1\na\n0\n\n", 400),
    "chunk data that ends in LF": (CHUNKED + b"1\r\na\n0\r\n\r\n", 400),
    "chunk size that ends in LF": (CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    "last chunk that ends in LF": (CHUNKED + b"1\r\na\r\n0\r\n\n", 400),
    "bare CR in a chunk's line": (CHUNKED + b"1;a\rb\r\na\r\n0\r\n\r\n", 400),
    "space behind a chunk size": (CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    "signed chunk size": (CHUNKED + b"+1\r\na\r\n0\r\n\r\n", 400),
    "chunk size with underscore": (CHUNKED + b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n", 400),
    "empty chunk size": (CHUNKED + b"\r\na\r\n0\r\n\r\n", 400),
    "zero byte in a chunk extension": (CHUNKED + b"1;a\x00\r\na\r\n0\r\n\r\n", 400),
    "endless chunk size": (CHUNKED + b"0" * 5000, 400),
    "trailer that ends in LF": (CHUNKED + b"0\r\na: b\n\r\n", 400),
    "folded trailer": (CHUNKED + b"0\r\na: b\r\n c\r\n\r\n", 400),
    "trailer with a length": (CHUNKED + b"0\r\ncontent-length: 5\r\n\r\n", 400),
    "long trailers": (CHUNKED + b"0\r\n" + b"a: b\r\n" * 300 + b"\r\n", 400),
}  # fmt: skip


def refusal(answer: bytes) -> tuple[bytes, dict[str, object]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, json.loads(body)["error"]


def check_refusal(edge: EdgeServer, answer: bytes, status: int) -> None:
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    head, error = refusal(answer)
    assert b"connection: close" in head
    assert b"x-request-id: req_" in head
    assert b"content-type: application/json" in head
    assert [error["code"]] == edge.refusals
    assert error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error" if status < 500 else "server_error", None)
    assert "/good" not in edge.app.paths
    assert not edge.loop_errors


@pytest.mark.parametrize("name", sorted(BAD_HEADS))
def test_a_bad_request_is_refused_and_nothing_behind_it_served(edge: EdgeServer, name: str) -> None:
    data, status = BAD_HEADS[name]
    check_refusal(edge, edge.send(data + GOOD), status)


@pytest.mark.parametrize("name", sorted(BAD_HEADS))
def test_a_request_before_a_bad_one_is_still_answered(edge: EdgeServer, name: str) -> None:
    data, status = BAD_HEADS[name]
    first, _, last = edge.send(get(b"/nap") + data + GOOD).partition(END)
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert first.endswith(b"/nap\r\n")
    check_refusal(edge, last, status)
    assert edge.app.paths[0] == "/nap"


@pytest.mark.parametrize("name", ["two hosts", "length and chunked", "only LF", "CONNECT with a path", "large head"])
def test_a_bad_head_never_reaches_the_application(edge: EdgeServer, name: str) -> None:
    edge.send(BAD_HEADS[name][0])
    assert edge.app.paths == []


GOOD_HEADS: dict[str, bytes] = {
    "plain": GOOD,
    "empty line before": b"\r\n" + GOOD,
    "absolute target": line(b"http://example.org/good"),
    "absolute target in capitals": line(b"HTTP://EXAMPLE.org/good"),
    "absolute target in HTTP/1.0": b"GET http://example.org/good HTTP/1.0\r\n\r\n",
    "IPv6 host": b"GET /good HTTP/1.1\r\nhost: [::1]:4010\r\n\r\n",
    "no space after the colon": b"GET /good HTTP/1.1\r\nhost:example.org\r\n\r\n",
    "empty value": line(b"/good", rest=b"x-a:\r\n"),
    "hundred fields": line(b"/good", rest=b"".join(b"x-%d: y\r\n" % n for n in range(99))),
    "latin-1 value": line(b"/good", rest=b"x-a: caf\xe9\r\n"),
    "field that may be repeated": line(b"/good", rest=b"accept: a\r\naccept: b\r\n"),
    "upgrade without connection": line(b"/good", rest=b"upgrade: h2c\r\n"),
    "connection that names another upgrade": line(b"/good", rest=b"connection: x-upgrade\r\nupgrade: h2c\r\n"),
    "http 1.0 without host": b"GET /good HTTP/1.0\r\n\r\n",
    "query": line(b"/good?a=b&c=%20"),
    "large head": line(b"/good", rest=b"x-a: " + b"y" * 8000 + b"\r\nx-b: " + b"y" * 8000 + b"\r\n"),
}


@pytest.mark.parametrize("name", sorted(GOOD_HEADS))
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_good_request_is_served_however_it_is_cut(edge: EdgeServer, name: str, size: int) -> None:
    data = GOOD_HEADS[name]
    if len(data) // size > 2000:
        size = 50
    received = edge.send(*(data[at : at + size] for at in range(0, len(data), size)), answers=1)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert edge.app.paths == ["/good"]
    assert not edge.refusals


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://example.org", "/"),
        (b"http://example.org?a=b", "/"),
        (b"http://example.org/a?b", "/a"),
        (b"//x", "//x"),
    ],
)
def test_the_application_sees_only_the_path(edge: EdgeServer, target: bytes, path: str) -> None:
    edge.send(line(target), answers=1)
    assert edge.app.paths == [path]


def test_http_1_0_is_answered_and_the_connection_closed(edge: EdgeServer) -> None:
    received = edge.send(b"GET /good HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + GOOD)
    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert b"connection: close" in received


def test_a_connection_is_used_again(edge: EdgeServer) -> None:
    with edge.connect() as connection:
        for path in (b"/one", b"/two", b"/three"):
            connection.sendall(get(path))
            received = b""
            while not received.endswith(END):
                received += connection.recv(65536)
    assert edge.app.paths == ["/one", "/two", "/three"]


@pytest.mark.parametrize("middle", [GOOD, CHUNKED + b"1\r\na\r\n" + END, POST + b"content-length: 1\r\n\r\na"])
def test_pipelined_requests_are_answered_in_order(edge: EdgeServer, middle: bytes) -> None:
    data = get(b"/nap") + get(b"/two") + middle + get(b"/nap") + get(b"/five")
    answers = edge.send(data, answers=5).split(END)
    own = b"/good" if middle is GOOD else b"/p"
    assert [answer.splitlines()[-1] for answer in answers[:5]] == [b"/nap", b"/two", own, b"/nap", b"/five"]
    assert len(edge.app.paths) == 5


def test_hundreds_of_pipelined_requests_are_all_answered(edge: EdgeServer) -> None:
    assert edge.send(get(b"/nap") + GOOD * 5000, answers=5001).count(b"HTTP/1.1 200 OK") == 5001


def test_what_is_sent_behind_a_last_request_is_not_served(edge: EdgeServer) -> None:
    received = edge.send(line(b"/one", rest=b"connection: close\r\n") + GOOD)
    assert received.count(b"HTTP/1.1 200 OK") == 1
    assert edge.app.paths == ["/one"]


def test_bodies_arrive_whole_by_length_and_by_chunks(edge: EdgeServer) -> None:
    body = b"x" * 300_000
    edge.send(POST + b"content-length: 300000\r\n\r\n" + body, answers=1)
    pieces = [body[at : at + 999] for at in range(0, 300_000, 999)]
    chunked = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces[:100])
    chunked += b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces[100:])
    edge.send(CHUNKED + chunked + END, answers=1)
    assert edge.app.bodies == [body, body]


def test_trailers_change_nothing(edge: EdgeServer) -> None:
    edge.send(CHUNKED + b"1\r\na\r\n0\r\nauthorization: Bearer x\r\n\r\n", answers=1)
    assert edge.app.bodies == [b"a"]
    assert b"authorization" not in dict(edge.app.headers[0])


def test_a_client_that_waits_is_told_to_send_its_body(edge: EdgeServer) -> None:
    received = edge.send(POST + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n", b"ab", pause=0.1, answers=1)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_a_client_whose_body_is_refused_is_not_told_to_send_it(
    edge: EdgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        received = edge.send(POST + b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")
        wait_for(lambda: edge.app.ended == ["/p"])
    assert edge.app.lost == ["/p"]
    check_refusal(edge, received, 400)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("given", "kept"),
    [(b"abc-1.2_Z", True), (b"a" * 64, True), (b"a" * 65, False), (b"", False), (b"a b", False), (b"caf\xe9", False)],
)
def test_a_request_id_is_the_clients_only_if_it_is_harmless(edge: EdgeServer, given: bytes, kept: bool) -> None:
    edge.send(line(rest=b"x-request-id: " + given + b"\r\n"), answers=1)
    (used,) = edge.app.request_ids
    assert (used == given.decode("latin-1")) is kept
    assert kept or re.fullmatch(r"req_[A-Za-z0-9_-]{24}", used)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_refusal_is_told_over_tls_too(tmp_path: Path, loop: str) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    pem = tmp_path / "both.pem"
    with (
        EdgeServer(LIMITS, ssl_certfile=pem, ssl_keyfile=pem, loop=loop) as server,
        server.connect() as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(get(b"/nap") + b"GET /x HTTP/1.1\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert b"HTTP/1.1 400 Bad Request" in received
        # The client has not answered the end of TLS: to be told to stop does not disturb the server.
        server.server.should_exit = True
        time.sleep(0.3)
        assert server.thread.is_alive()
        connection.close()
        server.thread.join()
        assert not server.loop_errors


def test_the_private_parts_of_uvicorn_are_where_they_were() -> None:
    """When this fails, read ``protocol.py`` beside the new uvicorn before anything else."""
    assert uvicorn.__version__ == "0.54.0"
    parts = {
        HttpToolsProtocol: "connections cycle flow headers loop parser scope server_state transport url access_log "
        "timeout_keep_alive timeout_keep_alive_task",
        RequestResponseCycle: "disconnected keep_alive message_event more_body response_complete response_started "
        "waiting_for_100_continue",
        FlowControl: "read_paused pause_reading resume_reading pause_writing resume_writing",
    }
    for owner, names in parts.items():
        source = inspect.getsource(owner)
        missing = [name for name in names.split() if f"self.{name}" not in source and f"def {name}" not in source]
        assert not missing, f"{owner.__name__} of uvicorn has lost {missing}"
    methods = {"_unset_keepalive_if_required", "timeout_keep_alive_handler", "on_headers_complete", "shutdown"}
    assert methods <= set(vars(HttpToolsProtocol))
