"""A canary application behind the edge, and raw sockets to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from hx_gateway.http.protocol import EXTENSION, EdgeLimits, edge_protocol

GOOD = b"GET /good HTTP/1.1\r\nhost: example.org\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nhost: example.org\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
LIMITS = EdgeLimits(
    head_seconds=0.4, body_idle_seconds=0.4, write_stall_seconds=0.5, linger_seconds=0.5, max_connections=150
)
# What ends each of the canary's answers.
END = b"0\r\n\r\n"


def get(path: bytes) -> bytes:
    return GOOD.replace(b"/good", path)


def line(target: bytes = b"/x", *, method: bytes = b"GET", version: bytes = b"HTTP/1.1", rest: bytes = b"") -> bytes:
    return b"%b %b %b\r\nhost: example.org\r\n%b\r\n" % (method, target, version, rest)


class Canary:
    """An application that counts what reaches it and does what the path says."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.lost: list[str] = []
        self.ended: list[str] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []
        self.request_ids: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        path = scope["path"]
        self.headers.append(scope["headers"])
        edge = scope["extensions"][EXTENSION]
        self.request_ids.append(edge.request_id)
        self.paths.append(path)
        task = asyncio.current_task()
        assert task is not None

        def lost() -> None:
            self.lost.append(path)
            task.cancel()

        edge.on_disconnect(lost if path != "/deaf" else lambda: self.lost.append(path))
        try:
            await self._answer(path, receive, send, edge)
        except asyncio.CancelledError:
            task.uncancel()
        finally:
            edge.on_disconnect(None)
            self.ended.append(path)

    async def _answer(self, path: str, receive: Any, send: Any, edge: Any) -> None:
        if path == "/work":
            await asyncio.sleep(30)
        if path == "/slow-reader":
            await asyncio.sleep(0.8)
        body = b""
        more = path != "/no-body"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        if path == "/nap":
            await asyncio.sleep(0.02)
        if path == "/close":
            edge.close_after()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": path.encode(), "more_body": True})
        if path == "/abort":
            edge.abort()
            await send({"type": "http.response.body", "body": b"not sent", "more_body": True})
            return
        if path == "/stream":
            await asyncio.sleep(30)
        if path == "/large":
            await send({"type": "http.response.body", "body": b"x" * 20_000_000, "more_body": True})
        if path in ("/flood", "/deaf"):
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        if path == "/late-abort":
            edge.close_after()
            edge.abort()


class EdgeServer:
    """uvicorn with our protocol in a thread. What reaches the loop's exception handler is kept."""

    def __init__(self, limits: EdgeLimits, **config: Any) -> None:
        self.app = Canary()
        self.refusals: list[str] = []
        self.loop_errors: list[dict[str, Any]] = []
        protocol = edge_protocol(limits, self.refusals.append)
        options: dict[str, Any] = {"log_config": None, "port": 0, "timeout_graceful_shutdown": 1} | config
        self.server = uvicorn.Server(uvicorn.Config(self.app, http=protocol, **options))
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def serve() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: self.loop_errors.append(context))
            await self.server.serve(sockets=[self.listener])

        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            runner.run(serve())

    def __enter__(self) -> EdgeServer:
        self.thread.start()
        wait_for(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()

    def clear(self) -> None:
        """Forget what was, once nothing of it runs any more."""
        wait_for(lambda: not self.server.server_state.tasks)
        self.app.clear()
        self.refusals.clear()
        self.loop_errors.clear()

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        connection.sendall(data)
        return connection

    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def waits_to_write(self) -> bool:
        """Whether a client does not take what the application has for it."""
        connections: list[Any] = list(self.server.server_state.connections)
        return any(connection.flow.write_paused for connection in connections)

    def send(self, *parts: bytes, pause: float = 0.0, answers: int = 0) -> bytes:
        """Send ``parts`` and return what comes: until the server closes, or until so many answers are there."""
        with self.connect() as connection:
            received = b""
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
            except ConnectionError:
                pass  # refused before all was sent: what was said is still to be read
            while (not answers or received.count(END) < answers) and (data := connection.recv(65536)):
                received += data
            return received


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)
