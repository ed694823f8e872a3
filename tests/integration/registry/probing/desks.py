"""Who asks how services are: the parts of a gateway over one database, at a time that a test sets."""

from __future__ import annotations

from datetime import datetime, timedelta

from hx_gateway.access.principal import KeyId, Principal, TenantId
from hx_gateway.access.resources import Actor
from hx_gateway.registry.probing import Beat, HealthState, Prober
from hx_gateway.registry.probing.findings import Claim
from hx_gateway.registry.probing.outcome import ProbeOutcome
from hx_gateway.registry.standing import Standing
from hx_gateway.registry.transactions import Transactions
from hx_gateway.telemetry import Metrics
from tests.integration.registry.probing.fields import AUDIT_KEY, FastClock, way_out
from tests.integration.registry.registries import Registry, SetClock


def member_of(tenant: str) -> Actor:
    key = Principal(key_id=KeyId("key-ann"), tenant_id=TenantId(tenant), scopes=frozenset())
    return Actor(principal=key, request_id="req_test", client="192.0.2.1")


class Desk:
    """A tenant's services and what they say of themselves, at a time that the test sets or that runs fast."""

    def __init__(self, registry: Registry, clock: SetClock | FastClock | None = None) -> None:
        self.registry = registry
        self.clock = clock or SetClock()
        self.transactions = Transactions(registry.database, audit_key=AUDIT_KEY, clock=self.clock)
        self.standing = Standing(self.transactions)
        self.prober = Prober(self.transactions, way_out(), metrics=Metrics(), clock=self.clock)
        self.actor = member_of(registry.tenant)

    async def beat(self, *beats: str | Beat) -> list[str]:
        return await self.standing.heartbeats(self.actor, beats)

    async def health(self, ref: str) -> HealthState:
        return await self.standing.health(self.actor, ref)

    async def look(self) -> int:
        """Look at what is due, as the prober does; return how many that were."""
        claims = await self.prober.repository.claim(self.clock.now(), 50)
        for claim in claims:
            await self.prober._write_all(self.prober._judged([await self.found(claim)]))
        return len(claims)

    async def found(self, claim: Claim) -> tuple[Claim, ProbeOutcome, datetime]:
        """Look at a service that was claimed."""
        if not claim.by_beats:
            self.prober._slots.take(claim.target.host, claim.tenant_id)
        outcome = await self.prober._probe(claim)
        assert outcome is not None
        return claim, outcome, self.clock.now()


def pass_by(desk: Desk, seconds: float) -> None:
    assert isinstance(desk.clock, SetClock)
    desk.clock.time += timedelta(seconds=seconds)
