"""Keeps the health of all registered services: takes those that are due, probes them, writes down what it found."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog

from hx_gateway.access.errors import InvalidField
from hx_gateway.db.models.registry_items import ServiceStatus
from hx_gateway.errors import Unavailable
from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks
from hx_gateway.registry.probing.beats import listened
from hx_gateway.registry.probing.check_repository import KEPT
from hx_gateway.registry.probing.findings import Claim, Finding
from hx_gateway.registry.probing.judgement import judge, status_after
from hx_gateway.registry.probing.outcome import Level, ProbeOutcome, Verdict
from hx_gateway.registry.probing.probes import LEAVE_SECONDS, Probes
from hx_gateway.registry.probing.repository import ProbeRepository, by_tenant
from hx_gateway.registry.probing.rules import jittered
from hx_gateway.registry.probing.self_preservation import SelfPreservation
from hx_gateway.registry.probing.sights import is_stale, unseen_from
from hx_gateway.registry.probing.slots import ASKED_CHECKS, CONCURRENCY, PER_HOST, TOOL_LISTS, Slots
from hx_gateway.registry.probing.state import HealthState
from hx_gateway.registry.probing.stdio_probe import StdioCommand
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.probing.tool_lists import ToolLists
from hx_gateway.registry.probing.tool_refresh import ToolRefresh
from hx_gateway.registry.transactions import Transactions
from hx_gateway.services.base import DependencyError
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.telemetry import Metrics

HISTORY = timedelta(days=7)
CLAIMED_AT_ONCE = 50
WRITTEN_AT_ONCE = 200
POLL_SECONDS = 1.0
# Findings that come close together are written together.
GATHER_SECONDS = 0.2
# A service whose host is busy with others is looked at again so much later.
PUT_OFF = timedelta(seconds=1)
PRUNE_SECONDS = 3600.0
# Looked at just after the moment, it is past.
UNSEEN_LATE = timedelta(seconds=1)
LAST_WRITE_SECONDS = 2.0
# A gateway that is told to take failures for its own says that it does not any more, unless it dies before.
LAPSE = timedelta(minutes=5)

_Found = tuple[Claim, ProbeOutcome, datetime]
_log = structlog.get_logger()


class Prober:
    """Probes the services of all tenants, through ``guard`` alone. Any number of processes share the work.

    ``commands`` are the STDIO servers that may be started, by the names that ``config.command`` gives them; the guard's
    caps bound every probe beside a service's own time-out. ``draw`` returns a number from 0 to below 1. Start it once
    the tables are there, or before: then it waits for them. ``tools`` asks those that are well for their tools.

    Failure policy: while the database is away nothing is probed, ``prober_paused`` is logged once, and it is tried
    again ever less often, at least twice a minute. What was found before is kept and written once it is back. A
    process that dies loses its claims within two minutes: others probe its services then.
    """

    def __init__(
        self,
        transactions: Transactions,
        guard: EgressGuard,
        *,
        metrics: Metrics,
        commands: Mapping[str, StdioCommand] | None = None,
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
        concurrency: int = CONCURRENCY,
        per_host: int = PER_HOST,
        preservation: SelfPreservation[tuple[str, UUID]] | None = None,
        history: timedelta = HISTORY,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.repository = ProbeRepository(transactions)
        self._probes = Probes(guard, commands or {})
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._draw = draw
        self._slots = Slots(concurrency=concurrency, per_host=per_host)
        self._asked = Slots(concurrency=ASKED_CHECKS, per_host=per_host)
        self.tools = ToolRefresh(
            transactions,
            ToolLists(guard, commands or {}),
            Slots(concurrency=TOOL_LISTS, per_host=1),
            clock=self._clock,
            count=lambda outcome: metrics.tool_lists.labels(outcome).inc(),
        )
        self._preservation = preservation or SelfPreservation[tuple[str, UUID]]()
        self._history = history
        self._poll_seconds = poll_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._checks: set[asyncio.Task[HealthState]] = set()
        self._found: list[_Found] = []
        self._unwritten: list[Finding] = []
        self._something = asyncio.Event()
        self._paused = False
        self._id = uuid4()
        # Whose services it may have taken for failing by its own fault, and who is to be told how that is now.
        self._concerned: list[str] = []
        self._untold: deque[tuple[str, datetime | None]] = deque()

    @property
    def self_preservation(self) -> bool:
        """Whether this process takes the failures it sees for its own, and lets no service change its state."""
        return self._preservation.raised

    def start(self) -> None:
        """Begin to probe. Needs a running loop; once it was begun nothing happens."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._forever(step)) for step in (self._claim, self._write, self._prune)]

    async def aclose(self) -> None:
        """Stop: probes at work are cut off, what was found is written if that takes no longer than two seconds."""
        tasks, self._tasks = self._tasks, []
        await end_tasks(tasks)
        given_up = list(self._running.values())
        await end_tasks([*self._running, *self._checks])
        try:
            async with asyncio.timeout(LAST_WRITE_SECONDS):
                await self._flush()
                await self.repository.put_off(given_up)
                self._untold.extend((tenant_id, None) for tenant_id in self._concerned)
                await self._tell_preserved()
        except (Unavailable, TimeoutError) as error:
            # The claims lapse, and what was found is found again.
            _log.warning("prober_stopped_early", findings=len(self._unwritten), reason=_reason(error))

    async def check_now(self, tenant_id: str, item_id: UUID, level: Level | None = None) -> HealthState:
        """Probe one service now, due or not, and return how it is then.

        One finding more: it counts as any other does, and changes a state no sooner. One on another ``level`` than the
        service is probed on is told and does not count. Whoever probes the service at the moment loses it. Goes on to
        the end where the caller does not wait. Raises ``NotFound``, ``InvalidField`` for a level that its probe does
        not know, ``Unavailable`` where too many are asked for, and ``DependencyError`` while the database is away.
        """
        if self._asked.room == 0:
            raise _checks_busy()
        claim = await self.repository.claim_one(tenant_id, item_id, self._clock.now())
        try:
            target = target_at(level, claim.target, by_beats=claim.by_beats)
            if not claim.by_beats:
                self._take_place(target.host, tenant_id)
        except (InvalidField, Unavailable):
            await self.repository.put_off([claim])
            raise
        task = asyncio.create_task(self._check(claim) if target == claim.target else self._look(claim, target))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)
        return await asyncio.shield(task)

    def _take_place(self, host: str, tenant_id: str) -> None:
        """Take a place among the checks that are asked for, however many those are: probes have others."""
        if not self._asked.has_room(host, tenant_id):
            raise _checks_busy()
        self._asked.take(host, tenant_id)

    # Claiming

    async def _claim(self) -> None:
        """Take what is due, as much as there is room for, and begin to probe it."""
        room = min(self._slots.room, CLAIMED_AT_ONCE)
        claims = await self.repository.claim(self._clock.now(), room) if room else []
        self._back()
        self._preserve()
        begun, busy = 0, []
        for claim in claims:
            if claim.by_beats:
                self._find(claim, listened(claim, self._clock.now()))
                begun += 1
                continue
            if self._slots.full(claim.target.host):
                busy.append(claim)
                continue
            self._begin(claim)
            begun += 1
        await self.repository.put_off(busy, self._clock.now() + PUT_OFF * (1 + self._draw()))
        await self._tell_preserved()
        idle = room > 0 and begun == 0
        await self._clock.sleep(jittered(self._poll_seconds if idle else GATHER_SECONDS, self._draw))

    def _begin(self, claim: Claim) -> None:
        self._slots.take(claim.target.host, claim.tenant_id)
        task = asyncio.create_task(self._probe_claim(claim))
        self._running[task] = claim
        task.add_done_callback(lambda done: self._running.pop(done, None))

    async def _probe_claim(self, claim: Claim) -> None:
        outcome = await self._probe(claim)
        if outcome is not None:
            self._find(claim, outcome)
            await self.tools.after_probe(claim, outcome)

    def _find(self, claim: Claim, outcome: ProbeOutcome) -> None:
        self._found.append((claim, outcome, self._clock.now()))
        self._something.set()

    async def _check(self, claim: Claim) -> HealthState:
        outcome = await self._probe(claim, self._asked)
        if outcome is not None:
            await self._write_all(self._judged([(claim, outcome, self._clock.now())]))
        return await self.repository.state(claim.tenant_id, claim.item_id)

    async def _look(self, claim: Claim, target: Target) -> HealthState:
        """Probe a service at another target than usual, and tell what was found without counting it."""
        outcome = await self._probe(replace(claim, target=target), self._asked)
        await self.repository.put_off([claim])
        state = await self.repository.state(claim.tenant_id, claim.item_id)
        if outcome is None:
            return state
        return replace(
            state,
            failure_class=outcome.failure_class,
            last_error=outcome.reason,
            auth_required=outcome.auth_required,
            level=outcome.level,
            response_time_ms=outcome.response_time_ms,
        )

    async def _probe(self, claim: Claim, slots: Slots | None = None) -> ProbeOutcome | None:
        """Probe once there is a turn, with a place in ``slots``, the probes' own unless it is given.

        ``None`` where the claim would lapse before the probe could end.
        """
        if claim.by_beats:
            return listened(claim, self._clock.now())
        host, rules, slots = claim.target.host, claim.rules, slots or self._slots
        try:
            async with slots.turn(host):
                latest = self._clock.now() + timedelta(seconds=rules.ready_seconds + LEAVE_SECONDS)
                if latest > claim.lease_until:
                    return None
                began = self._clock.monotonic()
                outcome = await self._probes.probe(claim.target, rules)
                self._count(claim, outcome, self._clock.monotonic() - began)
                return outcome
        finally:
            slots.give_back(host, claim.tenant_id)

    def _count(self, claim: Claim, outcome: ProbeOutcome, seconds: float) -> None:
        protocol = claim.target.protocol.value
        self._metrics.probe_seconds.labels(protocol, outcome.verdict.value).observe(seconds)
        if outcome.failure_class is not None:
            self._metrics.probe_failures.labels(outcome.failure_class.value).inc()

    # Judging

    def _judged(self, found: Sequence[_Found]) -> list[Finding]:
        """Judge findings that came together: all of them are looked at before any changes a state."""
        now = self._clock.monotonic()
        for claim, outcome, _ in found:
            if claim.standing.observed is not ServiceStatus.HEALTHY or outcome.verdict is Verdict.UNASKED:
                self._preservation.forget(claim.key)
            elif outcome.verdict is not Verdict.UNDECIDED:
                failing = outcome.verdict is Verdict.FAILED
                self._preservation.note(claim.key, failed=failing, now=now, interval=claim.rules.interval)
        self._preserve()
        return [self._finding(claim, outcome, at) for claim, outcome, at in found]

    def _finding(self, claim: Claim, outcome: ProbeOutcome, at: datetime) -> Finding:
        judgement = judge(
            claim.standing,
            outcome,
            claim.rules,
            now=at,
            registered_at=claim.registered_at,
            frozen=self._preservation.raised,
        )
        until = claim.maintenance_until
        status = status_after(
            claim.status, claim.standing, judgement.standing, outcome, now=at, maintenance_until=until
        )
        seconds = judgement.next_in_seconds
        # Beats are overdue at a time that is known, and no host is asked then.
        exact = outcome.verdict is Verdict.BEATING
        due = at + timedelta(seconds=seconds if exact else jittered(seconds, self._draw))
        if until is not None and until > at:
            due = min(due, until)
        last_seen = at if outcome.verdict is Verdict.HEALTHY else claim.last_seen
        unseen = unseen_from(last_seen, claim.rules, claim.ttl_until)
        stale = is_stale(unseen, now=at, was=claim.stale, frozen=self._preservation.raised)
        told = claim.by_beats or outcome.verdict is Verdict.UNASKED
        if told and unseen is not None and unseen > at:
            # Nothing else makes anybody look at one that only tells of itself.
            due = min(due, unseen + UNSEEN_LATE)
        self._tell(claim, judgement.began_flapping, judgement.ended_flapping)
        return Finding(
            claim=claim, outcome=outcome, judgement=judgement, at=at, next_check_at=due, status=status, stale=stale
        )

    @staticmethod
    def _tell(claim: Claim, began_flapping: bool, ended_flapping: bool) -> None:
        service = {"tenant": claim.tenant_id, "service_id": str(claim.item_id)}
        if began_flapping:
            _log.warning("service_flapping", **service)
        if ended_flapping:
            _log.info("service_steady", **service)

    def _preserve(self) -> None:
        """Raise or lower the guard, and tell it once each time."""
        if not self._preservation.update(self._clock.monotonic()):
            return
        failing, looked_at = self._preservation.figures()
        raised = self._preservation.raised
        self._metrics.self_preservation.set(int(raised))
        if raised:
            _log.error("self_preservation_raised", failing=failing, healthy_before=looked_at)
            self._concerned = sorted({tenant_id for tenant_id, _ in self._preservation.services()})
        else:
            _log.warning("self_preservation_lowered", failing=failing, healthy_before=looked_at)
        held = timedelta(seconds=self._preservation.longest_hold)
        until = self._clock.now() + held + LAPSE if raised else None
        self._untold.extend((tenant_id, until) for tenant_id in self._concerned)
        if not raised:
            self._concerned = []

    async def _tell_preserved(self) -> None:
        """Tell the tenants concerned, in the order that it came about; what could not be told is told later."""
        while self._untold:
            tenant_id, until = self._untold[0]
            await self.repository.preserve(tenant_id, self._id, until, self._clock.now())
            self._untold.popleft()

    # Writing

    async def _write(self) -> None:
        if not self._unwritten:
            await self._something.wait()
            await self._clock.sleep(GATHER_SECONDS)
        await self._flush()
        self._back()

    async def _flush(self) -> None:
        """Write all that was found; what could not be written stays, unless somebody else has its service by now."""
        self._something.clear()
        found, self._found = self._found, []
        self._unwritten += self._judged(found)
        now = self._clock.now()
        self._unwritten = [finding for finding in self._unwritten if finding.claim.lease_until > now]
        while self._unwritten:
            some, self._unwritten = self._unwritten[:WRITTEN_AT_ONCE], self._unwritten[WRITTEN_AT_ONCE:]
            try:
                await self._write_all(some)
            except (Unavailable, asyncio.CancelledError):
                # Anything else would be wrong again: then the claims lapse, and the services are probed anew.
                self._unwritten = [*some, *self._unwritten]
                raise

    async def _write_all(self, findings: Sequence[Finding]) -> None:
        """Write findings. What was written before a failure is not written again: its claim has ended."""
        plain = [finding for finding in findings if not finding.is_told]
        if plain:
            await self.repository.write_plain(plain)
        for tenant_id, changes in by_tenant(finding for finding in findings if finding.is_told):
            for finding in await self.repository.write_changes(tenant_id, changes):
                if not finding.changes_status:
                    continue
                _log.info(
                    "service_status_changed",
                    tenant=tenant_id,
                    service_id=str(finding.claim.item_id),
                    old=finding.claim.status.value,
                    new=finding.status.value,
                    failure_class=finding.outcome.failure_class,
                )

    async def _prune(self) -> None:
        await self.repository.prune(self._clock.now() - self._history)
        await self.repository.forget_checks(self._clock.now() - KEPT)
        await self.repository.lapse(self._clock.now())
        await self._clock.sleep(jittered(PRUNE_SECONDS, self._draw))

    # How

    async def _forever(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do a step again and again, and wait ever longer while the database is away."""
        waits = Backoff(first=0.5, most=30.0, draw=self._draw)
        while True:
            try:
                await step()
                waits.reset()
                continue
            except Unavailable as error:
                self._away(error)
            except Exception:  # noqa: BLE001 - whatever it is, services are to be probed on
                _log.exception("prober_failed")
            await self._clock.sleep(waits.next())

    def _away(self, error: Unavailable) -> None:
        if not self._paused:
            self._paused = True
            _log.warning("prober_paused", reason=_reason(error))

    def _back(self) -> None:
        if self._paused:
            self._paused = False
            _log.info("prober_resumed")


def target_at(level: Level | None, target: Target, *, by_beats: bool) -> Target:
    """Return what is asked for a look on a level, the usual one for ``None``.

    Raises ``InvalidField`` for a level that the probe of such a target does not know.
    """
    found = target if level is None else target.at(level)
    if found is None or (level is not None and by_beats):
        raise InvalidField("level: its probe knows one level only, leave it out.", param="level")
    return found


def _checks_busy() -> Unavailable:
    return Unavailable("Too many services are probed just now because somebody asked.", code="checks_busy")


def _reason(error: Exception) -> str:
    return error.kind.value if isinstance(error, DependencyError) else type(error).__name__
