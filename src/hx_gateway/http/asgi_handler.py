"""Calls an ASGI application (FastAPI) from inside the pipeline, as the handler of its routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any

from hx_gateway.pipeline.context import Context, Reply, StreamedBody

Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
STATE_KEY = "hx"


class AsgiHandler:
    """Hands a request to ``app`` and makes a reply of what it sends.

    The application finds the context as ``request.state.hx``. Its work is cancelled with the request.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, ctx: Context) -> Reply:
        """Return the application's reply: bytes when it came at once, an iterator when it streams."""
        conversation = _Conversation(ctx)
        # The server leaves out the body of what answers HEAD; FastAPI knows no such method where there is a GET.
        method = "GET" if ctx.method == "HEAD" else ctx.method
        scope = {**ctx.scope, "method": method, "state": {STATE_KEY: ctx}, "extensions": {}}
        task = asyncio.ensure_future(self._run(scope, conversation))
        try:
            return await conversation.reply(task)
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise

    async def _run(self, scope: MutableMapping[str, Any], conversation: _Conversation) -> None:
        try:
            await self._app(scope, conversation.receive, conversation.send)
        except asyncio.CancelledError:
            # Nobody reads any more, and the queue may be full.
            raise
        except BaseException:
            await conversation.sent.put(None)
            raise
        await conversation.sent.put(None)


class _Conversation:
    """Both directions between the pipeline and an application."""

    def __init__(self, ctx: Context) -> None:
        self.sent: asyncio.Queue[Message | None] = asyncio.Queue(maxsize=4)
        self._chunks = ctx.body.stream()
        self._body_ended = False

    async def receive(self) -> Message:
        """Give the application its next message."""
        if self._body_ended:
            await asyncio.Event().wait()
        chunk = await anext(self._chunks, None)
        self._body_ended = chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        await self.sent.put(message)

    async def reply(self, task: asyncio.Future[None]) -> Reply:
        """Return the reply once its first body part is there. Raises what the application raised."""
        start = await self.sent.get()
        first = await self.sent.get() if start is not None else None
        if start is None or first is None:
            await task
            raise RuntimeError("the application ended without an answer")
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        if not first.get("more_body", False):
            await task
            return Reply(start["status"], headers, first.get("body", b""))
        return Reply(start["status"], headers, StreamedBody(self._rest(task, first), task.cancel))

    async def _rest(self, task: asyncio.Future[None], message: Message | None) -> AsyncGenerator[bytes]:
        try:
            while message is not None:
                if body := message.get("body", b""):
                    yield body
                message = await self.sent.get() if message.get("more_body", False) else None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
