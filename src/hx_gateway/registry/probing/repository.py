"""Whose turn it is to be probed, and what was found: rows of health, across all tenants."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import delete, text
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.access.errors import InvalidField, no_such
from hx_gateway.db.models.base import JSON_OBJECT
from hx_gateway.db.models.health_history import BUCKET_SECONDS, MAX_TIMES
from hx_gateway.db.models.registry_checks import RegistryCheck
from hx_gateway.db.models.registry_items import (
    ItemHealth,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.errors import NotFound
from hx_gateway.kit.ids import new_request_id
from hx_gateway.registry.audit_trail import Author, Recorded
from hx_gateway.registry.feed.repository import REGISTRY_KIND
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.probing.findings import Claim, Finding
from hx_gateway.registry.probing.judgement import Standing, status_after
from hx_gateway.registry.probing.outcome import FailureClass, Level
from hx_gateway.registry.probing.state import HealthPeriod, HealthState
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.transactions import Transactions

PROBER = "prober"
LEASE = timedelta(seconds=120)
# A tenant that is deleted may be restored: its services are looked at now and then, and not probed.
PARKED = timedelta(hours=1)
PRUNED_AT_ONCE = 5000

_FIELDS = """
    h.tenant_id, h.item_id, h.lease_until, h.status, h.observed, h.consecutive_failures, h.consecutive_successes,
    h.flapping, h.transitions, h.failure_class, h.last_error, h.auth_required, h.level, h.maintenance_until,
    h.by_beats, h.ttl_until, h.last_seen, h.stale
"""
_ITEM = """
    i.protocol, i.priority, i.endpoint, i.location, i.port, i.health_check_url, i.auto_start, i.config, i.created_at,
    (SELECT l.asked_at FROM hx_registry.registry_tool_lists AS l
     WHERE l.tenant_id = i.tenant_id AND l.item_id = i.id) AS tools_asked_at
"""
# The lease is left alone where somebody has the service; who has it and did not give it back in time loses it.
_CLAIM = text(f"""
WITH due AS (
    SELECT h.tenant_id, h.item_id, i.deleted_at IS NULL AND t.deleted_at IS NULL AS living
    FROM hx_registry.registry_health AS h
    JOIN hx_registry.registry_items AS i ON i.tenant_id = h.tenant_id AND i.id = h.item_id
    JOIN hx_gateway.tenants AS t ON t.id = h.tenant_id
    WHERE h.next_check_at <= :now AND (h.lease_until IS NULL OR h.lease_until <= :now)
    ORDER BY h.next_check_at LIMIT :most FOR UPDATE OF h SKIP LOCKED
), h AS (
    UPDATE hx_registry.registry_health AS h
    SET lease_until = CASE WHEN due.living THEN CAST(:lease AS timestamptz) END,
        next_check_at = CASE WHEN due.living THEN h.next_check_at ELSE CAST(:parked AS timestamptz) END
    FROM due WHERE h.tenant_id = due.tenant_id AND h.item_id = due.item_id
    RETURNING {_FIELDS}
)
SELECT h.*, {_ITEM}
FROM h JOIN hx_registry.registry_items AS i ON i.tenant_id = h.tenant_id AND i.id = h.item_id
WHERE h.lease_until IS NOT NULL
""").columns(config=JSON_OBJECT)  # noqa: S608 - the names are ours
# Whoever has it keeps probing, and finds that it lost the lease.
_CLAIM_ONE = text(f"""
WITH h AS (
    UPDATE hx_registry.registry_health AS h
    SET lease_until = greatest(CAST(:lease AS timestamptz), h.lease_until + interval '1 microsecond')
    WHERE h.tenant_id = :tenant AND h.item_id = :item AND h.next_check_at IS NOT NULL
    RETURNING {_FIELDS}
)
SELECT h.*, {_ITEM}
FROM h JOIN hx_registry.registry_items AS i ON i.tenant_id = h.tenant_id AND i.id = h.item_id
WHERE i.deleted_at IS NULL
""").columns(config=JSON_OBJECT)  # noqa: S608 - the names are ours
_ROWS = """
jsonb_to_recordset(CAST(:rows AS jsonb)) AS f (
    tenant_id text, item_id uuid, lease timestamptz, at timestamptz, next_check_at timestamptz,
    successes integer, failures integer, response_ms double precision, observed hx_registry.service_status,
    consecutive_failures integer, consecutive_successes integer, flapping boolean, transitions timestamptz[],
    failure_class text, last_error text, auth_required boolean, level text, bucket timestamptz
)
"""
# Locked in one order: heartbeats, which take many rows too, do the same.
_WRITE = text(f"""
WITH f AS (
    SELECT f.* FROM {_ROWS}
    JOIN hx_registry.registry_health AS h ON h.tenant_id = f.tenant_id AND h.item_id = f.item_id
    WHERE h.lease_until = f.lease
    ORDER BY h.tenant_id, h.item_id FOR UPDATE OF h
)
UPDATE hx_registry.registry_health AS h
SET success_count = h.success_count + f.successes,
    failure_count = h.failure_count + f.failures,
    last_health_check = CASE WHEN f.successes + f.failures > 0 THEN f.at ELSE h.last_health_check END,
    last_seen = CASE WHEN f.successes > 0 THEN greatest(h.last_seen, f.at) ELSE h.last_seen END,
    response_time_ms = coalesce(f.response_ms, h.response_time_ms),
    next_check_at = f.next_check_at, lease_until = NULL, observed = f.observed,
    consecutive_failures = f.consecutive_failures, consecutive_successes = f.consecutive_successes,
    flapping = f.flapping, transitions = f.transitions, failure_class = f.failure_class, last_error = f.last_error,
    auth_required = f.auth_required, level = f.level, probed_at = f.at
