"""Numbers of a tenant's services, added up from how many are alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hx_gateway.db.models.registry_items import BuildType, ServicePriority, ServiceProtocol, ServiceStatus

_GROUPS: Mapping[str, type[StrEnum]] = {
    "status": ServiceStatus,
    "build_type": BuildType,
    "protocol": ServiceProtocol,
    "priority": ServicePriority,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """Numbers of a tenant's services. All but ``total`` and ``deleted`` count the living only.

    ``average_response_time_ms`` is over the last times of those that have one, ``None`` where none has.
    """

    total: int
    active: int
    deleted: int
    enabled: int
    required: int
    required_not_healthy: int
    by_status: Mapping[ServiceStatus, int]
    by_build_type: Mapping[BuildType, int]
    by_protocol: Mapping[ServiceProtocol, int]
    by_priority: Mapping[ServicePriority, int]
    success_count: int
    failure_count: int
    average_response_time_ms: float | None


def added_up(counts: Iterable[Any], probes: Any) -> ServiceStatistics:
    """Return the numbers.

    ``counts`` are rows of :class:`~hx_gateway.db.models.registry_index.ItemCount`; ``probes`` is a
    row of the counters, which are no part of them.
    """
    counts = list(counts)
    living = [row for row in counts if row.is_active]
    required = [row for row in living if row.is_required]
    groups: dict[str, Any] = {f"by_{name}": _grouped(living, name, members) for name, members in _GROUPS.items()}
    return ServiceStatistics(
        total=_sum(counts),
        active=_sum(living),
        deleted=_sum(row for row in counts if not row.is_active),
        enabled=_sum(row for row in living if row.is_enabled),
        required=_sum(required),
        required_not_healthy=_sum(row for row in required if row.status is not ServiceStatus.HEALTHY),
        success_count=probes.success_count,
        failure_count=probes.failure_count,
        average_response_time_ms=probes.average_response_time_ms,
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
