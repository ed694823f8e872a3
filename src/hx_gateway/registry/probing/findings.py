"""A service that a prober has taken, and what it found out about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from hx_gateway.db.models.registry_items import ServicePriority, ServiceStatus
from hx_gateway.registry.probing.judgement import Judgement, Standing
from hx_gateway.registry.probing.outcome import ProbeOutcome, Verdict
from hx_gateway.registry.probing.rules import Rules, rules_for
from hx_gateway.registry.probing.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A service as it was when a prober took it, to have it until ``lease_until``, which no other claim of it has.

    ``by_beats``: nothing but its heartbeats says how it is; the next is due at ``ttl_until`` at the latest.
    ``tools_asked_at`` is when it was asked for its tools last.
    """

    tenant_id: str
    item_id: UUID
    lease_until: datetime
    target: Target
    priority: ServicePriority
    registered_at: datetime
    status: ServiceStatus
    maintenance_until: datetime | None
    last_seen: datetime | None
    stale: bool
    standing: Standing
    by_beats: bool = False
    ttl_until: datetime | None = None
    tools_asked_at: datetime | None = None

    @property
    def key(self) -> tuple[str, UUID]:
        """What tells it from other services."""
        return self.tenant_id, self.item_id

    @property
    def rules(self) -> Rules:
        """How it is probed."""
        return rules_for(self.priority, self.target.protocol, self.target.health, by_beats=self.by_beats)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is to be written of a probe that ended ``at``.

    ``status`` is what counts, and ``stale`` whether it is not seen any more, as far as the claim knows.
    """

    claim: Claim
    outcome: ProbeOutcome
    judgement: Judgement
    at: datetime
    next_check_at: datetime
    status: ServiceStatus
    stale: bool

    @property
    def successes(self) -> int:
        """1 where it was found to be well."""
        return int(self.outcome.verdict is Verdict.HEALTHY)

    @property
    def failures(self) -> int:
        """1 where it was found not to be."""
        return int(self.outcome.verdict is Verdict.FAILED)

    @property
    def changes_status(self) -> bool:
        """Whether it is more than a row of counters."""
        return self.status is not self.claim.status

    @property
    def is_told(self) -> bool:
        """Whether there is something in it that those are told who follow the registry."""
        flaps = self.judgement.standing.flapping is not self.claim.standing.flapping
        return self.changes_status or flaps or self.stale is not self.claim.stale
