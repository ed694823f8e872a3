"""The edge over real sockets: slow clients, clients that go, and what one connection may hold."""

from __future__ import annotations

import itertools
import logging
import socket
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hx_gateway.http.protocol import EdgeLimits
from tests.integration.edge import CHUNKED, END, GOOD, LIMITS, POST, EdgeServer, get, line, wait_for

# A hundred drips take five seconds; who is not given more time for them is let go after one.
DRIP_SECONDS = 4.0
RESET = b"\x01\0\0\0\0\0\0\0"


@pytest.fixture(scope="module")
def shared() -> Iterator[EdgeServer]:
    with EdgeServer(LIMITS, timeout_keep_alive=1) as running:
        yield running


@pytest.fixture
def edge(shared: EdgeServer) -> EdgeServer:
    shared.clear()
    return shared


def small_reader(edge: EdgeServer, data: bytes) -> socket.socket:
    """Connect as a client that takes almost nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", edge.port))
    connection.sendall(data)
    return connection


def test_a_head_that_does_not_end_is_a_408(edge: EdgeServer) -> None:
    received = edge.send(b"GET /x HTTP/1.1\r\n", b"host: ", b"exa", pause=0.1)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert edge.refusals == ["request_timeout"]
    assert edge.app.paths == []


def test_a_head_that_drips_is_given_no_more_time(edge: EdgeServer) -> None:
    drip = line(rest=b"x-a: " + b"y" * 200 + b"\r\n")
    began = time.monotonic()
    received = edge.send(*(drip[at : at + 1] for at in range(100)), pause=0.05)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < DRIP_SECONDS


@pytest.mark.parametrize("drips", [[b"\r\n"], [b"\r", b"\n"]])
def test_empty_lines_keep_no_connection_alive(edge: EdgeServer, drips: list[bytes]) -> None:
    began = time.monotonic()
    edge.send(*itertools.islice(itertools.cycle(drips), 100), pause=0.05)
    assert time.monotonic() - began < DRIP_SECONDS
    wait_for(lambda: edge.connections() == 0)
    assert edge.app.paths == []


def test_a_second_head_that_does_not_end_is_a_408_too(edge: EdgeServer) -> None:
    received = edge.send(GOOD + b"GET /x HTTP")
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408 " in received


def test_a_head_sent_ahead_has_its_time_once_it_is_its_turn(edge: EdgeServer) -> None:
    with edge.connect(get(b"/slow-reader") + b"GET /good HT") as connection:
        received = b""
        while not received.endswith(END):
            received += connection.recv(65536)
        connection.sendall(b"TP/1.1\r\nhost: h\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "data",
    [
        POST + b"content-length: 10\r\n\r\n",
        POST + b"content-length: 10\r\n\r\nabc",
        CHUNKED,
        CHUNKED + b"5\r\nab",
        CHUNKED + b"2\r\nab\r\n",
        CHUNKED + b"0\r\n",
    ],
)
def test_a_body_that_stops_is_a_408_and_the_work_is_cancelled(edge: EdgeServer, data: bytes) -> None:
    received = edge.send(data)
    assert received.startswith(b"HTTP/1.1 408 ")
    wait_for(lambda: edge.app.lost == ["/p"])
    assert edge.refusals == ["request_timeout"]


def test_a_body_that_keeps_coming_may_take_long(edge: EdgeServer) -> None:
    received = edge.send(POST + b"content-length: 8\r\n\r\n", *[b"x"] * 8, pause=0.1, answers=1)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert edge.app.bodies == [b"x" * 8]


def test_a_body_that_nobody_asked_for_yet_is_not_late(edge: EdgeServer) -> None:
    data = line(b"/slow-reader", method=b"POST", rest=b"expect: 100-continue\r\ncontent-length: 2\r\n")
    with edge.connect(data) as connection:
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ab")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_we_do_not_read_is_not_the_clients_fault(edge: EdgeServer) -> None:
    body = b"x" * 400_000
    received = edge.send(line(b"/slow-reader", method=b"POST", rest=b"content-length: 400000\r\n") + body, answers=1)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert edge.app.bodies == [body]


def test_a_silent_connection_is_closed_without_a_word(edge: EdgeServer) -> None:
    assert edge.send(b"") == b""
    assert edge.refusals == []


def test_an_idle_connection_is_closed_without_a_word(edge: EdgeServer) -> None:
    assert edge.send(GOOD).endswith(b"/good\r\n" + END)
    assert edge.refusals == []


def test_an_answer_that_came_before_the_body_is_read_although_the_body_comes(edge: EdgeServer) -> None:
    received = edge.send(line(b"/no-body", method=b"POST", rest=b"content-length: 9000000\r\n") + b"x" * 6_000_000)
    assert received.endswith(b"/no-body\r\n" + END)
    wait_for(lambda: edge.connections() == 0)


def test_a_connection_serves_on_when_the_body_came_late(edge: EdgeServer) -> None:
    with edge.connect(line(b"/no-body", method=b"POST", rest=b"content-length: 3\r\n")) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"abc" + GOOD)
        wait_for(lambda: edge.app.paths == ["/no-body", "/good"])


def test_a_body_that_is_bad_after_its_answer_adds_nothing_to_it(edge: EdgeServer) -> None:
    with edge.connect(CHUNKED.replace(b"/p", b"/no-body")) as connection:
        received = connection.recv(65536)
        while not received.endswith(END):
            received += connection.recv(65536)
        connection.sendall(b"xyz\r\n")
        assert connection.recv(65536) == b""
    assert edge.refusals == ["bad_request"]


def test_a_connection_whose_body_came_late_is_closed_when_idle(edge: EdgeServer) -> None:
    with edge.connect(line(b"/no-body", method=b"POST", rest=b"content-length: 3\r\n")) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"abc")
        wait_for(lambda: edge.connections() == 0)


def test_a_refusal_is_read_although_the_client_sends_on(edge: EdgeServer) -> None:
    with edge.connect(b"GET /x HTTP/1.1\r\nx-a: " + b"y" * 40_000) as connection:
        time.sleep(0.1)
        connection.sendall(b"y" * 3_000_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")


def test_a_client_that_sends_on_after_a_refusal_is_let_go(edge: EdgeServer) -> None:
    with edge.connect(b"GET /x\r\n\r\n") as connection:

        def send_on() -> None:
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                connection.sendall(b"y" * 1000)
                time.sleep(0.02)

        with pytest.raises(ConnectionError):
            send_on()
        wait_for(lambda: edge.connections() == 0)


PHASES = {
    "working": get(b"/work"),
    "body incomplete": line(b"/work", method=b"POST", rest=b"content-length: 5\r\n") + b"ab",
    "reading the body": POST + b"content-length: 500000\r\n\r\n" + b"x" * 100_000,
    "streaming": get(b"/stream"),
    "with a request behind": get(b"/work") + GOOD,
    "with many requests behind": get(b"/work") + GOOD * 1000,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_a_client_that_goes_is_noticed_in_every_phase(edge: EdgeServer, phase: str, how: str) -> None:
    with edge.connect(PHASES[phase]) as connection:
        wait_for(lambda: bool(edge.app.paths))
        time.sleep(0.05)
        if how == "half":
            connection.shutdown(socket.SHUT_WR)
        elif how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if how != "half":
            connection.close()
        wait_for(lambda: edge.app.lost == edge.app.paths[:1])
    assert "/good" not in edge.app.paths
    assert edge.refusals == []


def test_a_client_that_goes_after_its_answer_disturbs_nobody(edge: EdgeServer) -> None:
    edge.send(GOOD, answers=1)
    wait_for(lambda: edge.connections() == 0)
    assert edge.app.lost == []


@pytest.mark.parametrize("path", ["/flood", "/deaf"])
def test_a_client_that_closes_its_side_while_it_does_not_read_has_gone(path: str) -> None:
    with (
        EdgeServer(replace(LIMITS, write_stall_seconds=60)) as edge,
        small_reader(edge, get(path.encode())) as connection,
    ):
        wait_for(edge.waits_to_write)
        connection.shutdown(socket.SHUT_WR)
        wait_for(lambda: edge.app.ended == [path])
        assert edge.app.lost == [path]


def test_a_client_that_does_not_read_is_let_go(edge: EdgeServer) -> None:
    with small_reader(edge, get(b"/flood")):
        wait_for(lambda: edge.app.lost == ["/flood"])
        wait_for(lambda: edge.connections() == 0)


def test_a_send_that_waits_for_the_client_ends_when_it_goes(edge: EdgeServer) -> None:
    with small_reader(edge, get(b"/deaf")) as connection:
        wait_for(edge.waits_to_write)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    wait_for(lambda: edge.app.ended == ["/deaf"])
    assert edge.app.lost == ["/deaf"]


@pytest.mark.parametrize("close", [b"", b"connection: close\r\n"])
def test_the_end_of_an_answer_that_is_not_read_holds_no_connection(edge: EdgeServer, close: bytes) -> None:
    with small_reader(edge, line(b"/large", rest=close)):
        wait_for(lambda: edge.app.paths == ["/large"])
        wait_for(lambda: edge.connections() == 0)


def test_an_aborted_answer_has_no_end_and_no_error_in_the_log(
    edge: EdgeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        received = edge.send(get(b"/abort") + GOOD)
    assert received.endswith(b"6\r\n/abort\r\n")
    wait_for(lambda: edge.app.ended == ["/abort"])
    assert edge.app.paths == ["/abort"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_application_can_ask_for_the_connection_to_be_closed(edge: EdgeServer) -> None:
    received = edge.send(get(b"/close") + GOOD)
    assert b"connection: close" in received
    assert received.endswith(b"/close\r\n" + END)
    assert edge.app.paths == ["/close"]


def test_the_application_cannot_close_a_connection_whose_answer_is_complete(edge: EdgeServer) -> None:
    received = edge.send(get(b"/late-abort") + GOOD, answers=2)
    assert received.count(b"HTTP/1.1 200 OK") == received.count(END) == 2


def test_a_hundred_slow_heads_hold_nobody_up_and_little_memory(edge: EdgeServer) -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        slow = [edge.connect(b"GET /x HTTP/1.1\r\nx-a: " + b"y" * 10_000) for _ in range(100)]
        assert edge.send(GOOD, answers=1).startswith(b"HTTP/1.1 200 OK")
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for connection in slow:
        connection.close()
    assert held / len(slow) < 2 * LIMITS.max_head_bytes


def test_what_is_sent_ahead_is_held_up_to_a_limit() -> None:
    with EdgeServer(replace(LIMITS, head_seconds=10)) as edge, edge.connect(get(b"/work")) as connection:
        wait_for(lambda: edge.app.paths == ["/work"])
        connection.settimeout(0.3)
        ahead = GOOD * 500_000
        tracemalloc.start()
        try:
            with pytest.raises(TimeoutError):
                connection.sendall(ahead)
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        # One read of the loop's, a quarter of a megabyte, may go over it.
        assert LIMITS.max_pipelined_bytes < held < 600_000
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_too_many_connections_are_told_so() -> None:
    with EdgeServer(EdgeLimits(max_connections=2)) as edge:
        held = [edge.connect(), edge.connect()]
        wait_for(lambda: edge.connections() == 2)
        received = edge.send(b"")
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in received
        assert edge.refusals == ["too_many_connections"]
        held.pop().close()
        wait_for(lambda: edge.connections() == 1)
        assert edge.send(GOOD, answers=1).startswith(b"HTTP/1.1 200 OK")
        held.pop().close()


def test_a_server_that_stops_answers_what_it_has_begun_and_no_more() -> None:
    with EdgeServer(LIMITS) as edge, edge.connect() as idle, edge.connect(get(b"/slow-reader") + GOOD) as busy:
        wait_for(lambda: edge.app.paths == ["/slow-reader"])
        edge.server.should_exit = True
        assert idle.recv(65536) == b""
        received = b""
        while data := busy.recv(65536):
            received += data
        assert received.endswith(b"/slow-reader\r\n" + END)
        assert edge.app.paths == ["/slow-reader"]
        assert not edge.loop_errors
