"""The endpoint that OpenTelemetry's exporters send traces to: OTLP/HTTP, both encodings.

Rules: https://opentelemetry.io/docs/specs/otlp/#otlphttp. What Security refuses is answered in the gateway's own
shape; every other failure is a ``google.rpc.Status`` in the encoding of the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hx_gateway.errors import BodyTooLarge, HXError
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.observability.ingest import SLICE_EVENTS, write_table
from hx_gateway.observability.layer import Accepted, DatabaseIntegrationLayer
from hx_gateway.observability.otlp.encoding import (
    MAX_BODY_BYTES,
    OtlpEncoding,
    encoding_of,
    export_response,
    inflate,
    rpc_code,
    status_response,
)
from hx_gateway.observability.otlp.events import trace_event
from hx_gateway.observability.otlp.model import MAX_MESSAGE_REASONS, Decoded
from hx_gateway.observability.otlp.spans import decode
from hx_gateway.pipeline.context import Context, Reply

TABLE = "trace_events"
# Some 50 us a span in Python: from here on others get their turn meanwhile.
LARGE_BODY_BYTES = 32 * 1024
DISCARD_SECONDS = 2.0


class TraceReceiver:
    """Takes spans as trace events. ``keep_content`` keeps what was said to and by models."""

    def __init__(self, layer: DatabaseIntegrationLayer, *, keep_content: bool = False) -> None:
        self._layer = layer
        self._keep_content = keep_content

    async def __call__(self, ctx: Context) -> Reply:
        """Answer an ``ExportTraceServiceRequest``.

        Spans that are wrong are counted in ``partial_success``. When the journal refuses any, all are to be sent
        again: their ids stay the same, so those that were kept are not there twice.
        """
        encoding = OtlpEncoding.JSON
        try:
            encoding = encoding_of(_text(ctx.header(b"content-type")))
            rejected, message = await self._take(ctx, encoding)
        except HXError as error:
            ctx.error = error
            if isinstance(error, BodyTooLarge):
                await _discard(ctx)
            return _failure(encoding, error)
        return Reply(200, [_content_type(encoding)], export_response(encoding, rejected, message))

    async def _take(self, ctx: Context, encoding: OtlpEncoding) -> tuple[int, str]:
        assert ctx.principal is not None
        tenant = str(ctx.principal.tenant_id)
        content_encoding = _text(ctx.header(b"content-encoding"))
        body = await ctx.body.read(MAX_BODY_BYTES)
        if len(body) > LARGE_BODY_BYTES:
            decoded, events = await asyncio.to_thread(self._read, body, encoding, content_encoding, tenant)
        else:
            decoded, events = self._read(body, encoding, content_encoding, tenant)
        errors: list[HXError] = []
        for begin in range(0, len(events), SLICE_EVENTS):
            written = await write_table(self._layer, TABLE, events[begin : begin + SLICE_EVENTS])
            errors += _errors_of(written)
            await asyncio.sleep(0)
        parts = [part for part in (decoded.message, _reasons(errors)) if part]
        return len(decoded.rejected) + len(errors), " ".join(parts)

    def _read(
        self, body: bytes, encoding: OtlpEncoding, content_encoding: str | None, tenant: str
    ) -> tuple[Decoded, list[dict[str, Any]]]:
        decoded = decode(inflate(body, content_encoding), encoding)
        events = [trace_event(span, tenant_id=tenant, keep_content=self._keep_content) for span in decoded.spans]
        return decoded, events


def _errors_of(written: Sequence[Accepted]) -> list[HXError]:
    """Return what was wrong with events. Raises where the journal refused one."""
    errors = [accepted.error for accepted in written if accepted.error is not None]
    for error in errors:
        if isinstance(error, JournalRefused):
            raise error
    return errors


def _reasons(errors: Sequence[HXError]) -> str:
    """Return what is wrong with how many, with the first as an example of those that name the same field."""
    examples: dict[str | None, list[HXError]] = {}
    for error in errors:
        examples.setdefault(error.param, []).append(error)
    shown = list(examples.values())[:MAX_MESSAGE_REASONS]
    return " ".join(f"{len(group)} x {group[0].message}" for group in shown)


def _failure(encoding: OtlpEncoding, error: HXError) -> Reply:
    headers = [_content_type(encoding)]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    return Reply(error.status, headers, status_response(encoding, rpc_code(error.status), error.message))


async def _discard(ctx: Context) -> None:
    """Read the rest of a body for a moment: who is still sending would be reset before it saw the answer."""
    if ctx.header(b"expect") is not None:
        return
    with suppress(TimeoutError, HXError):
        async with asyncio.timeout(DISCARD_SECONDS):
            async for _ in ctx.body.stream():
                pass


def _content_type(encoding: OtlpEncoding) -> tuple[bytes, bytes]:
    return (b"content-type", encoding.value.encode("ascii"))


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None
