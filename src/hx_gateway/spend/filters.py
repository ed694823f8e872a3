"""What can be asked of spend, checked before anything goes to the database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from hx_gateway.errors import InvalidRequest
from hx_gateway.http.query_parameters import choice_parameter
from hx_gateway.pipeline.context import Context
from hx_gateway.spend.cursors import Position, decode_cursor
from hx_gateway.spend.parameters import date_parameter, limit_parameter, time_parameter
from hx_gateway.spend.rights import TENANT, Sight, sight_of
from hx_gateway.spend.sources import GROUPS, SETTLED_BY, SUMMARY_FILTERS, Source

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
DEFAULT_GROUPS = 1_000
MAX_GROUPS = 10_000
MAX_GROUPINGS = 2
DEFAULT_WINDOW = timedelta(hours=24)
DEFAULT_DAYS = timedelta(days=29)
_STATUS = re.compile(r"([1-5])([0-9]{2}|xx)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilters:
    """A list of calls, newest first. ``start`` is inside the window, ``end`` outside; both are UTC.

    ``chosen`` are values by the name of their filter. ``status`` are the lowest and the highest, itself included.
    """

    sight: Sight
    start: datetime
    end: datetime | None
    chosen: Mapping[str, str]
    status: tuple[int, int] | None = None
    limit: int = DEFAULT_LIMIT
    after: Position | None = None

    def behind(self, position: Position) -> RowFilters:
        """Return the filters of what comes after ``position``."""
        return replace(self, after=position)


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryFilters:
    """Sums by day, or by what ``groups`` name: columns. ``first`` and ``last`` are days in UTC, both inside."""

    sight: Sight
    first: date
    last: date
    groups: tuple[str, ...]
    chosen: Mapping[str, str]
    limit: int = DEFAULT_GROUPS


def row_parameters(source: Source) -> tuple[str, ...]:
    """Return the names of the parameters that a list of ``source`` knows."""
    return (*source.filters, "status", "start", "end", "limit", "cursor", "format", TENANT)


def row_filters(ctx: Context, source: Source, parameters: Mapping[str, str], now: datetime) -> RowFilters:
    """Return what ``parameters`` ask for. Raises ``InvalidRequest`` naming the one that breaks a rule."""
    assert ctx.principal is not None
    sight = sight_of(ctx.principal, parameters.get(TENANT))
    chosen = {name: parameters[name] for name in source.filters if name in parameters}
    choice_parameter(chosen, "settled_by", SETTLED_BY)
    status = _status(parameters.get("status"))
    after, first_start = decode_cursor(parameters.get("cursor"), _mark(source, sight, chosen, status))
    end = time_parameter(parameters, "end")
    start = time_parameter(parameters, "start") or first_start or _before(end or now)
    if end is not None and start > end:
        raise InvalidRequest(f"start ({start.isoformat()}) is after end ({end.isoformat()}).", param="start")
    limit = limit_parameter(parameters, DEFAULT_LIMIT, MAX_LIMIT)
    return RowFilters(sight=sight, start=start, end=end, chosen=chosen, status=status, limit=limit, after=after)


def mark_of(source: Source, filters: RowFilters) -> object:
    """Return what tells a query from others; its window and limit may change between pages."""
    return _mark(source, filters.sight, filters.chosen, filters.status)


def summary_parameters() -> tuple[str, ...]:
    """Return the names of the parameters that the summary knows."""
    return (*SUMMARY_FILTERS, "group_by", "start", "end", "limit", "format", TENANT)


def summary_filters(ctx: Context, parameters: Mapping[str, str], today: date) -> SummaryFilters:
    """Return what ``parameters`` ask for. Raises ``InvalidRequest`` naming the one that breaks a rule."""
    assert ctx.principal is not None
    last = date_parameter(parameters, "end") or today
    try:
        first = date_parameter(parameters, "start") or last - DEFAULT_DAYS
    except OverflowError:
        raise InvalidRequest(f"end is at the beginning of time: {last}.", param="end") from None
    if first > last:
        raise InvalidRequest(f"start ({first}) is after end ({last}).", param="start")
    return SummaryFilters(
        sight=sight_of(ctx.principal, parameters.get(TENANT)),
        first=first,
        last=last,
        groups=_groups(parameters.get("group_by", "key")),
        chosen={name: parameters[name] for name in SUMMARY_FILTERS if name in parameters},
        limit=limit_parameter(parameters, DEFAULT_GROUPS, MAX_GROUPS),
    )


def _mark(source: Source, sight: Sight, chosen: Mapping[str, str], status: tuple[int, int] | None) -> object:
    return (source.name, sight, sorted(chosen.items()), status)


def _groups(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    if len(names) > MAX_GROUPINGS or len(set(names)) < len(names) or not set(names) <= GROUPS.keys():
        raise InvalidRequest(
            f"group_by must be one or two of {', '.join(GROUPS)}, with a comma between, not {text[:60]!r}.",
            param="group_by",
        )
    return tuple(GROUPS[name] for name in names)


def _status(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = _STATUS.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"status must be as 429 or 4xx, not {text[:60]!r}.", param="status")
    hundreds, rest = int(found[1]) * 100, found[2]
    return (hundreds, hundreds + 99) if rest == "xx" else (int(text), int(text))


def _before(moment: datetime) -> datetime:
    try:
        return moment - DEFAULT_WINDOW
    except OverflowError:
        raise InvalidRequest(f"end is at the beginning of time: {moment}.", param="end") from None
