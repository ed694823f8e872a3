"""What can be asked of the record's four tables, checked before anything goes to the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from hx_gateway.errors import InvalidRequest
from hx_gateway.observability.levels import LEVELS, level_number

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
# A bound on what is compared and shown in messages, far above any name.
MAX_TEXT_CHARS = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilters:
    """What every query has. ``None`` filters nothing; text must be equal, case included.

    ``start_time`` is inside the window, ``end_time`` outside of it; both are aware. Without one the window has no such
    bound, and all partitions are looked at. ``limit`` is 1 to :data:`MAX_LIMIT`. ``cursor`` is the ``next_cursor`` of
    a page of the same query. Raises :class:`~hx_gateway.errors.InvalidRequest` naming the field that breaks a rule.
    """

    tenant_id: str
    start_time: datetime | None = None
    end_time: datetime | None = None
    limit: int = DEFAULT_LIMIT
    cursor: str | None = None

    def __post_init__(self) -> None:
        check_tenant(self.tenant_id)
        check_limit(self.limit, MAX_LIMIT)
        check_window("start_time", self.start_time, "end_time", self.end_time)
        for name, value in self.chosen().items():
            _CHECKS.get(name, check_text)(name, value)

    def chosen(self) -> dict[str, Any]:
        """Return the filters that only this kind of record has and that are set."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self) if field.name not in _SHARED)
        return {name: value for name, value in found if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFilters(RecordFilters):
    """Of trace events. ``min_level`` is a name (see :mod:`hx_gateway.observability.levels`)."""

    trace_id: str | None = None
    agent_name: str | None = None
    event_type: str | None = None
    min_level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingFilters(RecordFilters):
    """Of routing decisions. ``min_confidence`` is 0 to 1, itself included."""

    trace_id: str | None = None
    selected_agent: str | None = None
    routing_strategy: str | None = None
    min_confidence: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFilters(RecordFilters):
    """Of performance metrics."""

    metric_name: str | None = None
    component: str | None = None
    metric_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformationFilters(RecordFilters):
    """Of transformation events."""

    trace_id: str | None = None
    transformation_type: str | None = None
    source_agent: str | None = None
    target_agent: str | None = None


_SHARED = frozenset(field.name for field in fields(RecordFilters))


def check_tenant(tenant_id: object) -> None:
    """Raise :class:`InvalidRequest` for what names no tenant: no query may go without one."""
    check_text("tenant_id", tenant_id)
    if not tenant_id:
        raise InvalidRequest("tenant_id must not be empty.", param="tenant_id")


def check_text(name: str, value: object) -> None:
    """Raise :class:`InvalidRequest` for what PostgreSQL cannot compare with text: NUL, lone surrogates, other types."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be text, not {type(value).__name__}.", param=name)
    if len(value) > MAX_TEXT_CHARS:
        raise InvalidRequest(f"{name} is longer than {MAX_TEXT_CHARS:,} characters.", param=name)
    if "\0" in value:
        raise InvalidRequest(f"{name} holds the character NUL, which is never stored: {value!r}.", param=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name} holds half of a surrogate pair: {value!r}.", param=name) from None


def check_limit(limit: object, most: int) -> None:
    """Raise :class:`InvalidRequest` for a ``limit`` that is no whole number from 1 to ``most``."""
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= most:
        raise InvalidRequest(f"limit must be a whole number from 1 to {most:,}, not {limit!r}.", param="limit")


def check_window(start_name: str, start: object, end_name: str, end: object) -> None:
    """Raise :class:`InvalidRequest` for times without a zone, or a start after the end."""
    first, last = (_aware(name, value) for name, value in ((start_name, start), (end_name, end)))
    if first is not None and last is not None and first > last:
        raise InvalidRequest(
            f"{start_name} ({first.isoformat()}) is after {end_name} ({last.isoformat()}).", param=start_name
        )


def _aware(name: str, moment: object) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise InvalidRequest(f"{name} must be a time, not {type(moment).__name__}.", param=name)
    if moment.utcoffset() is None:
        raise InvalidRequest(f"{name} needs a time zone, as in 2026-11-24T12:00:00Z, not {moment!s}.", param=name)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"{name} is outside the years 1 to 9999 in UTC: {moment!s}.", param=name) from None


def _check_level(name: str, value: object) -> None:
    check_text(name, value)
    try:
        level_number(str(value))
    except KeyError:
        raise InvalidRequest(f"{name} must be one of {', '.join(LEVELS)}, not {value!r}.", param=name) from None


def _check_share(name: str, value: object) -> None:
    # Not a number is neither above 0 nor below 1.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InvalidRequest(f"{name} must be a number from 0 to 1, not {value!r}.", param=name)


_CHECKS: Mapping[str, Callable[[str, object], None]] = {"min_level": _check_level, "min_confidence": _check_share}
