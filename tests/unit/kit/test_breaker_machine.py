"""The circuit breaker against a plain model of it, under whatever order of events hypothesis finds."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import floor, inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
)

from hx_gateway.kit.breaker import Attempt, CircuitBreaker, CircuitOpen

OUTCOMES = ("success", "failure", "cancelled", "closed", "ignored", "ignored failure")
LUCK = st.sampled_from([0.0, 0.25, 0.75])
ERRORS: dict[str, BaseException | None] = {
    "success": None,
    "failure": OSError("refused"),
    "cancelled": asyncio.CancelledError(),
    "closed": GeneratorExit(),
    "ignored": None,
    "ignored failure": ValueError("a bad row"),
}


@dataclass
class Period:
    """From one change (or force, or release) to the next: what happened in it, at which second."""

    state: str
    forced: bool = False
    failures: list[float] = field(default_factory=list)
    successes: int = 0
    ends_at: float = inf
    trial: Ticket | None = None


@dataclass(eq=False)
class Ticket:
    """An attempt in flight, the period in which it began, and the breaker's side of it."""

    period: Period
    guard: AbstractContextManager[Attempt]
    attempt: Attempt


class BreakerMachine(RuleBasedStateMachine):
    """Whole seconds, and lengths of the open period off them: model and breaker never differ by rounding."""

    tickets: Bundle[Ticket] = Bundle("tickets")

    @initialize(
        failures=st.integers(1, 3),
        window=st.integers(1, 90),
        opened=st.integers(1, 6),
        successes=st.integers(1, 3),
        luck=LUCK,
    )
    def build(self, failures: int, window: int, opened: int, successes: int, luck: float) -> None:
        self.now, self.luck = 500.0, luck
        self.failures, self.window, self.open_seconds, self.successes = failures, window, opened * 10, successes
        self.told: list[tuple[str, str]] = []
        self.expected: list[tuple[str, str]] = []
        self.period = Period("closed")
        self.breaker = CircuitBreaker(
            failure_threshold=failures,
            window_seconds=window,
            open_seconds=self.open_seconds,
            success_threshold=successes,
            monotonic=lambda: self.now,
            draw=lambda: self.luck,
        )
        self.breaker.on_transition(lambda old, new: self.told.append((old.value, new.value)))

    def enter(self, state: str, *, forced: bool = False) -> None:
        if state != self.period.state:
            self.expected.append((self.period.state, state))
        self.period = Period(state, forced)
        if state == "open" and not forced:
            self.period.ends_at = self.now + self.open_seconds + self.open_seconds * self.luck / 10

    def look(self) -> None:
        if self.now >= self.period.ends_at:
            self.enter("half_open")

    def recent(self) -> int:
        return sum(1 for second in self.period.failures if second > self.now - self.window)

    @rule(seconds=st.integers(1, 90) | st.just(100_000), luck=LUCK)
    def time_passes(self, seconds: int, luck: float) -> None:
        self.now += seconds
        self.luck = luck

    @rule(target=tickets, count=st.integers(1, 3))
    def several_begin(self, count: int) -> MultipleResults[Ticket]:
        return multiple(*(ticket for ticket in [self.begin() for _ in range(count)] if ticket is not None))

    def begin(self) -> Ticket | None:
        self.look()
        guard = self.breaker.attempt()
        if self.period.state == "open" or self.period.trial is not None:
            with pytest.raises(CircuitOpen) as caught:
                guard.__enter__()
            assert caught.value.retry_after_seconds == self.breaker.retry_after_seconds
            return None
        ticket = Ticket(self.period, guard, guard.__enter__())
        if self.period.state == "half_open":
            self.period.trial = ticket
        return ticket

    @rule(ticket=consumes(tickets), outcome=st.sampled_from(OUTCOMES))
    def finish(self, ticket: Ticket, outcome: str) -> None:
        error = ERRORS[outcome]
        if outcome.startswith("ignored"):
            ticket.attempt.ignore()
        assert not ticket.guard.__exit__(type(error) if error else None, error, None)
        if ticket.period is not self.period:
            return
        self.period.trial = None
        if outcome == "failure" and not self.period.forced:
            self.period.failures.append(self.now)
            if self.period.state == "half_open" or self.recent() == self.failures:
                self.enter("open")
        if outcome == "success" and not self.period.forced and self.period.state == "half_open":
            self.period.successes += 1
            if self.period.successes == self.successes:
                self.enter("closed")

    @rule(outcomes=st.lists(st.sampled_from(("success", "failure", *OUTCOMES)), min_size=1, max_size=4))
    def one_after_another(self, outcomes: list[str]) -> None:
        for outcome in outcomes:
            ticket = self.begin()
            if ticket is not None:
                self.finish(ticket, outcome)

    @rule(early=st.integers(0, 1), share=st.integers(1, 3))
    def failures_age(self, early: int, share: int) -> None:
        """By the whole window or a part of it: some failures leave it, some at that very second."""
        self.now += max(1, self.window // share - early)

    @rule(late=st.integers(0, 1))
    def the_open_period_ends(self, late: int) -> None:
        if self.now < self.period.ends_at < inf:
            self.now = floor(self.period.ends_at) + late

    @rule(action=st.sampled_from(("release", "release", "open", "closed")))
    def by_hand(self, action: str) -> None:
        if action == "release":
            if self.period.forced:
                self.enter("half_open" if self.period.state == "open" else "closed")
            self.breaker.release()
            return
        self.look()
        if not (self.period.forced and self.period.state == action):
            self.enter(action, forced=True)
        self.breaker.force_open() if action == "open" else self.breaker.force_closed()

    @rule()
    def compare(self) -> None:
        """A rule, not an invariant: most changes by the clock are to be met first by something else than a look."""
        self.look()
        period, breaker = self.period, self.breaker
        assert breaker.state.value == period.state
        assert breaker.forced == (period.state if period.forced else None)
        wait = {"open": self.open_seconds if period.forced else period.ends_at - self.now}.get(period.state, 0.0)
        assert breaker.retry_after_seconds == pytest.approx(wait)
        assert self.told == self.expected
        assert breaker.opened_count == sum(new == "open" for _, new in self.expected)
        if period.state == "closed":
            assert (breaker.failure_count, breaker.remaining) == (self.recent(), self.failures - self.recent())
        elif period.state == "half_open":
            assert breaker.remaining == self.successes - period.successes
        else:
            assert breaker.remaining == 0

    def teardown(self) -> None:
        if hasattr(self, "breaker"):
            self.compare()


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(
    max_examples=2 * settings.get_profile("hx").max_examples, stateful_step_count=50, report_multiple_bugs=False
)
