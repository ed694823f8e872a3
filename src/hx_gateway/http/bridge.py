"""ASGI on one side, the pipeline on the other: every request of the program passes here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import structlog

from hx_gateway.errors import BodyTooLarge, HXError, InvalidRequest, RequestTimeout, Unavailable
from hx_gateway.events import Ending, EventSink, RequestFinished
from hx_gateway.http.client_address import ClientAddresses
from hx_gateway.http.drain import Drain, Flight
from hx_gateway.http.errors import INTERNAL, error_reply
from hx_gateway.kit.ids import REQUEST_ID, new_request_id
from hx_gateway.kit.turns import next_turn
from hx_gateway.pipeline.context import BrokenReply, Context, Reply
from hx_gateway.pipeline.routes import ANYONE, ErrorShape, RouteSpec, under
from hx_gateway.pipeline.stage import GatewayPipeline
from hx_gateway.services.upstream.base import Deployment
from hx_gateway.telemetry import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

EDGE = "hx.edge"
DISCARD_SECONDS = 2.0
MAX_ALTERNATIVES = 16
# Longer ones are of no version that exists (W3C Trace Context, 55 characters in version 00).
MAX_TRACEPARENT_BYTES = 128
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


async def _no_handler(_ctx: Context) -> Reply:
    raise INTERNAL


def _unmatched(name: str, shape: ErrorShape) -> RouteSpec:
    return RouteSpec(name=name, methods=frozenset({"*"}), path="/", policy=ANYONE, handler=_no_handler, errors=shape)


# The route of a request until its own is found, which tells how to word an error.
UNMATCHED_V1 = _unmatched("unmatched_v1", ErrorShape.OPENAI)
UNMATCHED = _unmatched("unmatched", ErrorShape.PROBLEM)
# Clients of MCP's registry are told there what is wrong as they know it, whatever it is and wherever it is found.
REGISTRY_PREFIXES = ("/v0.1", "/v0")


def _shape(ctx: Context) -> ErrorShape:
    return ErrorShape.REGISTRY if under(ctx.path, REGISTRY_PREFIXES) else ctx.route.errors


class AsgiBody:
    """The body of a request that arrives as ASGI messages."""

    __slots__ = ("_declared", "_on_complete", "_receive", "_whole")

    def __init__(
        self,
        receive: Receive,
        declared: int | None,
        *,
        whole: Callable[[], bytes | None] | None = None,
        on_complete: Callable[[], None] | None = None,
    ) -> None:
        self._receive = receive
        self._declared = declared
        self._whole = whole
        self._on_complete = on_complete

    async def read(self, limit: int) -> bytes:
        """Return the whole body, refusing one that says or shows that it is too large before holding it."""
        if self._declared is not None and self._declared > limit:
            raise _too_large(limit)
        if self._whole is not None and (whole := self._whole()) is not None:
            if len(whole) > limit:
                raise _too_large(limit)
            return whole
        parts: list[bytes] = []
        size = 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise RequestTimeout("The request ended before its body did.")
            more = message.get("more_body", False)
            if not more and self._on_complete is not None:
                self._on_complete()
            if chunk := message.get("body", b""):
                yield chunk


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is over the limit of {limit} bytes.")


class PipelineBridge:
    """Makes a context of each request, runs the pipeline, sends the reply, and records how it ended."""

    def __init__(
        self,
        pipeline: GatewayPipeline,
        *,
        drain: Drain,
        sink: EventSink,
        addresses: ClientAddresses,
        metrics: Metrics,
    ) -> None:
        self._pipeline = pipeline
        self._drain = drain
        self._sink = sink
        self._addresses = addresses
        self._in_flight = metrics.in_flight
        self._log = structlog.get_logger()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        edge = scope.get("extensions", {}).get(EDGE)
        task = asyncio.current_task()
        assert task is not None
        ctx = self._context(scope, edge)
        flight = Flight(ctx, task)
        exchange = _Exchange(ctx, flight, send, edge)
        length = _declared_length(ctx)
        if edge is not None:
            edge.on_disconnect(flight.client_gone)
            ctx.body = AsgiBody(receive, length, whole=edge.whole_body)
        else:
            ctx.body = AsgiBody(receive, length, on_complete=exchange.watch(receive))
        self._drain.enter(flight)
        self._in_flight.inc()
        ending = Ending.ERROR
        try:
            ending = await self._answer(ctx, exchange)
        except asyncio.CancelledError:
            ending = await self._cancelled(flight, exchange)
            if ending is Ending.SHUTDOWN and not ctx.stopping:
                raise
        finally:
            exchange.release()
            try:
                await next_turn()
            finally:
                self._drain.leave(flight)
                self._in_flight.dec()
                for failure in await ctx.finish(ending):
                    self._log.error("finisher_failed", request_id=ctx.request_id, exc_info=failure)
                self._sink.emit(_record(exchange, ending))

    async def _answer(self, ctx: Context, exchange: _Exchange) -> Ending:
        try:
            reply = await self._reply(ctx)
            await exchange.send_reply(reply)
        except BrokenReply as broken:
            ctx.error = broken.error
            exchange.break_off()
            return Ending.ERROR
        except Exception:  # noqa: BLE001 - the outermost edge of a streamed reply: the client must see it break off
            self._log.exception("reply_failed", request_id=ctx.request_id, route=ctx.route.name)
            ctx.error = INTERNAL
            exchange.break_off()
            return Ending.ERROR
        return Ending.COMPLETE if ctx.error is None else Ending.ERROR

    async def _reply(self, ctx: Context) -> Reply:
        try:
            if ctx.method not in METHODS:
                raise InvalidRequest(f"{ctx.method!r} is not a method known here.", code="unknown_method")
            self._pipeline.routes.match(ctx)
            if self._drain.draining and not ctx.route.while_draining:
                raise Unavailable("The gateway is about to stop.", code="draining", retry_after_seconds=1)
            return await self._pipeline.run(ctx)
        except BodyTooLarge as error:
            ctx.error = error
            await self._discard_body(ctx)
        except HXError as error:
            ctx.error = error
        except Exception:  # noqa: BLE001 - the outermost edge of a request: logged here, told without detail
            self._log.exception("request_failed", request_id=ctx.request_id, route=ctx.route.name)
            ctx.error = INTERNAL
        return error_reply(ctx.error, _shape(ctx))

    @staticmethod
    async def _discard_body(ctx: Context) -> None:
        """Read the rest of a body for a moment: who is still sending would be reset before it saw the answer."""
        if ctx.header(b"expect") is not None:
            return
        with suppress(TimeoutError, HXError):
            async with asyncio.timeout(DISCARD_SECONDS):
                async for _ in ctx.body.stream():
                    pass

    async def _cancelled(self, flight: Flight, exchange: _Exchange) -> Ending:
        if flight.gone:
            flight.task.uncancel()
            return Ending.CLIENT_GONE
        if flight.ctx.stopping:
            flight.task.uncancel()
            flight.ctx.error = Unavailable("The gateway is about to stop.", code="gateway_draining")
            if exchange.started:
                exchange.break_off()
            else:
                await exchange.send_reply(error_reply(flight.ctx.error, _shape(flight.ctx)))
        return Ending.SHUTDOWN

    def _context(self, scope: Scope, edge: Any) -> Context:
        headers = scope["headers"]
        peer = scope["client"][0] if scope.get("client") else ""
        client, local = self._addresses.find(peer, headers)
        path = scope["path"]
        ctx = Context(
            request_id=edge.request_id if edge is not None else _request_id(headers),
            method=scope["method"],
            path=path,
            raw_path=scope.get("raw_path") or path.encode(),
            query=scope["query_string"],
            headers=headers,
            client=client,
            local=local,
            scope=scope,
            body=_NO_BODY,
        )
        ctx.route = UNMATCHED_V1 if path == "/v1" or path.startswith("/v1/") else UNMATCHED
        return ctx


class _Exchange:
    """One response on its way out."""

    __slots__ = ("_edge", "_flight", "_send", "_watcher", "bytes_sent", "ctx", "started", "status")

    def __init__(self, ctx: Context, flight: Flight, send: Send, edge: Any) -> None:
        self.ctx = ctx
        self.status = 0
        self.started = False
        self.bytes_sent = 0
        self._flight = flight
        self._send = send
        self._edge = edge
        self._watcher: asyncio.Task[None] | None = None

    async def send_reply(self, reply: Reply) -> None:
        """Send all of ``reply``. Raises what its iterator raises; the iterator is closed in any case."""
        headers = [
            *reply.headers,
            *self.ctx.response_headers,
            (b"x-request-id", self.ctx.request_id.encode("ascii")),
        ]
        body = reply.body
        if isinstance(body, bytes):
            if self._edge is not None:
                self._begun(reply.status)
                await self._edge.respond(reply.status, headers, body)
                self.bytes_sent = len(body)
                return
            if reply.status not in (204, 304):
                headers.append((b"content-length", b"%d" % len(body)))
            await self._start(reply.status, headers)
            await self._send({"type": "http.response.body", "body": body})
            self.bytes_sent = len(body)
            return
        try:
            await self._start(reply.status, headers)
            async for chunk in body:
                if self.ctx.timings.first_byte is None:
                    self.ctx.timings.first_byte = time.monotonic() - self.ctx.timings.started
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                self.bytes_sent += len(chunk)
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            close = getattr(body, "aclose", None)
            if close is not None:
                await close()

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._begun(status)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def _begun(self, status: int) -> None:
        self.status = self.ctx.status = status
        self.started = True

    def break_off(self) -> None:
        """Close the connection without the end of the message, so that nobody takes it for whole."""
        if self._edge is not None:
            self._edge.abort()

    def watch(self, receive: Receive) -> Callable[[], None]:
        """Return what starts watching for the client's going, for servers that do not call us."""

        async def wait_for_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self._flight.client_gone()

        def start() -> None:
            self._watcher = asyncio.create_task(wait_for_disconnect())

        return start

    def release(self) -> None:
        """Stop watching the client."""
        if self._edge is not None:
            self._edge.on_disconnect(None)
        if self._watcher is not None:
            self._watcher.cancel()


