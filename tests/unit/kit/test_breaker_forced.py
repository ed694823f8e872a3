"""Who moves the circuit breaker by hand, and who is told when it moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hx_gateway.kit.breaker import CircuitBreaker, CircuitOpen, CircuitState
from tests.unit.kit.circuits import CLOSED, HALF_OPEN, OPEN, Ticks, begin, end, fail, half_open, succeed, transitions


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def breaker(ticks: Ticks) -> CircuitBreaker:
    return CircuitBreaker(monotonic=ticks, draw=lambda: 0.0)


# Forced states


def test_forced_open_refuses_whatever_the_clock_says(breaker: CircuitBreaker, ticks: Ticks) -> None:
    breaker.force_open()
    ticks.advance(10_000_000)
    assert (breaker.state, breaker.forced, breaker.opened_count) == (OPEN, OPEN, 1)
    with pytest.raises(CircuitOpen) as caught:
        succeed(breaker)
    assert caught.value.retry_after_seconds == 60.0


def test_forced_closed_lets_through_and_counts_nothing(breaker: CircuitBreaker) -> None:
    fail(breaker, 5)
    breaker.force_closed()
    fail(breaker, 20)
    assert (breaker.state, breaker.forced, breaker.failure_count) == (CLOSED, CLOSED, 0)


def test_released_from_open_it_is_half_open(breaker: CircuitBreaker) -> None:
    breaker.force_open()
    breaker.release()
    assert (breaker.state, breaker.forced) == (HALF_OPEN, None)
    succeed(breaker, 3)
    assert breaker.state is CLOSED


def test_released_from_closed_it_is_closed_and_counts_again(breaker: CircuitBreaker) -> None:
    breaker.force_closed()
    fail(breaker, 20)
    breaker.release()
    assert (breaker.state, breaker.forced, breaker.failure_count) == (CLOSED, None, 0)
    fail(breaker, 5)
    assert breaker.state is OPEN


def test_release_does_nothing_to_an_automatic_circuit(breaker: CircuitBreaker) -> None:
    seen = transitions(breaker)
    fail(breaker, 3)
    breaker.release()
    assert (breaker.state, breaker.failure_count, seen) == (CLOSED, 3, [])
    fail(breaker, 2)
    breaker.release()
    assert (breaker.state, breaker.retry_after_seconds) == (OPEN, 60.0)


@pytest.mark.parametrize("error", [None, OSError()])
def test_an_attempt_that_spans_a_force_does_not_count(breaker: CircuitBreaker, error: Exception | None) -> None:
    fail(breaker, 4)
    late = begin(breaker)
    breaker.force_closed()
    breaker.release()
    end(late, error)
    assert (breaker.state, breaker.failure_count) == (CLOSED, 0)


def test_an_attempt_begun_under_force_does_not_count_after_the_release(breaker: CircuitBreaker) -> None:
    breaker.force_closed()
    late = begin(breaker)
    breaker.release()
    end(late, OSError())
    assert breaker.failure_count == 0


def test_one_force_replaces_the_other(breaker: CircuitBreaker) -> None:
    seen = transitions(breaker)
    breaker.force_open()
    breaker.force_open()
    breaker.force_closed()
    breaker.force_closed()
    assert breaker.forced is CLOSED
    assert seen == [(CLOSED, OPEN), (OPEN, CLOSED)]
    assert breaker.opened_count == 1


def test_forcing_the_state_it_has_is_no_transition(breaker: CircuitBreaker, ticks: Ticks) -> None:
    seen = transitions(breaker)
    breaker.force_closed()
    breaker.release()
    fail(breaker, 5)
    breaker.force_open()
    assert breaker.forced is OPEN
    assert (seen, breaker.opened_count) == ([(CLOSED, OPEN)], 1)


# Who is told


def test_each_change_is_told_once_when_it_is_first_observed(breaker: CircuitBreaker, ticks: Ticks) -> None:
    seen = transitions(breaker)
    half_open(breaker, ticks)
    assert seen == [(CLOSED, OPEN)]
    assert [breaker.state for _ in range(5)] == [HALF_OPEN] * 5
    succeed(breaker, 3)
    assert seen == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


@pytest.mark.parametrize(
    "observe",
    [
        lambda breaker: breaker.state,
        lambda breaker: breaker.retry_after_seconds,
        lambda breaker: breaker.remaining,
        lambda breaker: breaker.attempt().__enter__(),
        lambda breaker: breaker.force_open(),
    ],
)
def test_whoever_asks_first_observes_the_change(
    breaker: CircuitBreaker, ticks: Ticks, observe: Callable[[CircuitBreaker], object]
) -> None:
    seen = transitions(breaker)
    half_open(breaker, ticks)
    kept = observe(breaker)
    assert seen[1] == (OPEN, HALF_OPEN)
    del kept


def test_a_listener_sees_the_new_state_and_may_change_it(breaker: CircuitBreaker, ticks: Ticks) -> None:
    def veto(_old: CircuitState, new: CircuitState) -> None:
        assert breaker.state is new
        if new is OPEN:
            breaker.force_closed()

    breaker.on_transition(veto)
    fail(breaker, 5)
    assert (breaker.state, breaker.forced) == (CLOSED, CLOSED)


def test_a_listener_may_turn_away_who_is_being_let_in(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    breaker.on_transition(lambda _old, new: breaker.force_open() if new is HALF_OPEN else None)
    with pytest.raises(CircuitOpen):
        succeed(breaker)
    assert breaker.forced is OPEN


def test_a_listener_that_raises_leaves_the_state_whole(breaker: CircuitBreaker, ticks: Ticks) -> None:
    def broken(old: CircuitState, new: CircuitState) -> None:
        raise RuntimeError(f"{old} to {new}")

    breaker.on_transition(broken)
    fail(breaker, 4)
    fail(breaker, error=RuntimeError())
    assert (breaker.state, breaker.retry_after_seconds) == (OPEN, 60.0)
    ticks.advance(60)
    with pytest.raises(RuntimeError, match="open to half_open"):
        succeed(breaker)
    succeed(breaker, 2)
    assert breaker.remaining == 1


def test_several_listeners_are_told_in_the_order_they_came(breaker: CircuitBreaker) -> None:
    told: list[str] = []
    for name in ("first", "second"):
        breaker.on_transition(lambda _old, _new, name=name: told.append(name))  # type: ignore[misc]
    breaker.force_open()
    assert told == ["first", "second"]