FROM f WHERE h.tenant_id = f.tenant_id AND h.item_id = f.item_id
RETURNING h.tenant_id, h.item_id, f.lease
""")  # noqa: S608 - the names are ours
_REMEMBER = text(f"""
INSERT INTO hx_registry.registry_health_history AS kept
    (tenant_id, item_id, bucket, successes, failures, measured, response_ms_sum, response_ms_max, response_times)
SELECT f.tenant_id, f.item_id, f.bucket, f.successes, f.failures, CASE WHEN f.response_ms IS NULL THEN 0 ELSE 1 END,
    coalesce(f.response_ms, 0), coalesce(f.response_ms, 0),
    CASE WHEN f.response_ms IS NULL THEN '{{}}' ELSE ARRAY[CAST(f.response_ms AS real)] END
FROM {_ROWS}
WHERE f.successes + f.failures > 0
ORDER BY f.tenant_id, f.item_id
ON CONFLICT (tenant_id, item_id, bucket) DO UPDATE
SET successes = kept.successes + excluded.successes, failures = kept.failures + excluded.failures,
    measured = kept.measured + excluded.measured,
    response_ms_sum = kept.response_ms_sum + excluded.response_ms_sum,
    response_ms_max = greatest(kept.response_ms_max, excluded.response_ms_max),
    response_times = CASE WHEN cardinality(kept.response_times) < :most
        THEN kept.response_times || excluded.response_times ELSE kept.response_times END
