"""Plain connections over TCP and Unix sockets, under the caps."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from hx_gateway.services.egress.caps import Caps


class EgressStream:
    """Bytes to and from one server. Every method raises ``EgressFailed``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caps: Caps) -> None:
        self._reader = reader
        self._writer = writer
        self._caps = caps

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        async with self._caps.step(self._caps.read_seconds):
            self._writer.write(data)
            await self._writer.drain()

    async def read(self, most: int = 64 * 1024) -> bytes:
        """Return what comes next, at most ``most`` bytes; none at the end."""
        async with self._caps.step(self._caps.read_seconds):
            data = await self._reader.read(most)
        self._caps.took(data)
        return data


@asynccontextmanager
async def stream_over(peer: socket.socket, caps: Caps) -> AsyncIterator[EgressStream]:
    """Give a stream over a connected socket, which is closed at once in the end, read or not."""
    try:
        reader, writer = await asyncio.open_connection(sock=peer)
    except BaseException:
        peer.close()
        raise
    try:
        yield EgressStream(reader, writer, caps)
    finally:
        writer.transport.abort()
        with suppress(OSError):  # the server was first
            await writer.wait_closed()
