"""The handler that takes events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hx_gateway.errors import UnsupportedMedia
from hx_gateway.http.query_parameters import choice_parameter, read_parameters
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.observability.answers import json_reply
from hx_gateway.observability.ingest import LARGE_BODY_BYTES, split_json, split_lines, write_events
from hx_gateway.observability.layer import Accepted, DatabaseIntegrationLayer
from hx_gateway.observability.otlp.encoding import inflate
from hx_gateway.observability.parameters import TENANT, tenant_of
from hx_gateway.pipeline.context import Context, Reply

MAX_BODY_BYTES = 32 * 1024 * 1024
# Up to so many events each is answered for; beyond, only those that were not kept.
ANSWERED_EVENTS = 100
RESULTS = ("all", "errors")
JSON_LINES_TYPES = frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})
JSON_TYPES = frozenset({b"", b"application/json", b"text/json"})


class RecordWrites:
    """Handlers over one layer. Events are acknowledged from the journal, whatever the database does."""

    def __init__(self, layer: DatabaseIntegrationLayer) -> None:
        self._layer = layer

    async def events(self, ctx: Context) -> Reply:
        """Keep events and answer for each: 200 when all were kept, 207 when some were not.

        Raises ``JournalRefused`` when none was kept for want of room, ``InvalidRequest`` for a body that is no JSON,
        and for a single event, sent as an object by itself, that breaks a rule.
        """
        parameters = read_parameters(ctx, ("results", TENANT))
        chosen = choice_parameter(parameters, "results", RESULTS)
        tenant = tenant_of(ctx, parameters)
        lines = _is_lines(ctx)
        body = await _read_body(ctx)
        batch = split_lines(body) if lines else await split_json(body)
        results = await write_events(self._layer, batch.items, tenant)
        rejected = [(index, accepted) for index, accepted in enumerate(results) if accepted.error is not None]
        if rejected and len(rejected) == len(results):
            _refuse(rejected, single=batch.single)
        if chosen == "all" or (chosen is None and len(results) <= ANSWERED_EVENTS):
            shown = [_result(index, accepted) for index, accepted in enumerate(results)]
        else:
            shown = [_result(index, accepted) for index, accepted in rejected]
        answer = {"accepted": len(results) - len(rejected), "rejected": len(rejected), "results": shown}
        return json_reply(answer, 207 if rejected else 200)


async def _read_body(ctx: Context) -> bytes:
    body = await ctx.body.read(MAX_BODY_BYTES)
    encoding = ctx.header(b"content-encoding")
    if encoding is None:
        return body
    name = encoding.decode("latin-1")
    if len(body) > LARGE_BODY_BYTES // 8:
        return await asyncio.to_thread(inflate, body, name, MAX_BODY_BYTES)
    return inflate(body, name, MAX_BODY_BYTES)


def _is_lines(ctx: Context) -> bool:
    """Return whether the body says that it is JSON lines. Raises ``UnsupportedMedia`` for what is no JSON."""
    media = (ctx.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media in JSON_LINES_TYPES:
        return True
    if media in JSON_TYPES or (media.startswith(b"application/") and media.endswith(b"+json")):
        return False
    raise UnsupportedMedia(
        "The body must be JSON: send 'content-type: application/json', or application/x-ndjson for one event a line.",
        param="content-type",
    )


def _refuse(rejected: Sequence[tuple[int, Accepted]], *, single: bool) -> None:
    """Raise the error of the one event there was, or of want of room, where that kept events from being kept."""
    for _, accepted in rejected:
        if accepted.error is not None and (single or isinstance(accepted.error, JournalRefused)):
            raise accepted.error


def _result(index: int, accepted: Accepted) -> dict[str, object]:
    error = accepted.error
    if error is None:
        return {"index": index, "status": "accepted", "event_id": accepted.event_id}
    return {
        "index": index,
        "status": "rejected",
        "code": error.code,
        "field": error.param,
        "message": error.message,
    }