class _NoBody:
    async def read(self, limit: int) -> bytes:
        return b""

    async def stream(self) -> AsyncIterator[bytes]:
        return
        yield b""


_NO_BODY = _NoBody()


def _declared_length(ctx: Context) -> int | None:
    declared = ctx.header(b"content-length")
    return int(declared) if declared is not None and declared.isdigit() else None


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return new_request_id()


def _record(exchange: _Exchange, ending: Ending) -> RequestFinished:
    ctx = exchange.ctx
    call, deployment, principal, timings = ctx.call, ctx.deployment, ctx.principal, ctx.timings
    asked = ctx.decoded
    return RequestFinished(
        request_id=ctx.request_id,
        route=ctx.route.name,
        method=ctx.method if ctx.method in METHODS else "other",
        status=exchange.status if ending is not Ending.CLIENT_GONE else 499,
        ending=ending,
        duration=time.monotonic() - timings.started,
        client=ctx.client,
        ended_ns=time.time_ns(),
        tenant_id=principal.tenant_id if principal is not None else None,
        key_id=principal.key_id if principal is not None else None,
        error_code=ctx.error.code if ctx.error is not None else None,
        model_call=ctx.route.decoder is not None,
        operation=call.operation.value if call is not None else None,
        requested_model=asked.model if asked is not None else None,
        model=call.model if call is not None else None,
        upstream=deployment.name if deployment is not None else None,
        provider=deployment.kind.value if deployment is not None else None,
        upstream_address=_address(deployment.base_url) if deployment is not None else None,
        alternatives=_others(ctx.candidates, deployment),
        translation=ctx.translation,
        routing_seconds=timings.routing,
        upstream_seconds=timings.upstream,
        first_byte_seconds=timings.first_byte,
        attempts=ctx.attempts,
        stream=call.stream if call is not None else False,
        bytes_sent=exchange.bytes_sent,
        usage=ctx.usage,
        traceparent=_traceparent(ctx) if call is not None else None,
        team_id=principal.team_id if principal is not None else None,
        user_id=principal.user_id if principal is not None else None,
        call_id=ctx.call_id,
        admitted=ctx.admission is not None,
        cost_nano=ctx.cost_nano,
        error_message=ctx.error.message if ctx.error is not None else None,
        refusal=ctx.error.explanation if ctx.error is not None else None,
        cache=ctx.cache.outcome if ctx.cache is not None else None,
    )


def _others(candidates: tuple[Deployment, ...], chosen: Deployment | None) -> tuple[str, ...]:
    if len(candidates) < 2:
        return ()
    return tuple(candidate.name for candidate in candidates[: MAX_ALTERNATIVES + 1] if candidate is not chosen)


def _traceparent(ctx: Context) -> str | None:
    value = ctx.header(b"traceparent")
    return str(value, "latin-1") if value is not None and len(value) <= MAX_TRACEPARENT_BYTES else None


@lru_cache(maxsize=1024)
def _address(base_url: str) -> str | None:
    """Return ``host:port`` of a deployment: its URL may hold a credential, and its path is nobody's business."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if host is None or parts.scheme not in ("http", "https"):
        return None
    return f"{f'[{host}]' if ':' in host else host}:{port or (443 if parts.scheme == 'https' else 80)}"
