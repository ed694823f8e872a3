"""A way to PostgreSQL that breaks exactly when a commit has been done and its answer is on the way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

COMMIT = b"Q\x00\x00\x00\x0cCOMMIT;\x00"


class CuttingProxy:
    """Forwards to the server of ``url``. Of ``cuts`` commits it passes on the request, and nobody gets the answer."""

    def __init__(self, url: str, *, every: int, cuts: int) -> None:
        self._url = url
        self._every = every
        self._left = cuts
        self._commits = 0
        self.done = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The URL to connect to."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        parts = urlsplit(self._url)
        return parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        parts = urlsplit(self._url)
        with suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
            cut = asyncio.Event()
            back = asyncio.create_task(_pass_on(server_reader, writer, cut))
            try:
                await self._forward(reader, server_writer, cut, back)
            finally:
                back.cancel()
                server_writer.close()
                writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, cut: asyncio.Event, back: asyncio.Task[None]
    ) -> None:
        while data := await reader.read(65536):
            if data.endswith(COMMIT):
                self._commits += 1
                if self._left and self._commits % self._every == 0:
                    self._left -= 1
                    self.done += 1
                    cut.set()
            server.write(data)
            await server.drain()
            if cut.is_set():
                # The server has answered: the commit is done. Nobody is told.
                await back
                return


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event) -> None:
    while (data := await reader.read(65536)) and not cut.is_set():
        writer.write(data)
        await writer.drain()
    writer.close()
