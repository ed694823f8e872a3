"""Heartbeats in the database: one statement for those that change no status, however many they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from hx_gateway.access.errors import InvalidField
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry.audit_trail import Recorded
from hx_gateway.registry.probing.beats import MAX_BEATS, SAID_SO, Beat
from hx_gateway.registry.probing.findings import Claim, Finding
from hx_gateway.registry.probing.judgement import GRACE, judge, status_after
from hx_gateway.registry.probing.repository import ProbedItems, note_finding, standing_of
from hx_gateway.registry.probing.target import Target

# What a beat without a status says depends on whether the service lives by its beats.
_WELL = "(f.status = 'healthy' OR (f.status = 'none' AND h.by_beats))"
_ILL = "(f.status = 'unhealthy')"
# Of a service that lives by its beats every change of what is observed is judged, and all while it flaps.
_JUDGED = f"""
CASE
    WHEN {_WELL} THEN h.status IN ('unknown', 'unhealthy') OR (h.by_beats AND (h.observed <> 'healthy' OR h.flapping))
    WHEN {_ILL} THEN h.status IN ('unknown', 'healthy') OR (h.by_beats AND (h.observed <> 'unhealthy' OR h.flapping))
    ELSE false
END
"""
# Beats void what a look at the same service found meanwhile: it may have taken it for silent.
_BEAT = f"""
WITH f AS (
    SELECT f.*
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS f (
        item_id uuid, ttl_until timestamptz, status text, response_ms double precision)
    JOIN hx_registry.registry_items AS i ON i.tenant_id = :tenant AND i.id = f.item_id AND i.deleted_at IS NULL
    JOIN hx_registry.registry_health AS h ON h.tenant_id = i.tenant_id AND h.item_id = i.id
    ORDER BY h.item_id FOR UPDATE OF h %s
), noted AS (
    UPDATE hx_registry.registry_health AS h
    SET last_seen = greatest(h.last_seen, :now),
        ttl_until = f.ttl_until,
        next_check_at = CASE WHEN h.stale THEN :now
            WHEN h.by_beats THEN least(h.next_check_at, f.ttl_until) ELSE h.next_check_at END,
        lease_until = CASE WHEN h.by_beats THEN NULL ELSE h.lease_until END,
        success_count = h.success_count + CASE WHEN {_WELL} THEN 1 ELSE 0 END,
        failure_count = h.failure_count + CASE WHEN {_ILL} THEN 1 ELSE 0 END,
        last_health_check = CASE WHEN {_WELL} OR {_ILL} THEN :now ELSE h.last_health_check END,
        response_time_ms = coalesce(f.response_ms, h.response_time_ms),
        consecutive_successes = CASE WHEN NOT h.by_beats THEN h.consecutive_successes
            WHEN {_WELL} THEN h.consecutive_successes + 1 ELSE 0 END,
        consecutive_failures = CASE WHEN NOT h.by_beats THEN h.consecutive_failures
            WHEN {_ILL} THEN h.consecutive_failures + 1 ELSE 0 END,
        failure_class = CASE WHEN {_WELL} OR (h.by_beats AND {_ILL}) THEN NULL ELSE h.failure_class END,
        last_error = CASE WHEN {_WELL} THEN NULL WHEN h.by_beats AND {_ILL} THEN :said_so ELSE h.last_error END
    FROM f WHERE h.tenant_id = :tenant AND h.item_id = f.item_id AND NOT {_JUDGED}
    RETURNING h.item_id
)
SELECT i.id, EXISTS (SELECT FROM noted WHERE noted.item_id = i.id) AS noted
FROM hx_registry.registry_items AS i
WHERE i.tenant_id = :tenant AND i.id = ANY (CAST(:ids AS uuid[])) AND i.deleted_at IS NULL
"""  # noqa: S608 - the names are ours
_FREE = text(_BEAT % "SKIP LOCKED")
_ALL = text(_BEAT % "")


class BeatingItems(ProbedItems):
    """A tenant's services, as they tell of themselves."""

    async def beat(self, beats: Mapping[UUID, Beat]) -> set[UUID]:
        """Note at most :data:`MAX_BEATS` beats; return the ids of the living services among theirs.

        A change of a status is audited. Nobody waits but for those who change services of the same tenant, and for
        these only where a status changes or a row is taken: whoever holds the tenant's lock takes rows in whichever
        order, so none is waited for without it.
        """
        if len(beats) > MAX_BEATS:
            raise InvalidField(f"At most {MAX_BEATS:,} at once, not {len(beats):,}.", param="items")
        async with self._session.begin_nested() as savepoint:
            found = await self._counted(_FREE, beats)
            if all(found.values()):
                return set(found)
            await savepoint.rollback()
        async with self._write():
            await self._trail.lock()
            found = await self._counted(_ALL, beats)
            await self._judge({item_id: beats[item_id] for item_id, noted in found.items() if not noted})
        return set(found)

    async def _counted(self, statement: Any, beats: Mapping[UUID, Beat]) -> dict[UUID, bool]:
        """Note what changes no status; return of which living services it was noted."""
        now = self._trail.now
        rows = [
            {
                "item_id": str(item_id),
                "ttl_until": (now + beat.ttl).isoformat(),
                "status": "none" if beat.status is None else beat.status.value,
                "response_ms": beat.response_time_ms,
            }
            for item_id, beat in beats.items()
        ]
        values = {"rows": json.dumps(rows), "ids": [*beats], "tenant": self._trail.tenant_id, "now": now}
        found = await self._session.execute(statement, {**values, "said_so": SAID_SO})
        return {row.id: row.noted for row in found}

    async def _judge(self, beats: Mapping[UUID, Beat]) -> None:
        items = await self._locked([*beats])
        before, noticed = [self._recorded(item) for item in items], []
        for item in items:
            noticed += _note(item, beats[item.id], self._trail.now)
        await self._finish("updated", list(zip(items, before, strict=True)))
        await self._trail.record(self.kind, noticed)


def _note(item: RegistryItem, beat: Beat, now: datetime) -> list[Recorded]:
    noticed: list[Recorded] = []
    if item.health.by_beats:
        noticed = note_finding(item, _finding(item, beat, now))
    elif beat.status is not None:
        item.update_health_status(beat.status, response_time_ms=beat.response_time_ms, now=now)
    item.last_seen = now if item.last_seen is None else max(item.last_seen, now)
    item.health.ttl_until = now + beat.ttl
    return noticed


def _finding(item: RegistryItem, beat: Beat, now: datetime) -> Finding:
    health = item.health
    claim = Claim(
        tenant_id=item.tenant_id,
        item_id=item.id,
        lease_until=now,
        target=Target.of(item),
        priority=item.priority,
        registered_at=item.created_at,
        status=item.status,
        maintenance_until=health.maintenance_until,
        by_beats=True,
        ttl_until=health.ttl_until,
        last_seen=health.last_seen,
        stale=health.stale,
        standing=standing_of(health),
    )
    outcome = beat.outcome()
    # No grace for what it says itself: it is there.
    judgement = judge(claim.standing, outcome, claim.rules, now=now, registered_at=now - GRACE, frozen=False)
    status = status_after(item.status, claim.standing, judgement.standing, outcome, now=now)
    # As it was where that is sooner: a maintenance may end then.
    due = min(now + beat.ttl, health.next_check_at or now)
    return Finding(
        claim=claim, outcome=outcome, judgement=judgement, at=now, next_check_at=due, status=status, stale=False
    )