""")  # noqa: S608 - the names are ours
# One whose claim was lost since is somebody else's to put off.
_PUT_OFF = text("""
WITH f AS (
    SELECT f.* FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS f (
        tenant_id text, item_id uuid, lease timestamptz, next_check_at timestamptz)
    JOIN hx_registry.registry_health AS h ON h.tenant_id = f.tenant_id AND h.item_id = f.item_id
    WHERE h.lease_until = f.lease
    ORDER BY h.tenant_id, h.item_id FOR UPDATE OF h
)
UPDATE hx_registry.registry_health AS h
SET next_check_at = coalesce(f.next_check_at, h.next_check_at), lease_until = NULL
FROM f WHERE h.tenant_id = f.tenant_id AND h.item_id = f.item_id
""")
_OVERDUE = text("""
SELECT coalesce(extract(epoch FROM CAST(:now AS timestamptz) - min(next_check_at)), 0)::float8
FROM hx_registry.registry_health
WHERE next_check_at <= :now AND (lease_until IS NULL OR lease_until <= :now)
""")
_IS_PRESERVED = text("""
SELECT EXISTS (SELECT FROM hx_registry.registry_self_preservation WHERE tenant_id = :tenant)
""")
_NOT_PRESERVED = text("""
DELETE FROM hx_registry.registry_self_preservation
WHERE tenant_id = :tenant AND (until <= :now OR gateway = CAST(:gateway AS uuid))
""")
_PRESERVED = text("""
INSERT INTO hx_registry.registry_self_preservation (tenant_id, gateway, until) VALUES (:tenant, :gateway, :until)
""")
_LAPSED = text("SELECT DISTINCT tenant_id FROM hx_registry.registry_self_preservation WHERE until <= :now")
_PRUNE = text("""
WITH gone AS (
    DELETE FROM hx_registry.registry_health_history WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM hx_registry.registry_health_history WHERE bucket < :before
        ORDER BY bucket LIMIT :most FOR UPDATE SKIP LOCKED))
    RETURNING 1
)
SELECT count(*) FROM gone
""")
_HISTORY = text("""
WITH kept AS (
    SELECT date_bin(CAST(:step AS interval), bucket, CAST(:start AS timestamptz)) AS start, *
    FROM hx_registry.registry_health_history
    WHERE tenant_id = :tenant AND item_id = :item AND bucket >= :start AND bucket < :end
), sums AS (
    SELECT start, sum(successes)::bigint AS successes, sum(failures)::bigint AS failures,
        sum(measured)::bigint AS measured, sum(response_ms_sum) AS response_ms_sum,
        max(response_ms_max) AS response_ms_max
    FROM kept GROUP BY start
), times AS (
    SELECT start, percentile_cont(0.5) WITHIN GROUP (ORDER BY time) AS p50,
        percentile_cont(0.95) WITHIN GROUP (ORDER BY time) AS p95
    FROM kept, unnest(response_times) AS time GROUP BY start
)
SELECT sums.*, times.p50, times.p95 FROM sums LEFT JOIN times USING (start) ORDER BY start
""")


class ProbedItems(RegistryItemRepository):
    """A tenant's services, as those see them who probe them or put them under maintenance."""

    async def note(self, findings: Sequence[Finding]) -> list[Finding]:
        """Write down findings that are told of, each audited; return those whose claim still held."""
        by_id = {finding.claim.item_id: finding for finding in findings}
        async with self._write():
            await self._trail.lock()
            query = self._query(include_deleted=False).where(RegistryItem.id.in_(by_id)).order_by(RegistryItem.id)
            items = list((await self._session.scalars(query.with_for_update(of=self._locks()))).all())
            ours = [item for item in items if item.health.lease_until == by_id[item.id].claim.lease_until]
            before, noticed = [self._recorded(item) for item in ours], []
            for item in ours:
                noticed += note_finding(item, by_id[item.id])
                item.health.probed_at = by_id[item.id].at
            await self._finish("updated", list(zip(ours, before, strict=True)))
            await self._trail.record(self.kind, noticed)
            return [by_id[item.id] for item in ours]

    async def begin_maintenance(self, item_id: UUID, until: datetime | None = None) -> RegistryItem:
        """Put a service under maintenance, ``until`` then or until it is ended. Raises ``NotFound``.

        Raises ``InvalidField`` for a time that is past, or without a zone.
        """
        if until is not None and (until.tzinfo is None or until <= self._trail.now):
            raise InvalidField("until: must be a time to come, with its zone.", param="until")
        async with self._write():
            await self._trail.lock()
            (item,) = await self._locked([item_id])
            before = self._recorded(item)
            item.update_health_status(ServiceStatus.MAINTENANCE, now=self._trail.now)
            item.health.maintenance_until = until
            # The end is noticed by whoever probes it next.
            due = item.health.next_check_at
            if until is not None and due is not None:
                item.health.next_check_at = min(due, until)
            await self._finish("updated", [(item, before)])
            return item

    async def end_maintenance(self, item_id: UUID) -> RegistryItem:
        """Let count again what is observed of a service; one that is not under maintenance stays as it is."""
        async with self._write():
            await self._trail.lock()
            (item,) = await self._locked([item_id])
            before = self._recorded(item)
            if item.status is ServiceStatus.MAINTENANCE:
                item.status, item.health.maintenance_until = item.health.observed, None
                item.health.check_at(self._trail.now)
            await self._finish("updated", [(item, before)])
            return item


