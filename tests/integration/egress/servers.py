"""Servers on loopback that count who came, and answer as a test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """What came: ``connections`` is their number, ``heads`` the requests' heads that were read."""

    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def saying(*pieces: bytes, every: float = 0.0, forever: bool = False) -> Answer:
    """Answer with ``pieces``, ``every`` so many seconds; with ``forever`` repeat the last one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)
        while forever:
            writer.write(pieces[-1])
            await writer.drain()
            await asyncio.sleep(every)

    return answer


@asynccontextmanager
async def serving(
    answer: Answer = silence, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None,
    http: bool = True,
) -> AsyncIterator[Server]:  # fmt: skip
    """Serve; with ``http`` each answer waits for a request's head."""
    seen = Server()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        writers.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if http:
                seen.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await answer(reader, writer)
            writer.close()

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)
