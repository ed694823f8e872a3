"""The twin of a store that is not configured."""

from __future__ import annotations

from hx_gateway.services.absent import AbsentService
from hx_gateway.services.base import DataService, FailureKind, HealthSample


async def test_a_store_that_is_not_configured_counts_as_healthy_whatever_happens() -> None:
    changes: list[HealthSample] = []
    service: DataService = AbsentService("qdrant", "Qdrant")
    service.on_change(changes.append)
    async with service:
        service.report_failure(FailureKind.LOST)
        assert await service.healthy()
        assert service.sample.healthy
    assert not service.configured
    assert service.pool is None
    assert changes == []
