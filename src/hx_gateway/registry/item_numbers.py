"""Numbers of a tenant's services that are read from their rows: each from so many of them at most, however many."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.registry_items import ServiceStatus
from hx_gateway.registry.statistics import DependedOn, FailingService, ProbeNumbers, ResponseTimes

# Not seen for so long, or never.
STALE_AFTER = timedelta(minutes=15)
# That of ``seen_period``.
SEEN_PERIOD_SECONDS = 300
MAX_NAMES = 50
MAX_TOP = 10
# Ids are drawn at random: the first of them are a fair sample of all.
SAMPLED_PROBES = 10_000
SAMPLED_RATES = 200
SAMPLED_FAILING = 2_000
SAMPLED_EDGES = 2_000
_HOUR = timedelta(hours=1)
_UNHEALTHY = [*ServiceStatus].index(ServiceStatus.UNHEALTHY)

_LIVING = """AND NOT EXISTS (
    SELECT FROM hx_registry.registry_items AS i
    WHERE i.tenant_id = h.tenant_id AND i.id = h.item_id AND i.deleted_at IS NOT NULL
)"""
# Counters change with every probe: nobody keeps their sums, for which all probes would wait for each other.
_PROBES = """
SELECT count(*) AS counted_in, coalesce(sum(success_count), 0)::bigint AS success_count,
    coalesce(sum(failure_count), 0)::bigint AS failure_count, avg(response_time_ms) AS avg,
    percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY response_time_ms) AS percentiles
FROM (
    SELECT success_count, failure_count, response_time_ms FROM hx_registry.registry_health AS h
    WHERE tenant_id = :tenant {living} ORDER BY item_id LIMIT :most
) AS few
"""
# Each of them is counted in an index: together they would be looked for in every row.
_STANDING = """
SELECT (
    SELECT count(*) FROM hx_registry.registry_health AS h
    WHERE tenant_id = :tenant AND seen_period < :period {living}
) + (
    SELECT count(*) FROM hx_registry.registry_health AS h
    WHERE tenant_id = :tenant AND seen_period = :period AND last_seen < :seen_before {living}
) + (
    SELECT count(*) FROM hx_registry.registry_health AS h WHERE tenant_id = :tenant AND seen_period IS NULL {living}
) AS stale, (
    SELECT count(*) FROM hx_registry.registry_health AS h WHERE tenant_id = :tenant AND flapping {living}
) AS flapping
"""
# One service after the other: joined, the last hour of all of them would be read.
_RATE = text("""
SELECT sum(b.successes)::double precision / nullif(sum(b.successes + b.failures), 0)
FROM (
    SELECT item_id FROM hx_registry.registry_health WHERE tenant_id = :tenant ORDER BY item_id LIMIT :most
) AS few
CROSS JOIN LATERAL (
    SELECT successes, failures FROM hx_registry.registry_health_history
    WHERE tenant_id = :tenant AND item_id = few.item_id AND bucket >= :since OFFSET 0
) AS b
""")
# What is deleted is not probed again.
_FAILING = text("""
SELECT i.id, i.name, few.consecutive_failures, few.failure_class
FROM (
    SELECT item_id, consecutive_failures, failure_class, failure_count FROM (
        SELECT * FROM hx_registry.registry_health
        WHERE tenant_id = :tenant AND status_rank = :unhealthy AND next_check_at IS NOT NULL
        ORDER BY item_id LIMIT :most
    ) AS unwell ORDER BY consecutive_failures DESC, failure_count DESC, item_id LIMIT :top
) AS few
JOIN hx_registry.registry_items AS i ON i.tenant_id = :tenant AND i.id = few.item_id AND i.deleted_at IS NULL
ORDER BY few.consecutive_failures DESC, few.failure_count DESC, i.id
""")
_REQUIRED = text("""
SELECT i.name FROM hx_registry.registry_health AS h
JOIN hx_registry.registry_items AS i ON i.tenant_id = h.tenant_id AND i.id = h.item_id
WHERE h.tenant_id = :tenant AND h.status_rank = :unhealthy AND i.is_required AND i.deleted_at IS NULL
LIMIT :most
""")
# Found among a few, counted among all.
_DEPENDED_ON = text("""
SELECT i.id, i.name, (
    SELECT count(*) FROM hx_registry.registry_dependencies AS d WHERE d.tenant_id = :tenant AND d.depends_on_id = i.id
) AS dependents
FROM (
    SELECT depends_on_id FROM (
        SELECT depends_on_id FROM hx_registry.registry_dependencies
        WHERE tenant_id = :tenant ORDER BY item_id LIMIT :most
    ) AS few GROUP BY depends_on_id ORDER BY count(*) DESC, depends_on_id LIMIT :top
) AS needed
JOIN hx_registry.registry_items AS i ON i.tenant_id = :tenant AND i.id = needed.depends_on_id AND i.deleted_at IS NULL
ORDER BY dependents DESC, i.name
""")


class ItemNumbers:
    """Reads numbers of one tenant in one transaction; ``now`` is what times are compared with."""

    def __init__(self, session: AsyncSession, tenant_id: str, now: datetime) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._now = now

    async def of_probes(self, counts: Collection[Any]) -> ProbeNumbers:
        """Return what probes found and left, of living services; ``counts`` say how many are alike (``ItemCount``)."""
        living, deleted = (sum(row.items for row in counts if row.is_active is active) for active in (True, False))
        among = _LIVING if deleted else ""
        seen_before = self._now - STALE_AFTER
        period = int(seen_before.timestamp()) // SEEN_PERIOD_SECONDS
        standing = (await self._rows(text(_STANDING.format(living=among)), seen_before=seen_before, period=period))[0]
        sums = (await self._rows(text(_PROBES.format(living=among)), most=SAMPLED_PROBES))[0]
        p50, p95 = sums.percentiles or (None, None)
        rate = await self._rows(_RATE, since=self._now - _HOUR, most=SAMPLED_RATES)
        failing = await self._rows(_FAILING, unhealthy=_UNHEALTHY, most=SAMPLED_FAILING, top=MAX_TOP)
        return ProbeNumbers(
            success_count=_scaled(sums.success_count, sums.counted_in, living),
            failure_count=_scaled(sums.failure_count, sums.counted_in, living),
            probes_counted_in=sums.counted_in,
            stale=standing.stale,
            flapping=standing.flapping,
            response_time_ms=ResponseTimes(avg=sums.avg, p50=p50, p95=p95),
            success_rate_1h=rate[0][0],
            top_failing=tuple(FailingService(str(row.id), row.name, *row[2:]) for row in failing),
        )

    async def unhealthy_required(self) -> list[str]:
        """Return the names of required services that are unhealthy, by name: some, where they are many."""
        return sorted(row.name for row in await self._rows(_REQUIRED, unhealthy=_UNHEALTHY, most=MAX_NAMES))

    async def most_depended_on(self) -> tuple[DependedOn, ...]:
        """Return what most services depend on, directly."""
        found = await self._rows(_DEPENDED_ON, most=SAMPLED_EDGES, top=MAX_TOP)
        return tuple(DependedOn(str(row.id), row.name, row.dependents) for row in found)

    async def _rows(self, query: Any, **values: Any) -> Any:
        return (await self._session.execute(query, {"tenant": self._tenant_id, **values})).all()


def _scaled(count: int, counted_in: int, of: int) -> int:
    """Return what ``count`` in a sample comes to in all; as it is where it is of all."""
    return round(count * of / counted_in) if 0 < counted_in < of else count
