"""Numbers of services are added up from how many are alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hx_gateway.db.models.registry_items import BuildType, ServicePriority, ServiceProtocol, ServiceStatus
from hx_gateway.registry.statistics import ProbeNumbers, ResponseTimes, added_up, facets_of

PROBES = ProbeNumbers(
    success_count=7,
    failure_count=2,
    probes_counted_in=3,
    stale=1,
    flapping=0,
    response_time_ms=ResponseTimes(avg=1.5, p50=1.0, p95=2.0),
    success_rate_1h=None,
    top_failing=(),
)


def alike(items: int, **fields: Any) -> SimpleNamespace:
    values = {
        "build_type": BuildType.STUB,
        "protocol": ServiceProtocol.TCP,
        "priority": ServicePriority.LOW,
        "status": ServiceStatus.HEALTHY,
        "is_enabled": True,
        "is_required": False,
        "is_active": True,
    }
    return SimpleNamespace(items=items, **{**values, **fields})


def test_the_deleted_count_among_all_and_nowhere_else() -> None:
    found = added_up([alike(3), alike(4, is_active=False, is_required=True)], PROBES)
    assert (found.total, found.active, found.deleted, found.enabled, found.required) == (7, 3, 4, 3, 0)
    assert found.by_status == {**dict.fromkeys(ServiceStatus, 0), ServiceStatus.HEALTHY: 3}


def test_what_is_alike_in_one_way_is_added_up_over_the_others() -> None:
    unwell = {"status": ServiceStatus.UNHEALTHY, "is_required": True}
    found = added_up([alike(1), alike(2, **unwell), alike(4, **unwell, priority=ServicePriority.HIGH)], PROBES)
    assert (found.required, found.required_not_healthy) == (6, 6)
    assert (found.required_services.healthy, found.required_services.unhealthy_count) == (0, 6)
    assert found.by_priority[ServicePriority.LOW] == 3
    assert found.by_build_type[BuildType.STUB] == 7
    assert (found.success_count, found.failure_count, found.average_response_time_ms) == (7, 2, 1.5)


def test_no_services_are_zeros() -> None:
    found = added_up([], PROBES)
    assert found.total == 0
    assert set(found.by_protocol.values()) == {0}


def test_facets_count_what_is_given_by_each_of_its_values() -> None:
    found = facets_of([alike(2), alike(3, status=ServiceStatus.DISABLED, is_enabled=False, is_required=True)])
    assert (found.total, found.required, found.enabled) == (5, 3, 2)
    assert found.status == {**dict.fromkeys(ServiceStatus, 0), ServiceStatus.HEALTHY: 2, ServiceStatus.DISABLED: 3}
