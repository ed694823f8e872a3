"""Numbers of a tenant's services, added up from how many are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from hx_gateway.db.models.registry_items import BuildType, ServicePriority, ServiceProtocol, ServiceStatus

_GROUPS: Mapping[str, type[StrEnum]] = {
    "status": ServiceStatus,
    "build_type": BuildType,
    "protocol": ServiceProtocol,
    "priority": ServicePriority,
}


@dataclass(frozen=True, slots=True)
class ResponseTimes:
    """The last times of services that have one, in milliseconds; ``None`` where none has."""

    avg: float | None
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class FailingService:
    """An unhealthy service, how many probes in a row failed, and why the last one did."""

    id: str
    name: str
    consecutive_failures: int
    failure_class: str | None


@dataclass(frozen=True, slots=True)
class DependedOn:
    """A service that so many depend on, directly."""

    id: str
    name: str
    dependents: int


@dataclass(frozen=True, slots=True)
class RequiredServices:
    """The required services: how many, how many of them healthy and unhealthy, and the names of some unhealthy ones."""

    total: int
    healthy: int
    unhealthy_count: int
    unhealthy: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeNumbers:
    """What probes found and left of living services.

    ``stale`` were not seen for 15 minutes, or never; they and ``flapping`` ones are counted among all. Counts of probes
    and times of answers are of ``probes_counted_in`` services: where those are not all, counts are an estimate, what
    they come to for all. ``success_rate_1h``, 0 to 1 or ``None`` without probes, is of fewer where there are many.
    """

    success_count: int
    failure_count: int
    probes_counted_in: int
    stale: int
    flapping: int
    response_time_ms: ResponseTimes
    success_rate_1h: float | None
    top_failing: Sequence[FailingService]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """Numbers of a tenant's services. All but ``total`` and ``deleted`` count the living only.

    ``average_response_time_ms`` is that of ``response_time_ms``. The rest as in :class:`ProbeNumbers`.
    """

    total: int
    active: int
    deleted: int
    enabled: int
    required: int
    required_not_healthy: int
    required_services: RequiredServices
    by_status: Mapping[ServiceStatus, int]
    by_build_type: Mapping[BuildType, int]
    by_protocol: Mapping[ServiceProtocol, int]
    by_priority: Mapping[ServicePriority, int]
    success_count: int
    failure_count: int
    probes_counted_in: int
    average_response_time_ms: float | None
    stale: int
    flapping: int
    response_time_ms: ResponseTimes
    success_rate_1h: float | None
    top_failing: Sequence[FailingService]
    most_depended_on: Sequence[DependedOn]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """How many living services there are of each value. ``required`` and ``enabled`` count those that are."""

    total: int
    status: Mapping[ServiceStatus, int]
    build_type: Mapping[BuildType, int]
    protocol: Mapping[ServiceProtocol, int]
    priority: Mapping[ServicePriority, int]
    required: int
    enabled: int


def added_up(
    counts: Iterable[Any],
    probes: ProbeNumbers,
    *,
    unhealthy_required: Sequence[str] = (),
    most_depended_on: Sequence[DependedOn] = (),
) -> ServiceStatistics:
    """Return the numbers; ``counts`` are rows of :class:`~hx_gateway.db.models.registry_index.ItemCount`."""
    counts = list(counts)
    living = [row for row in counts if row.is_active]
    required = [row for row in living if row.is_required]
    healthy, unhealthy = (
        _sum(row for row in required if row.status is status)
        for status in (ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY)
    )
    groups: dict[str, Any] = {f"by_{name}": _grouped(living, name, members) for name, members in _GROUPS.items()}
    of_probes: dict[str, Any] = {field.name: getattr(probes, field.name) for field in fields(probes)}
    return ServiceStatistics(
        total=_sum(counts),
        active=_sum(living),
        deleted=_sum(row for row in counts if not row.is_active),
        enabled=_sum(row for row in living if row.is_enabled),
        required=_sum(required),
        required_not_healthy=_sum(required) - healthy,
        required_services=RequiredServices(_sum(required), healthy, unhealthy, unhealthy_required),
        average_response_time_ms=probes.response_time_ms.avg,
        most_depended_on=most_depended_on,
        **groups,
        **of_probes,
    )


def facets_of(alike: Iterable[Any]) -> Facets:
    """Return the facets; rows as for :func:`added_up`, of what passes."""
    rows = list(alike)
    groups: dict[str, Any] = {name: _grouped(rows, name, members) for name, members in _GROUPS.items()}
    return Facets(
        total=_sum(rows),
        required=_sum(row for row in rows if row.is_required),
        enabled=_sum(row for row in rows if row.is_enabled),
        **groups,
    )


def _sum(rows: Iterable[Any]) -> int:
    total: int = sum(row.items for row in rows)
    return total


def _grouped(rows: Iterable[Any], name: str, members: type[StrEnum]) -> dict[StrEnum, int]:
    found = dict.fromkeys(members, 0)
    for row in rows:
        found[getattr(row, name)] += row.items
    return found
