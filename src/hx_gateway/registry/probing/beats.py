"""Signs of life: what services say of themselves, and what their silence says of those that nobody asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hx_gateway.db.models.registry_items import ServiceStatus
from hx_gateway.registry.probing.findings import Claim
from hx_gateway.registry.probing.outcome import FailureClass, ProbeOutcome, Verdict, failed, unasked

MAX_BEATS = 1000
SHORTEST_TTL = timedelta(seconds=5)
LONGEST_TTL = timedelta(days=1)
# For one beat in 30 s: two may be lost.
DEFAULT_TTL = timedelta(seconds=90)
SAID_SO = "its heartbeat said so"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A sign of life of the service ``ref``: the next one comes within ``ttl``.

    ``status`` is ``HEALTHY`` or ``UNHEALTHY``; without one a service that lives by its beats is healthy.
    """

    ref: str
    ttl: timedelta = DEFAULT_TTL
    status: ServiceStatus | None = None
    response_time_ms: float | None = None

    def outcome(self) -> ProbeOutcome:
        """Return what it says of a service that lives by its beats."""
        if self.status is ServiceStatus.UNHEALTHY:
            return ProbeOutcome(verdict=Verdict.FAILED, reason=SAID_SO, response_time_ms=self.response_time_ms)
        return ProbeOutcome(verdict=Verdict.HEALTHY, response_time_ms=self.response_time_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What a service says of itself beside a beat; ``None`` where it says nothing."""

    version: str | None = None
    metadata: Mapping[str, Any] | None = None


def listened(claim: Claim, now: datetime) -> ProbeOutcome:
    """Return what the beats of a service say that lives by them. Silence is a failure once, however long it lasts."""
    ttl_until, standing = claim.ttl_until, claim.standing
    if ttl_until is None:
        # What somebody else found out stays.
        reported = standing.observed is ServiceStatus.UNKNOWN and standing.last_error is not None
        undecided = ProbeOutcome(verdict=Verdict.UNDECIDED, reason=standing.last_error)
        return undecided if reported else unasked("it is not asked, and no heartbeat of it has come yet")
    if now < ttl_until:
        left = (ttl_until - now).total_seconds()
        return ProbeOutcome(verdict=Verdict.BEATING, retry_after_seconds=left)
    if standing.observed is ServiceStatus.UNHEALTHY:
        return ProbeOutcome(verdict=Verdict.UNDECIDED, reason=standing.last_error)
    since = claim.last_seen or ttl_until
    return failed(FailureClass.TIMEOUT, f"no heartbeat since {since:%Y-%m-%dT%H:%M:%SZ}")
