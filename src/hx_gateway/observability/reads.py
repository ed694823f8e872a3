"""The handlers of everything that is read from the record: pages, traces, exports, health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hx_gateway.errors import HXError, InvalidRequest, NotFound
from hx_gateway.http.query_parameters import read_parameters, time_parameter
from hx_gateway.kit.epochs import from_unix_us, unix_us
from hx_gateway.observability.answers import JSON_LINES, encode, json_reply
from hx_gateway.observability.filters import (
    DEFAULT_LIMIT,
    MetricFilters,
    RecordFilters,
    RoutingFilters,
    TraceFilters,
    TransformationFilters,
)
from hx_gateway.observability.ingest import no_record
from hx_gateway.observability.layer import DatabaseIntegrationLayer
from hx_gateway.observability.parameters import TENANT, count_parameter, share_parameter, tenant_of
from hx_gateway.observability.repository import RecordRepository
from hx_gateway.observability.trace_tree import build_tree
from hx_gateway.pipeline.context import BrokenReply, Context, Reply

DEFAULT_WINDOW = timedelta(hours=24)
CHUNK_BYTES = 64 * 1024
# Between the start of a window that we chose and the repository's own cursor.
_JOINT = "."

FILTERS: Mapping[str, type[RecordFilters]] = {
    "trace_events": TraceFilters,
    "routing_decisions": RoutingFilters,
    "performance_metrics": MetricFilters,
    "transformation_events": TransformationFilters,
}
FILTER_NAMES: Mapping[str, tuple[str, ...]] = {
    "trace_events": ("trace_id", "agent_name", "event_type", "min_level"),
    "routing_decisions": ("trace_id", "selected_agent", "routing_strategy", "min_confidence"),
    "performance_metrics": ("metric_name", "component", "metric_type"),
    "transformation_events": ("trace_id", "transformation_type", "source_agent", "target_agent"),
}
WINDOW_NAMES = ("start_time", "end_time")


@dataclass(frozen=True, slots=True)
class _Window:
    """What is looked at. ``chosen`` says that the start is ours."""

    start: datetime
    end: datetime | None
    chosen: bool

    def shown(self) -> dict[str, datetime | None]:
        return {"start": self.start, "end": self.end}


class RecordReads:
    """Handlers over one layer. ``now`` is the wall clock."""

    def __init__(
        self, layer: DatabaseIntegrationLayer, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._layer = layer
        self._now = now

    def page(self, table: str) -> Callable[[Context], Any]:
        """Return the handler of a table's pages."""

        async def handler(ctx: Context) -> Reply:
            return await self._page(ctx, table)

        return handler

    async def _page(self, ctx: Context, table: str) -> Reply:
        parameters = read_parameters(ctx, (*FILTER_NAMES[table], *WINDOW_NAMES, "limit", "cursor", TENANT))
        start, cursor = _split_cursor(parameters.get("cursor"))
        window = self._window(parameters, start)
        filters = _filters(ctx, table, parameters, window, cursor)
        page = await getattr(self._repository(), table)(filters)
        following = page.next_cursor
        if following is not None and window.chosen:
            following = f"{unix_us(window.start):x}{_JOINT}{following}"
        return json_reply({"items": page.items, "next_cursor": following, "window": window.shown()})

    async def export(self, ctx: Context) -> Reply:
        """Stream a table's records as JSON lines, newest first. One that cannot go on breaks the connection off."""
        table = ctx.path_params["table"]
        if table not in FILTERS:
            raise NotFound(f"There is no table {table[:64]!r}: export one of {', '.join(FILTERS)}.", param="table")
        parameters = read_parameters(ctx, (*FILTER_NAMES[table], *WINDOW_NAMES, TENANT))
        window = self._window(parameters, None)
        items = self._repository().export(_filters(ctx, table, parameters, window, None))
        # The first is asked for before anything is said, so that a failure is an answer of its own.
        first = None if ctx.method == "HEAD" else await anext(items, None)
        headers = [JSON_LINES, (b"x-hx-window-start", window.start.isoformat().encode("ascii"))]
        if first is None:
            return Reply(200, headers)
        return Reply(200, headers, _lines(first, items))

    async def trace(self, ctx: Context) -> Reply:
        """Answer with a trace as a tree of spans."""
        trace_id = ctx.path_params["trace_id"]
        parameters = read_parameters(ctx, ("around", "start", "end", TENANT))
        around, start, end = (time_parameter(parameters, name) for name in ("around", "start", "end"))
        tenant = tenant_of(ctx, parameters)
        trace = await self._repository().trace(tenant, trace_id, around=around, start=start, end=end)
        if not trace.events:
            raise NotFound(f"There is no event of the trace {trace_id[:128]!r} in this window.", param="trace_id")
        return json_reply({"trace_id": trace_id, **build_tree(trace.events, truncated=trace.truncated)})

    async def health(self, ctx: Context) -> Reply:
        """Answer with the record's health: 503 only where events are not taken."""
        read_parameters(ctx, ())
        metrics = await self._layer.get_health_metrics()
        return json_reply(metrics.to_dict(), 200 if metrics.accepting else 503)

    def _repository(self) -> RecordRepository:
        if self._layer.repository is None:
            raise no_record()
        return self._layer.repository

    def _window(self, parameters: Mapping[str, str], start: datetime | None) -> _Window:
        given, end = time_parameter(parameters, "start_time"), time_parameter(parameters, "end_time")
        if given is not None:
            return _Window(given, end, chosen=False)
        if start is not None:
            return _Window(start, end, chosen=True)
        if end is not None and end.utcoffset() is None:
            raise InvalidRequest(
                f"end_time needs a time zone, as in 2026-11-24T12:00:00Z, not {end}.", param="end_time"
            )
        try:
            return _Window((end or self._now()).astimezone(UTC) - DEFAULT_WINDOW, end, chosen=True)
        except OverflowError:
            raise InvalidRequest(f"end_time is at the end of time: {end}.", param="end_time") from None


def _filters(
    ctx: Context, table: str, parameters: Mapping[str, str], window: _Window, cursor: str | None
) -> RecordFilters:
    chosen: dict[str, Any] = {name: parameters[name] for name in FILTER_NAMES[table] if name in parameters}
    if "min_confidence" in chosen:
        chosen["min_confidence"] = share_parameter(parameters, "min_confidence")
    return FILTERS[table](
        tenant_id=tenant_of(ctx, parameters),
        start_time=window.start,
        end_time=window.end,
        limit=count_parameter(parameters, "limit", DEFAULT_LIMIT),
        cursor=cursor,
        **chosen,
    )


def _split_cursor(cursor: str | None) -> tuple[datetime | None, str | None]:
    """Return the start of the window that the first page chose, and the repository's cursor.

    Without it the window would move on between pages, and its oldest records would be in none of them.
    """
    start, joint, rest = (cursor or "").rpartition(_JOINT)
    if not joint:
        return None, cursor
    try:
        return from_unix_us(int(start, 16)), rest
    except (ValueError, OverflowError):
        raise InvalidRequest(
            "cursor is not one that a page came with: pass next_cursor as it is, or none for the first page.",
            param="cursor",
        ) from None


async def _lines(first: dict[str, Any], items: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    gathered = bytearray(encode(first) + b"\n")
    async with aclosing(items):  # type: ignore[type-var]
        try:
            async for item in items:
                gathered += encode(item)
                gathered += b"\n"
                if len(gathered) >= CHUNK_BYTES:
                    yield bytes(gathered)
                    gathered.clear()
        except HXError as error:
            raise BrokenReply(error) from error
    yield bytes(gathered)
