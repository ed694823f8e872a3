"""How a service is, with all that is known of why: what ``GET …/health`` shows beside the item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from hx_gateway.db.models.health_config import health_config
from hx_gateway.db.models.registry_items import RegistryItem, ServiceStatus
from hx_gateway.registry.probing.judgement import AdminState, admin_state
from hx_gateway.registry.probing.outcome import FailureClass, Level
from hx_gateway.registry.probing.rules import rules_for


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthState:
    """The health of one service. Times are aware UTC, ``None`` where there is none yet; durations are seconds.

    ``status`` is what counts, ``observed`` what probes found, ``admin_state`` what somebody decided. ``failure_class``
    and ``last_error`` are of the last probe, and ``None`` where that one went well. ``by_beats``: nobody asks it, its
    heartbeats say how it is; the next is due at ``ttl_until`` at the latest.
    ``degraded_reason`` says that it answers far more slowly than it used to, where somebody looked at that.
    """

    service_id: UUID
    name: str
    status: ServiceStatus
    observed: ServiceStatus
    admin_state: AdminState
    maintenance_until: datetime | None
    flapping: bool
    stale: bool
    consecutive_failures: int
    consecutive_successes: int
    failure_class: FailureClass | None
    last_error: str | None
    auth_required: bool
    level: Level | None
    response_time_ms: float | None
    last_health_check: datetime | None
    last_seen: datetime | None
    next_check_at: datetime | None
    by_beats: bool
    ttl_until: datetime | None
    interval_seconds: float
    timeout_seconds: float
    failures_to_unhealthy: int
    successes_to_healthy: int
    degraded_reason: str | None = None

    @classmethod
    def of(cls, item: RegistryItem) -> HealthState:
        """Return the health of an item."""
        health = item.health
        rules = rules_for(item.priority, item.protocol, health_config(item.config), by_beats=health.by_beats)
        return cls(
            service_id=item.id,
            name=item.name,
            status=health.status,
            observed=health.observed,
            admin_state=admin_state(health.status),
            maintenance_until=health.maintenance_until,
            flapping=health.flapping,
            stale=health.stale,
            consecutive_failures=health.consecutive_failures,
            consecutive_successes=health.consecutive_successes,
            failure_class=None if health.failure_class is None else FailureClass(health.failure_class),
            last_error=health.last_error,
            auth_required=health.auth_required,
            level=None if health.level is None else Level(health.level),
            response_time_ms=health.response_time_ms,
            last_health_check=health.last_health_check,
            last_seen=health.last_seen,
            next_check_at=health.next_check_at,
            by_beats=health.by_beats,
            ttl_until=health.ttl_until,
            interval_seconds=rules.interval,
            timeout_seconds=rules.ready_seconds,
            failures_to_unhealthy=rules.failures,
            successes_to_healthy=rules.successes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: ids are texts, times RFC 3339, members of enumerations their values."""
        return {field.name: _as_json(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthPeriod:
    """What probes found in the time from ``start`` on. Times of answers are milliseconds, ``None`` where none was.

    ``uptime`` is successes over probes, ``None`` without any. Percentiles are of at most 64 answers in five minutes.
    """

    start: datetime
    successes: int
    failures: int
    uptime: float | None
    response_ms_mean: float | None
    response_ms_max: float | None
    response_ms_p50: float | None
    response_ms_p95: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {field.name: _as_json(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> HealthPeriod:
        """Return what a row of sums says."""
        probes, measured = row["successes"] + row["failures"], row["measured"]
        return cls(
            start=row["start"],
            successes=row["successes"],
            failures=row["failures"],
            uptime=row["successes"] / probes if probes else None,
            response_ms_mean=row["response_ms_sum"] / measured if measured else None,
            response_ms_max=row["response_ms_max"] if measured else None,
            response_ms_p50=row["p50"],
            response_ms_p95=row["p95"],
        )


def _as_json(value: Any) -> Any:
    match value:
        case UUID():
            return str(value)
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
    return value
