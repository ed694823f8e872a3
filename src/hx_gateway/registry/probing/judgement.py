"""What a finding means for a service: a state machine of what is observed, without any I/O.

A human's decision (``MAINTENANCE``, ``DISABLED``) is no state of it: :func:`status_after` puts the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from hx_gateway.db.models.registry_items import ServiceStatus
from hx_gateway.registry.probing.outcome import FailureClass, Level, ProbeOutcome, Verdict
from hx_gateway.registry.probing.rules import Rules

GRACE = timedelta(seconds=60)
# Within its grace a service is asked often: it is about to be there.
GRACE_INTERVAL_SECONDS = 10.0
FLAP_WINDOW = timedelta(minutes=10)
FLAP_TRANSITIONS = 4
FLAP_SUCCESSES = 5
FLAP_FAILURE_FACTOR = 2

_UNKNOWN, _HEALTHY, _UNHEALTHY = ServiceStatus.UNKNOWN, ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY
_DECIDED = frozenset({ServiceStatus.MAINTENANCE, ServiceStatus.DISABLED})


class AdminState(Enum):
    """What somebody decided about a service; ``ACTIVE`` where nobody did."""

    ACTIVE = "active"
    MAINTENANCE = "maintenance"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is observed of a service so far. ``observed`` is ``UNKNOWN``, ``HEALTHY`` or ``UNHEALTHY``.

    ``transitions`` are when it went from healthy to unhealthy or back within the last ten minutes, oldest first. The
    last four are of the last finding, and stay where a probe finds nothing new.
    """

    observed: ServiceStatus = _UNKNOWN
    consecutive_failures: int = 0
    consecutive_successes: int = 0
    flapping: bool = False
    transitions: tuple[datetime, ...] = ()
    failure_class: FailureClass | None = None
    last_error: str | None = None
    auth_required: bool = False
    level: Level | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is observed now, and how many seconds until the next look, before jitter.

    ``began_flapping`` and ``ended_flapping`` are true once each time. ``held_back``: a transition was due, and the
    freeze kept it.
    """

    standing: Standing
    next_in_seconds: float
    began_flapping: bool = False
    ended_flapping: bool = False
    held_back: bool = False


def judge(
    standing: Standing, outcome: ProbeOutcome, rules: Rules, *, now: datetime, registered_at: datetime, frozen: bool
) -> Judgement:
    """Return what ``outcome`` makes of ``standing``. While ``frozen`` all is counted and nothing changes its state."""
    match outcome.verdict:
        case Verdict.HEALTHY:
            counted = _counted_success(standing, outcome)
        case Verdict.FAILED:
            counted = _counted_failure(standing, outcome)
        case Verdict.UNDECIDED:
            return Judgement(
                standing=replace(standing, last_error=outcome.reason),
                next_in_seconds=max(outcome.retry_after_seconds or 0.0, 2 * rules.interval),
            )
        case Verdict.BEATING:
            return Judgement(standing=standing, next_in_seconds=outcome.retry_after_seconds or rules.interval)
        case Verdict.UNASKED:
            return Judgement(standing=Standing(last_error=outcome.reason), next_in_seconds=rules.slowest)
    wanted = _wanted(counted, rules, in_grace=now < registered_at + GRACE)
    held_back = frozen and wanted is not counted.observed
    settled = counted if held_back else _moved(counted, wanted, now)
    steady = settled.consecutive_successes >= max(FLAP_SUCCESSES, rules.successes)
    ended = standing.flapping and steady and not held_back
    if ended:
        settled = replace(settled, flapping=False, transitions=())
    return Judgement(
        standing=settled,
        next_in_seconds=_next_in(settled, outcome, rules, in_grace=now < registered_at + GRACE),
        began_flapping=settled.flapping and not standing.flapping,
        ended_flapping=ended,
        held_back=held_back,
    )


def admin_state(status: ServiceStatus) -> AdminState:
    """Return the decision that a status is; ``ACTIVE`` for one that was found out."""
    return AdminState(status.value) if status in _DECIDED else AdminState.ACTIVE


def status_after(
    status: ServiceStatus,
    before: Standing,
    after: Standing,
    outcome: ProbeOutcome,
    *,
    now: datetime,
    maintenance_until: datetime | None = None,
) -> ServiceStatus:
    """Return the status that counts after a finding, where ``status`` counted before.

    A decision stays, but for a maintenance whose time is over: then what was observed all along counts. Where others
    noted a status too, what is observed takes over when it changes, and when a finding confirms it.
    """
    if status is ServiceStatus.MAINTENANCE and maintenance_until is not None and maintenance_until <= now:
        return after.observed
    if status in _DECIDED:
        return status
    confirms = {Verdict.HEALTHY: _HEALTHY, Verdict.FAILED: _UNHEALTHY}.get(outcome.verdict)
    return after.observed if after.observed is not before.observed or after.observed is confirms else status


def _counted_success(standing: Standing, outcome: ProbeOutcome) -> Standing:
    return replace(
        standing,
        consecutive_failures=0,
        consecutive_successes=standing.consecutive_successes + 1,
        failure_class=None,
        last_error=None,
        auth_required=outcome.auth_required,
        level=outcome.level,
    )


def _counted_failure(standing: Standing, outcome: ProbeOutcome) -> Standing:
    return replace(
        standing,
        consecutive_failures=standing.consecutive_failures + 1,
        consecutive_successes=0,
        failure_class=outcome.failure_class,
        last_error=outcome.reason,
        auth_required=False,
        level=outcome.level,
    )


def _wanted(counted: Standing, rules: Rules, *, in_grace: bool) -> ServiceStatus:
    """Return what the counts say that it is, thresholds both ways; a flapping one has higher ones."""
    successes, failures = rules.successes, rules.failures
    if counted.flapping:
        successes, failures = max(FLAP_SUCCESSES, successes), failures * FLAP_FAILURE_FACTOR
    elif counted.observed is _UNKNOWN:
        successes = 1
    if counted.consecutive_successes >= successes:
        return _HEALTHY
    if counted.consecutive_failures >= failures and not (in_grace and counted.observed is _UNKNOWN):
        return _UNHEALTHY
    return counted.observed


def _moved(counted: Standing, wanted: ServiceStatus, now: datetime) -> Standing:
    """Return the standing in the state that is wanted, with the transition noted where that is another one."""
    recent = tuple(at for at in counted.transitions if at > now - FLAP_WINDOW)
    if wanted is counted.observed:
        return counted if recent == counted.transitions else replace(counted, transitions=recent)
    if counted.observed is not _UNKNOWN:
        # What is found out for the first time is no change to and fro.
        recent = (*recent, now)[-FLAP_TRANSITIONS:]
    flapping = counted.flapping or len(recent) >= FLAP_TRANSITIONS
    return replace(counted, observed=wanted, transitions=recent, flapping=flapping)


def _next_in(settled: Standing, outcome: ProbeOutcome, rules: Rules, *, in_grace: bool) -> float:
    if settled.observed is _UNHEALTHY and not outcome.ok:
        return rules.unhealthy_interval(max(0, settled.consecutive_failures - rules.failures))
    if settled.observed is _UNKNOWN and in_grace:
        return min(rules.interval, GRACE_INTERVAL_SECONDS)
    return rules.interval
