"""The handlers of what is read of spend: calls, errors, sums, and why a call was let through or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from hx_gateway.errors import HXError, InvalidRequest, NotFound
from hx_gateway.http.query_parameters import choice_parameter
from hx_gateway.pipeline.context import BrokenReply, Context, Reply
from hx_gateway.spend.answers import (
    CSV,
    JSON_LINES,
    csv_header,
    csv_lines,
    encode,
    item,
    json_reply,
    shown_name,
    summary_csv,
    usd,
)
from hx_gateway.spend.decisions import explain
from hx_gateway.spend.filters import RowFilters, row_filters, row_parameters, summary_filters, summary_parameters
from hx_gateway.spend.parameters import read_parameters
from hx_gateway.spend.repository import SpendRepository
from hx_gateway.spend.rights import TENANT, sight_of
from hx_gateway.spend.sources import SUMS, Source

FORMATS = ("json", "csv", "jsonl")
TRUNCATED = b"x-hx-truncated"
MAX_ID_CHARS = 128


class SpendReads:
    """Handlers over one repository. ``now`` is the wall clock."""

    def __init__(self, repository: SpendRepository, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._repository = repository
        self._now = now

    def rows(self, source: Source) -> Callable[[Context], Any]:
        """Return the handler of a list: a page as JSON, or the whole window as CSV or JSON lines."""

        async def handler(ctx: Context) -> Reply:
            parameters = read_parameters(ctx, row_parameters(source))
            shape = choice_parameter(parameters, "format", FORMATS) or "json"
            filters = row_filters(ctx, source, parameters, self._now())
            if shape == "json":
                return await self._page(source, filters)
            for name in ("limit", "cursor"):
                if name in parameters:
                    raise InvalidRequest(f"{name} is for format=json: {shape} has the whole window.", param=name)
            return await self._stream(ctx, source, filters, shape)

        return handler

    async def _page(self, source: Source, filters: RowFilters) -> Reply:
        page = await self._repository.page(source, filters)
        items = [item(row, source.columns) for row in page.rows]
        window = {"start": filters.start, "end": filters.end}
        return json_reply({"items": items, "next_cursor": page.next_cursor, "window": window})

    async def _stream(self, ctx: Context, source: Source, filters: RowFilters, shape: str) -> Reply:
        batches = self._repository.all_rows(source, filters)
        # The first is asked for before anything is said, so that a failure is an answer of its own.
        first = [] if ctx.method == "HEAD" else await anext(batches, [])
        attachment = f'attachment; filename="{source.name}.{shape}"'.encode()
        headers = [CSV if shape == "csv" else JSON_LINES, (b"content-disposition", attachment)]
        encoder = _csv_encoder(source) if shape == "csv" else _json_encoder(source)
        return Reply(
            200, headers, _chunks(first, batches, encoder, csv_header(source.columns) if shape == "csv" else b"")
        )

    async def summary(self, ctx: Context) -> Reply:
        """Answer with sums of the days, never of single calls."""
        parameters = read_parameters(ctx, summary_parameters())
        shape = choice_parameter(parameters, "format", FORMATS[:2]) or "json"
        filters = summary_filters(ctx, parameters, self._now().astimezone(UTC).date())
        rows = await self._repository.summary(filters)
        truncated = bool(rows) and rows[0]["groups"] > len(rows)
        if shape == "csv":
            attachment = (b"content-disposition", b'attachment; filename="spend_summary.csv"')
            headers = [CSV, attachment, (TRUNCATED, b"true" if truncated else b"false")]
            return Reply(200, headers, summary_csv(filters.groups, rows))
        totals = {shown_name(name): rows[0][f"total_{name}"] if rows else 0 for name in SUMS}
        return json_reply(
            {
                "items": [_group(row, filters.groups) for row in rows],
                "totals": {**totals, "cost_usd": usd(totals["cost_usd"])},
                "truncated": truncated,
                "window": {"start": filters.first, "end": filters.last},
            }
        )

    async def decision(self, ctx: Context) -> Reply:
        """Answer with why a request was refused, or where it went and what it cost."""
        assert ctx.principal is not None
        request_id = ctx.path_params["request_id"]
        sight = sight_of(ctx.principal, read_parameters(ctx, (TENANT,)).get(TENANT))
        if len(request_id) > MAX_ID_CHARS or not request_id.isprintable():
            raise _unknown(request_id)
        traced = await self._repository.traced(sight, request_id)
        if not traced.calls and not traced.errors:
            raise _unknown(request_id)
        return json_reply(explain(request_id, traced.calls, traced.errors, traced.routing))


def _unknown(request_id: str) -> NotFound:
    return NotFound(
        f"Nothing is known of the request {request_id[:MAX_ID_CHARS]!r}: a call is there a second after its end.",
        param="request_id",
        code="decision_not_found",
    )


def _group(row: Any, groups: tuple[str, ...]) -> dict[str, Any]:
    # The sums keep '' for what a call did not have.
    return {**{name: row[name] or None for name in groups}, **item(row, SUMS)}


def _csv_encoder(source: Source) -> Callable[[list[Any]], bytes]:
    return lambda rows: csv_lines(source, rows)


def _json_encoder(source: Source) -> Callable[[list[Any]], bytes]:
    return lambda rows: b"".join([encode(item(row, source.columns)) + b"\n" for row in rows])


async def _chunks(
    first: list[Any], batches: AsyncIterator[list[Any]], encoder: Callable[[list[Any]], bytes], header: bytes
) -> AsyncIterator[bytes]:
    async with aclosing(batches):  # type: ignore[type-var]
        # A thousand rows take some 20 ms to write: other requests go on meanwhile.
        yield header + await asyncio.to_thread(encoder, first)
        try:
            async for rows in batches:
                yield await asyncio.to_thread(encoder, rows)
        except HXError as error:
            raise BrokenReply(error) from error