class ProbeRepository:
    """Claims and findings of all tenants. Each method is a transaction of its own, or a few; none spans a probe.

    Raises what ``database.session`` does. What was claimed and not written comes back after :data:`LEASE`.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._database = transactions.database

    async def claim(self, now: datetime, limit: int) -> list[Claim]:
        """Take at most ``limit`` services that are due and nobody's, those that wait the longest first."""
        values = {"now": now, "lease": now + LEASE, "parked": now + PARKED, "most": limit}
        async with self._database.session(EVERY_TENANT) as session:
            return [_claim(row) for row in (await session.execute(_CLAIM, values)).mappings()]

    async def claim_one(self, tenant_id: str, item_id: UUID, now: datetime) -> Claim:
        """Take one service, due or not, from whoever has it. Raises ``NotFound``."""
        values = {"tenant": tenant_id, "item": item_id, "lease": now + LEASE}
        async with self._database.session(tenant_id) as session:
            row = (await session.execute(_CLAIM_ONE, values)).mappings().one_or_none()
            if row is None:
                raise no_such("service", str(item_id))
            return _claim(row)

    async def write_plain(self, findings: Sequence[Finding]) -> None:
        """Write down findings of which nothing is told, all at once. Those whose claim was lost are dropped."""
        rows = [_row(finding) for finding in findings]
        async with self._database.session(EVERY_TENANT) as session:
            written = {tuple(row) for row in await session.execute(_WRITE, {"rows": json.dumps(rows)})}
            # By the lease too: a service that was taken anew may be there with both its claims.
            held = [one for one in findings if (*one.claim.key, one.claim.lease_until) in written]
            await _remember(session, held)

    async def write_changes(self, tenant_id: str, findings: Sequence[Finding]) -> list[Finding]:
        """Write down findings that are told of: under the tenant's lock, with an audit entry for what is told.

        Return those whose claim still held.
        """
        now = max(finding.at for finding in findings)
        async with self._transactions.of(tenant_id, _author(), now=now) as transaction:
            try:
                written = await ProbedItems(transaction.session, transaction.trail).note(findings)
            except NotFound:  # the tenant was deleted meanwhile: its services are not claimed any more
                return []
            await _remember(transaction.session, written)
        return written

    async def put_off(self, claims: Iterable[Claim], until: datetime | None = None) -> None:
        """Give claims back unprobed; ``until`` is when they are due again, as before without it."""
        due = None if until is None else until.isoformat()
        rows = [{**_key(claim), "next_check_at": due} for claim in claims]
        if rows:
            async with self._database.session(EVERY_TENANT) as session:
                await session.execute(_PUT_OFF, {"rows": json.dumps(rows)})

    async def preserve(self, tenant_id: str, gateway: UUID | None, until: datetime | None, now: datetime) -> None:
        """Note that a gateway takes the failures that it sees of a tenant for its own, or without ``until`` no more.

        That the first one does so, and that the last one does not any more, is in the audit log, each once.
        """
        values = {"tenant": tenant_id, "gateway": gateway, "until": until, "now": now}
        async with self._transactions.of(tenant_id, _author(), now=now) as transaction:
            session, trail = transaction.session, transaction.trail
            try:
                await trail.lock()
            except NotFound:  # the tenant was deleted meanwhile
                return
            was = bool(await session.scalar(_IS_PRESERVED, values))
            await session.execute(_NOT_PRESERVED, values)
            if until is not None:
                await session.execute(_PRESERVED, values)
            now_is = bool(await session.scalar(_IS_PRESERVED, values))
            if was is not now_is:
                told = ({"self_preservation": was}, {"self_preservation": now_is})
                await trail.record(REGISTRY_KIND, [Recorded("noticed", tenant_id, *told)])

    async def lapse(self, now: datetime) -> None:
        """End what gateways began to preserve that died at it."""
        async with self._database.session(EVERY_TENANT) as session:
            lapsed = list(await session.scalars(_LAPSED, {"now": now}))
        for tenant_id in lapsed:
            await self.preserve(tenant_id, None, None, now)

    async def prune(self, before: datetime) -> int:
        """Remove the history of before that; return how many rows went. Others who do the same share the work."""
        removed = 0
        while True:
            async with self._database.session(EVERY_TENANT) as session:
                gone = await session.scalar(_PRUNE, {"before": before, "most": PRUNED_AT_ONCE}) or 0
            removed += gone
            if gone < PRUNED_AT_ONCE:
                return removed

    async def forget_checks(self, before: datetime) -> None:
        """Remove what was asked for before that."""
        async with self._database.session(EVERY_TENANT) as session:
            await session.execute(delete(RegistryCheck).where(RegistryCheck.asked_at < before))

    async def state(self, tenant_id: str, item_id: UUID) -> HealthState:
        """Return the health of a living service. Raises ``NotFound``."""
        async with self._transactions.of(tenant_id, _author()) as transaction:
            item = await transaction.items.get(item_id)
            if item is None:
                raise no_such("service", str(item_id))
            return HealthState.of(item)

    async def history(
        self, tenant_id: str, item_id: UUID, *, start: datetime, end: datetime, step: timedelta | None = None
    ) -> list[HealthPeriod]:
        """Return what was found from ``start`` to before ``end``, in periods of ``step``, five minutes or more.

        A period without any probe is left out.
        """
        values = {
            "tenant": tenant_id,
            "item": item_id,
            "start": start,
            "end": end,
            "step": max(step or timedelta(), timedelta(seconds=BUCKET_SECONDS)),
        }
        async with self._database.session(tenant_id) as session:
            return [HealthPeriod.of(dict(row)) for row in (await session.execute(_HISTORY, values)).mappings()]


