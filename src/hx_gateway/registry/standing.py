"""How services stand: what is found out about them, what somebody decided, and when they were last seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hx_gateway.access.resources import Actor
from hx_gateway.db.models.registry_items import RegistryItem, ServiceStatus
from hx_gateway.errors import Unavailable
from hx_gateway.registry.bulk import ids_of
from hx_gateway.registry.errors import NotProbing
from hx_gateway.registry.merge_patch import merged
from hx_gateway.registry.probing import (
    Beat,
    Described,
    FailureClass,
    HealthPeriod,
    HealthState,
    Level,
    ProbedItems,
    Prober,
    ProbeRepository,
    SeriesMetric,
    series,
    slower_because,
)
from hx_gateway.registry.probing.beat_repository import BeatingItems
from hx_gateway.registry.probing.outcome import redacted
from hx_gateway.registry.probing.prober import target_at
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.references import found, perhaps
from hx_gateway.registry.transactions import Transaction, Transactions

# How long whoever registers a service waits for what is found of it.
FIRST_LOOK_SECONDS = 10.0


class Standing:
    """Named and confined as in :class:`~hx_gateway.registry.catalog.Catalog`; raises what that raises."""

    def __init__(self, transactions: Transactions, prober: Prober | None = None) -> None:
        self._transactions = transactions
        self._prober = prober
        self._probes = ProbeRepository(transactions)

    @property
    def self_preservation(self) -> bool:
        """Whether this process takes the failures it sees for its own."""
        return self._prober is not None and self._prober.self_preservation

    async def health(
        self, actor: Actor, ref: str, *, tenant_id: str | None = None, include_deleted: bool = False
    ) -> HealthState:
        """Return how a service is, and why."""
        async with self._transactions.open(actor, tenant_id, "standing.health") as transaction:
            state = HealthState.of(await found(transaction.items, ref, include_deleted=include_deleted))
            if state.status is not ServiceStatus.HEALTHY:
                return state
            session, tenant = transaction.session, transaction.tenant_id
            reason = await slower_because(session, tenant, state.service_id, transaction.now)
            return replace(state, degraded_reason=reason)

    async def series(
        self,
        actor: Actor,
        metric: SeriesMetric,
        *,
        start: datetime,
        end: datetime,
        step: timedelta,
        tenant_id: str | None = None,
    ) -> dict[str, Any]:
        """Return what probes found of the tenant's services together, in periods of ``step``.

        ``services_at_most`` is how many services it is of at most: of more, some were looked at.
        """
        async with self._transactions.open(actor, tenant_id, "standing.series") as transaction:
            values, most = await series(
                transaction.session, transaction.tenant_id, metric, start=start, end=end, step=step
            )
        items = [{"start": at, "value": value} for at, value in values]
        return {"metric": metric, "services_at_most": most, "items": items}

    async def check(
        self, actor: Actor, ref: str, *, tenant_id: str | None = None, level: Level | None = None
    ) -> HealthState:
        """Probe a service now, on a ``level`` where its probe knows both (:meth:`Prober.check_now`).

        Raises :class:`NotProbing` in a gateway that does not probe, and ``Unavailable`` where too many are asked for.
        """
        if self._prober is None:
            raise NotProbing
        async with self._transactions.open(actor, tenant_id, "standing.check") as transaction:
            item = await found(transaction.items, ref)
        # Before anybody who probes it loses it.
        target_at(level, Target.of(item), by_beats=item.health.by_beats)
        return await self._prober.check_now(transaction.tenant_id, item.id, level)

    async def first_look(self, actor: Actor, item_id: str, *, tenant_id: str | None = None) -> HealthState:
        """Probe a service that was just registered; return how it is after :data:`FIRST_LOOK_SECONDS` at most."""
        try:
            async with asyncio.timeout(FIRST_LOOK_SECONDS):
                return await self.check(actor, item_id, tenant_id=tenant_id)
        except (TimeoutError, Unavailable):
            # The probe goes on, and is written down once it ends; one that had no place is made when it is due.
            return await self.health(actor, item_id, tenant_id=tenant_id)

    async def health_history(
        self, actor: Actor, ref: str, *, start: datetime, end: datetime, step: timedelta, tenant_id: str | None = None
    ) -> list[HealthPeriod]:
        """Return what probes found from ``start`` to before ``end``, in periods of ``step``."""
        async with self._transactions.open(actor, tenant_id, "standing.health_history") as transaction:
            item = await found(transaction.items, ref)
        return await self._probes.history(transaction.tenant_id, item.id, start=start, end=end, step=step)

    async def note_health(
        self,
        actor: Actor,
        ref: str,
        status: ServiceStatus,
        *,
        tenant_id: str | None = None,
        response_time_ms: float | None = None,
        why: tuple[FailureClass | None, str | None] = (None, None),
        checked_at: datetime | None = None,
    ) -> dict[str, Any]:
        """Note what somebody found out about a service, or decided; return it as it is now.

        ``why`` it is ``UNHEALTHY``, as a class and in words, is kept until it is found healthy. What was ``checked_at``
        a time before the last check that is known changes nothing.
        """
        kind, said = why
        noted = None if kind is None else kind.value, None if said is None else redacted(said)
        async with self._transactions.open(actor, tenant_id, "standing.note_health") as transaction:
            items = transaction.items
            item = await found(items, ref)
            if checked_at is not None and item.last_health_check is not None and checked_at < item.last_health_check:
                return item.to_dict()
            return (
                await items.update_health_status(item.id, status, response_time_ms=response_time_ms, why=noted)
            ).to_dict()

    async def enable(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Let a service be used; where it was disabled, nothing is known of it until it is looked at again."""
        return await self._decide(actor, ref, tenant_id, ServiceStatus.UNKNOWN, over=ServiceStatus.DISABLED, use=True)

    async def disable(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Let a service not be used, whatever is found out about it."""
        return await self._decide(actor, ref, tenant_id, ServiceStatus.DISABLED, use=False)

    async def begin_maintenance(
        self, actor: Actor, ref: str, *, until: datetime | None = None, tenant_id: str | None = None
    ) -> dict[str, Any]:
        """Say that somebody works on a service, ``until`` then: what is found out about it meanwhile does not count."""
        async with self._transactions.open(actor, tenant_id, "standing.begin_maintenance") as transaction:
            items = ProbedItems(transaction.session, transaction.trail)
            return (await items.begin_maintenance((await found(items, ref)).id, until)).to_dict()

    async def end_maintenance(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Let count again what is found out; a service that is not in maintenance stays as it is."""
        async with self._transactions.open(actor, tenant_id, "standing.end_maintenance") as transaction:
            items = ProbedItems(transaction.session, transaction.trail)
            return (await items.end_maintenance((await found(items, ref)).id)).to_dict()

    async def heartbeats(self, actor: Actor, beats: Sequence[str | Beat], *, tenant_id: str | None = None) -> list[str]:
        """Note signs of life, at most ``MAX_BEATS``; return the refs among them that no service has.

        Of several of one service the last one counts.
        """
        async with self._transactions.open(actor, tenant_id, "standing.heartbeats") as transaction:
            return await _beaten(transaction, [Beat(ref=beat) if isinstance(beat, str) else beat for beat in beats])

    async def heartbeat(
        self, actor: Actor, beat: Beat, described: Described, *, tenant_id: str | None = None
    ) -> list[str]:
        """Note a sign of life, and what the service says of itself where that is something else than is known."""
        async with self._transactions.open(actor, tenant_id, "standing.heartbeat") as transaction:
            items = transaction.items
            item = await perhaps(items, beat.ref)
            if item is not None and _news(item, described):
                # Somebody may have changed it until nobody else can.
                await items.lock()
                await transaction.session.refresh(item)
                await items.update(item.id, _news(item, described))
            return await _beaten(transaction, [beat])

    async def _decide(
        self,
        actor: Actor,
        ref: str,
        tenant_id: str | None,
        status: ServiceStatus,
        *,
        over: ServiceStatus | None = None,
        use: bool | None = None,
    ) -> dict[str, Any]:
        async with self._transactions.open(actor, tenant_id, "standing.decide") as transaction:
            items = transaction.items
            await items.lock()
            item = await found(items, ref)
            changes: dict[str, Any] = {} if use is None else {"is_enabled": use}
            if over is None or item.status is over:
                changes["status"] = status
            return (await items.update(item.id, changes)).to_dict()


async def _beaten(transaction: Transaction, beats: Sequence[Beat]) -> list[str]:
    refs = [beat.ref for beat in beats]
    ids = await ids_of(transaction.items, refs)
    items = BeatingItems(transaction.session, transaction.trail)
    seen = await items.beat({ids[beat.ref]: beat for beat in beats if beat.ref in ids})
    return [ref for ref in refs if ids.get(ref) not in seen]


def _news(item: RegistryItem, described: Described) -> dict[str, Any]:
    """Return what a service says of itself that is not known yet; of its metadata, members are merged (RFC 7396)."""
    changes: dict[str, Any] = {}
    if described.version is not None and described.version != item.version:
        changes["version"] = described.version
    if described.metadata is not None:
        metadata = merged(item.service_metadata, described.metadata)
        if metadata != item.service_metadata:
            changes["service_metadata"] = metadata
    return changes
