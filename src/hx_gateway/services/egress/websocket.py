"""A WebSocket (RFC 6455) to a checked target, under the caps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import aiohttp
from yarl import URL

from hx_gateway.services.egress.caps import Caps
from hx_gateway.services.egress.errors import EgressReason
from hx_gateway.services.egress.http import checked_headers
from hx_gateway.services.egress.target import CheckedTarget

CLOSE_SECONDS = 1.0


class EgressWebSocket:
    """Text messages to and from one server. Every method raises ``EgressFailed``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, caps: Caps) -> None:
        self._socket = socket
        self._caps = caps

    async def ping(self) -> None:
        """Return once the server answered a ping. Messages that come before are dropped."""
        token = uuid4().bytes
        async with self._caps.step(self._caps.read_seconds):
            await self._socket.ping(token)
            while (message := await self._next()).type is not aiohttp.WSMsgType.PONG or message.data != token:
                pass

    async def send(self, text: str) -> None:
        """Send one message."""
        async with self._caps.step(self._caps.read_seconds):
            await self._socket.send_str(text)

    async def receive(self) -> str:
        """Return the next message."""
        async with self._caps.step(self._caps.read_seconds):
            while (message := await self._next()).type is not aiohttp.WSMsgType.TEXT:
                pass
        text: str = message.data
        return text

    async def _next(self) -> aiohttp.WSMessage:
        """Return the next text or pong, having answered the pings before it."""
        while True:
            message = await self._socket.receive()
            match message.type:
                case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.PONG:
                    self._caps.took(message.data)
                    return message
                case aiohttp.WSMsgType.PING:
                    self._caps.took(message.data)
                    await self._socket.pong(message.data)
                case aiohttp.WSMsgType.ERROR if self._socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG:
                    raise self._caps.failed(EgressReason.TOO_LARGE)
                case _:
                    raise self._caps.failed(EgressReason.PROTOCOL)


@asynccontextmanager
async def upgrade(
    session: aiohttp.ClientSession, target: CheckedTarget, *, headers: Mapping[str, str], caps: Caps
) -> AsyncIterator[EgressWebSocket]:
    """Open a WebSocket without compression. Raises ``EgressDenied`` for a redirect, and ``EgressFailed``."""
    async with caps.step():
        socket = await session.ws_connect(
            URL(target.url, encoded=True),
            headers=checked_headers(headers, target.field_name),
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
            autoping=False,
            max_msg_size=caps.left_bytes,
        )
    try:
        yield EgressWebSocket(socket, caps)
    finally:
        # aiohttp bounds each message it waits for, and a server that talks on sends them without end.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await socket.close()