def by_tenant(findings: Iterable[Finding]) -> list[tuple[str, list[Finding]]]:
    """Return findings in groups of one tenant."""
    ordered = sorted(findings, key=lambda finding: finding.claim.tenant_id)
    return [(tenant, list(several)) for tenant, several in groupby(ordered, lambda finding: finding.claim.tenant_id)]


def note_finding(item: RegistryItem, finding: Finding) -> list[Recorded]:
    """Put a finding on a locked item: the same as ``_WRITE``, and the status that counts as things are now.

    Return what else is told of it: what began or ended.
    """
    health, claim, after = item.health, finding.claim, finding.judgement.standing
    before = {"flapping": health.flapping, "stale": health.stale}
    # A sign of life that came since the claim counts.
    health.stale = finding.stale and item.last_seen == claim.last_seen
    status = status_after(
        item.status,
        claim.standing,
        after,
        finding.outcome,
        now=finding.at,
        maintenance_until=health.maintenance_until,
    )
    item.success_count += finding.successes
    item.failure_count += finding.failures
    if finding.successes or finding.failures:
        item.last_health_check = finding.at
    if finding.successes:
        item.last_seen = finding.at if item.last_seen is None else max(item.last_seen, finding.at)
    if finding.outcome.response_time_ms is not None:
        item.response_time_ms = finding.outcome.response_time_ms
    health.check_at(finding.next_check_at)
    _set_standing(health, after)
    if status is not item.status:
        item.status, health.maintenance_until = status, None
    return [
        Recorded("noticed", str(item.id), {name: was}, {name: now})
        for name, was in before.items()
        if (now := getattr(health, name)) is not was
    ]


