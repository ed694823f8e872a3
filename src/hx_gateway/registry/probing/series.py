"""What probes found of a tenant's services together over time, and whether one answers more slowly than it used to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.db.models.health_history import BUCKET_SECONDS

SeriesMetric = Literal["success_rate", "probes", "response_ms_p50", "response_ms_p95"]
# Rows that are read for one answer; of more services than that is for, some are looked at. Ids are drawn at random.
READ_ROWS = 20_000
LEAST_SERVICES = 10
# When a service is called slow: its 95th percentile of the last hour is so many times that of the week before.
SLOWER = 3.0
HOUR, WEEK = timedelta(hours=1), timedelta(days=7)
LEAST_RECENT, LEAST_BEFORE = 20, 100

_KEPT = """
WITH few AS (
    SELECT item_id FROM hx_registry.registry_health WHERE tenant_id = :tenant ORDER BY item_id LIMIT :most
), kept AS (
    SELECT date_bin(CAST(:step AS interval), b.bucket, CAST(:start AS timestamptz)) AS start, b.*
    FROM few CROSS JOIN LATERAL (
        SELECT bucket, successes, failures, response_times FROM hx_registry.registry_health_history
        WHERE tenant_id = :tenant AND item_id = few.item_id AND bucket >= :start AND bucket < :end OFFSET 0
    ) AS b
)
"""
_PERCENTILE = """
SELECT start, percentile_cont({share}) WITHIN GROUP (ORDER BY time) AS value
FROM kept, unnest(response_times) AS time GROUP BY start ORDER BY start
"""
_VALUES: dict[SeriesMetric, str] = {
    "success_rate": (
        "SELECT start, sum(successes)::double precision / nullif(sum(successes + failures), 0) AS value "
        "FROM kept GROUP BY start ORDER BY start"
    ),
    "probes": (
        "SELECT start, sum(successes + failures)::double precision AS value FROM kept GROUP BY start ORDER BY start"
    ),
    "response_ms_p50": _PERCENTILE.format(share=0.5),
    "response_ms_p95": _PERCENTILE.format(share=0.95),
}
_QUERIES = {metric: text(_KEPT + values) for metric, values in _VALUES.items()}
_BOTH = text("""
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY time) FILTER (WHERE bucket >= :hour) AS recent,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY time) FILTER (WHERE bucket < :hour) AS before,
    count(*) FILTER (WHERE bucket >= :hour) AS times, count(*) FILTER (WHERE bucket < :hour) AS times_before
FROM hx_registry.registry_health_history, unnest(response_times) AS time
WHERE tenant_id = :tenant AND item_id = :item AND bucket >= :week
""")


async def series(
    session: AsyncSession, tenant_id: str, metric: SeriesMetric, *, start: datetime, end: datetime, step: timedelta
) -> tuple[list[tuple[datetime, float | None]], int]:
    """Return a value for each period of ``step`` with any probe, and how many services at most it is of."""
    buckets = max(1, round((end - start).total_seconds() / BUCKET_SECONDS))
    most = max(LEAST_SERVICES, READ_ROWS // buckets)
    values = {"tenant": tenant_id, "most": most, "start": start, "end": end, "step": step}
    rows: Any = await session.execute(_QUERIES[metric], values)
    return [(row.start, row.value) for row in rows], most


async def slower_because(session: AsyncSession, tenant_id: str, item_id: UUID, now: datetime) -> str | None:
    """Return in a sentence that a service answers far more slowly than in the week before; ``None`` where it does not.

    ``None`` too where too few answers are known to say so.
    """
    values = {"tenant": tenant_id, "item": item_id, "hour": now - HOUR, "week": now - WEEK}
    found: Any = (await session.execute(_BOTH, values)).one()
    if found.times < LEAST_RECENT or found.times_before < LEAST_BEFORE or found.recent <= SLOWER * found.before:
        return None
    return (
        f"The 95th percentile of its answers was {found.recent:.0f} ms in the last hour, "
        f"and {found.before:.0f} ms in the week before."
    )
