"""In which epoch this worker admits money, who counts in it, and when a new one must begin.

Money fails closed: what nobody can count exactly is not admitted. An epoch ends for a worker the moment it hears of
the next; it says so to the others only when all that it admitted is in the database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from hx_gateway.kit.clock import Clock
from hx_gateway.limits.clock import AuthorityClock
from hx_gateway.limits.durable import SILENT_SECONDS, Authority, DurableLedger, EpochState
from hx_gateway.limits.refusals import BudgetUnknown
from hx_gateway.services.base import DependencyError

# As many as a worker may have connections that died while they were idle, and one more.
LEAVE_ATTEMPTS = 6
# Whoever touches this first in an epoch of ``Authority.PROCESS`` is the process; no tenant has such a name.
PROCESS_CLAIM = "(process)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityOptions:
    """Seconds. ``lost``: for how long Redis is away before PostgreSQL takes over; ``found``: for how long it is back
    before it counts again, doubled up to ``most_found`` each time that it did not last ``calm``. ``patience``: how
    long a call waits for an epoch to be agreed on.
    """

    beat: float = 1.0
    tick: float = 0.25
    lost: float = 1.0
    found: float = 2.0
    most_found: float = 60.0
    calm: float = 60.0
    patience: float = 2.0
    patience_tick: float = 0.05
    orphans: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Term:
    """An epoch that this worker may admit money in; two are the same only if they are one object.

    ``since_us`` is when this worker knew that everybody was in it, by the clock of who counts.
    """

    epoch: int
    authority: Authority
    since_us: int


class TermOver(BudgetUnknown):
    """The term in which something was about to be counted is over: the next one may do it."""


class AuthorityKeeper:
    """Keeps this worker in step with the others: :meth:`run` and :meth:`pulse` go on for ever beside each other.

    ``shared_healthy`` tells of Redis, ``None`` where there is none. ``drained`` returns whether every record that was
    written to the journal before the call is applied. ``on_epoch`` is called with each new epoch that this worker has
    acknowledged.
    """

    def __init__(
        self,
        ledger: DurableLedger | None,
        stream_id: UUID,
        *,
        drained: Callable[[], Awaitable[bool]],
        clock: Clock,
        authority_clock: AuthorityClock,
        shared_healthy: Callable[[], bool] | None = None,
        on_epoch: Callable[[EpochState], None] | None = None,
        options: AuthorityOptions | None = None,
    ) -> None:
        self.stream_id = stream_id
        self.turned = 0
        self.heading: Authority | None = None
        self.heading_epoch = 0
        self._ledger = ledger
        self._drained = drained
        self._clock = clock
        self._authority_clock = authority_clock
        self._health = _Health(shared_healthy, clock, options or AuthorityOptions())
        self._on_epoch = on_epoch
        self._options = options or AuthorityOptions()
        self._term: Term | None = None
        self._acknowledged = 0
        self._joined = self._began = False
        self._claimed = self._claim_tried = 0
        self._doubted = 0
        self._pulse_at = clock.monotonic()
        self._asleep = False
        self._log = structlog.get_logger()
        if ledger is None:
            self.heading, self.heading_epoch = Authority.PROCESS, 1
            self._term = Term(epoch=1, authority=Authority.PROCESS, since_us=0)

    @property
    def term(self) -> Term | None:
        """The epoch in which money may be admitted now; ``None`` where there is none.

        Not to be trusted over an ``await``: compare once more.
        """
        if self._ledger is not None and self._clock.monotonic() - self._pulse_at > SILENT_SECONDS:
            # This process stood still for so long that the others may have gone on without it.
            self._asleep = True
        return None if self._asleep else self._term

    async def ready(self) -> Term:
        """Return the term, for which a call waits a little. Raises :class:`BudgetUnknown`."""
        until = self._clock.monotonic() + self._options.patience
        while (term := self.term) is None:
            if self._clock.monotonic() >= until:
                raise BudgetUnknown
            await self._clock.sleep(self._options.patience_tick)
        return term

    def doubt(self, epoch: int) -> None:
        """What is counted in ``epoch`` is not to be trusted any more: let another begin, with what is on record."""
        if self._ledger is None:
            return
        self._doubted = max(self._doubted, epoch)
        if self._term is not None and self._term.epoch <= epoch:
            self._end()

    async def run(self) -> None:
        """Beat, look and turn for ever; a database that is away is waited for."""
        if self._ledger is None:
            return
        heard_at = orphans_at = self._clock.monotonic() - self._options.orphans
        while True:
            now = self._clock.monotonic()
            try:
                if self._urgent or now - heard_at >= self._options.beat:
                    heard_at = now
                    await self.step()
                if self._joined and now - orphans_at >= self._options.orphans:
                    orphans_at = now
                    await self._ledger.settle_orphans()
            except DependencyError as error:
                self._log.debug("ledger_unreachable", dependency=error.dependency, reason=str(error.kind))
            await self._clock.sleep(self._options.tick)

    async def pulse(self) -> None:
        """Notice for ever when this process stood still."""
        while True:
            now = self._clock.monotonic()
            if now - self._pulse_at > SILENT_SECONDS:
                self._asleep = True
            self._pulse_at = now
            await self._clock.sleep(self._options.beat)

    async def step(self) -> None:
        """Hear where things stand and do what that asks for, once. Raises ``DependencyError``."""
        assert self._ledger is not None
        asked_at = self._clock.monotonic()
        if not self._joined:
            state = await self._ledger.join(self.stream_id)
            # An earlier attempt may have been done, in an earlier epoch: this one is acknowledged like any other.
            self._joined, self._acknowledged = True, 0
        else:
            state = await self._ledger.beat(self.stream_id)
        # An answer to what was asked before this process stood still may be as old.
        self._asleep = self._clock.monotonic() - asked_at > SILENT_SECONDS
        self._hear(state)
        wanted = await self._wanted(state)
        if wanted is not None:
            self._log.info("budget_authority_turns", epoch=state.epoch, authority=str(state.authority), to=str(wanted))
            self.turned += 1
            # Before it is asked for: the answer may be lost, and the others not wait for this worker to notice.
            self._end()
            state = await self._ledger.turn(state.epoch, wanted)
            self._began = True
            self._hear(state)
        if self._acknowledged < state.epoch:
            state = await self._acknowledge(state)
        self._take_up(state)

    async def leave(self) -> None:
        """Admit nothing more and take leave of the others, if all is on record; else they look after what is left."""
        self._end()
        if self._ledger is None or not self._joined:
            return
        for _ in range(LEAVE_ATTEMPTS):
            try:
                if await self._drained():
                    await self._ledger.leave(self.stream_id)
                return
            except DependencyError:
                # A connection that died while nobody used it is found out only now: the next one may be alive.
                continue
        self._log.info("ledger_left_without_notice")

    @property
    def _urgent(self) -> bool:
        self._health.look()
        return self._term is None or self._asleep or self._doubted > 0 or self._health.disagrees(self.heading)

    def _end(self) -> None:
        self._term = None

    def _hear(self, state: EpochState) -> None:
        self.heading, self.heading_epoch = state.authority, state.epoch
        if self._term is not None and self._term.epoch != state.epoch:
            self._end()
        self._health.counts(state.authority is Authority.REDIS)

    async def _wanted(self, state: EpochState) -> Authority | None:
        """Return whose epoch should begin, ``None`` where the current one is as it should be."""
        doubted = self._doubted >= state.epoch and state.authority is Authority.REDIS
        if not doubted:
            self._doubted = 0
        self._health.look()
        if not self._health.known:
            return await self._wanted_alone(state)
        if state.authority is Authority.REDIS:
            if self._health.lost or (doubted and not self._health.healthy):
                return Authority.POSTGRES
            return Authority.REDIS if doubted else None
        if state.authority is Authority.PROCESS:
            return Authority.REDIS if self._health.healthy else Authority.POSTGRES
        return Authority.REDIS if self._health.found else None

    async def _wanted_alone(self, state: EpochState) -> Authority | None:
        """Without Redis: the first to say so is the process that counts; two of them leave it to PostgreSQL."""
        assert self._ledger is not None
        if not self._began:
            return Authority.PROCESS
        if state.authority is not Authority.PROCESS or self._claimed == state.epoch:
            return None
        if self._claim_tried == state.epoch:
            # It was asked for, and the answer lost: it may be ours or another's.
            return Authority.PROCESS
        self._claim_tried = state.epoch
        if await self._ledger.touch_tenant(PROCESS_CLAIM, state.epoch):
            self._claimed = state.epoch
            return None
        return Authority.POSTGRES

    async def _acknowledge(self, state: EpochState) -> EpochState:
        assert self._ledger is not None
        self._end()
        if not await self._drained():
            return state
        answer = await self._ledger.acknowledge(self.stream_id, state.epoch)
        self._acknowledged = state.epoch
        if self._on_epoch is not None:
            self._on_epoch(state)
        self._hear(answer)
        return answer

    def _take_up(self, state: EpochState) -> None:
        if self._term is not None or not state.acknowledged or self._acknowledged != state.epoch:
            return
        if not self._health.known and (
            state.authority is Authority.REDIS
            or (state.authority is Authority.PROCESS and self._claimed != state.epoch)
        ):
            return
        self._term = Term(epoch=state.epoch, authority=state.authority, since_us=self._authority_clock.now_us())
        self._log.info("budget_authority", epoch=state.epoch, authority=str(state.authority))


class _Health:
    """For how long Redis has been as it is, and how soon to believe that it is back."""

    def __init__(self, healthy: Callable[[], bool] | None, clock: Clock, options: AuthorityOptions) -> None:
        self.healthy = False
        self._ask = healthy
        self._clock = clock
        self._options = options
        self._since = clock.monotonic()
        self._wait = options.found
        self._counts_since: float | None = None

    @property
    def known(self) -> bool:
        """Whether there is a Redis at all."""
        return self._ask is not None

    @property
    def lost(self) -> bool:
        """Whether it has been away for long enough."""
        return not self.healthy and self._lasted > self._options.lost

    @property
    def found(self) -> bool:
        """Whether it has been there for long enough."""
        return self.healthy and self._lasted > self._wait

    def look(self) -> None:
        """Note how it is now."""
        healthy = self._ask is not None and self._ask()
        if healthy is not self.healthy:
            self.healthy, self._since = healthy, self._clock.monotonic()

    def disagrees(self, heading: Authority | None) -> bool:
        """Return whether somebody else should count."""
        return self.known and (
            (heading is Authority.REDIS and self.lost) or (heading is Authority.POSTGRES and self.found)
        )

    def counts(self, now_counts: bool) -> None:
        """Note whether it counts: one that did not last is believed later the next time."""
        now = self._clock.monotonic()
        if now_counts and self._counts_since is None:
            self._counts_since = now
        elif not now_counts and self._counts_since is not None:
            lasted, self._counts_since = now - self._counts_since, None
            calm = lasted >= self._options.calm
            self._wait = self._options.found if calm else min(self._options.most_found, 2 * self._wait)

    @property
    def _lasted(self) -> float:
        return self._clock.monotonic() - self._since