async def overdue_seconds(session: AsyncSession, now: datetime) -> float:
    """Return how long the service that nobody probes has been due that has been for longest, of all tenants."""
    return float(await session.scalar(_OVERDUE, {"now": now}) or 0.0)


def _set_standing(health: ItemHealth, standing: Standing) -> None:
    health.observed = standing.observed
    health.consecutive_failures = standing.consecutive_failures
    health.consecutive_successes = standing.consecutive_successes
    health.flapping = standing.flapping
    health.transitions = list(standing.transitions)
    health.failure_class = standing.failure_class
    health.last_error = standing.last_error
    health.auth_required = standing.auth_required
    health.level = standing.level


async def _remember(session: AsyncSession, findings: Sequence[Finding]) -> None:
    # Beats are not kept: their failures alone would make it look as if the service never lived.
    asked = [finding for finding in findings if not finding.claim.by_beats]
    rows = [_row(finding) for finding in asked if finding.successes or finding.failures]
    if rows:
        await session.execute(_REMEMBER, {"rows": json.dumps(rows), "most": MAX_TIMES})


def _author() -> Author:
    return Author(key=PROBER, request_id=new_request_id())


def _key(claim: Claim) -> dict[str, Any]:
    return {"tenant_id": claim.tenant_id, "item_id": str(claim.item_id), "lease": claim.lease_until.isoformat()}


def _row(finding: Finding) -> dict[str, Any]:
    standing, seconds = finding.judgement.standing, int(finding.at.timestamp())
    return {
        **_key(finding.claim),
        "at": finding.at.isoformat(),
        "next_check_at": finding.next_check_at.isoformat(),
        "successes": finding.successes,
        "failures": finding.failures,
        "response_ms": finding.outcome.response_time_ms,
        "observed": standing.observed,
        "consecutive_failures": standing.consecutive_failures,
        "consecutive_successes": standing.consecutive_successes,
        "flapping": standing.flapping,
        "transitions": [at.isoformat() for at in standing.transitions],
        "failure_class": standing.failure_class,
        "last_error": standing.last_error,
        "auth_required": standing.auth_required,
        "level": standing.level,
        "bucket": datetime.fromtimestamp(seconds - seconds % BUCKET_SECONDS, UTC).isoformat(),
    }


def _claim(row: Mapping[Any, Any]) -> Claim:
    return Claim(
        tenant_id=row["tenant_id"],
        item_id=UUID(str(row["item_id"])),
        lease_until=row["lease_until"],
        target=Target(
            protocol=ServiceProtocol(row["protocol"]),
            endpoint=row["endpoint"],
            location=row["location"],
            port=row["port"],
            health_check_url=row["health_check_url"],
            auto_start=row["auto_start"],
            config=row["config"],
        ),
        priority=ServicePriority(row["priority"]),
        registered_at=row["created_at"],
        status=ServiceStatus(row["status"]),
        maintenance_until=row["maintenance_until"],
        by_beats=row["by_beats"],
        ttl_until=row["ttl_until"],
        last_seen=row["last_seen"],
        stale=row["stale"],
        standing=_standing(row),
        tools_asked_at=row["tools_asked_at"],
    )


def standing_of(health: ItemHealth) -> Standing:
    """Return what is observed so far of a service whose row of health this is."""
    return _standing({each.name: getattr(health, each.name) for each in fields(Standing)})


def _standing(row: Mapping[Any, Any]) -> Standing:
    failure_class, level = row["failure_class"], row["level"]
    return Standing(
        observed=ServiceStatus(row["observed"]),
        consecutive_failures=row["consecutive_failures"],
        consecutive_successes=row["consecutive_successes"],
        flapping=row["flapping"],
        transitions=tuple(row["transitions"]),
        failure_class=None if failure_class is None else FailureClass(failure_class),
        last_error=row["last_error"],
        auth_required=row["auth_required"],
        level=None if level is None else Level(level),
    )
