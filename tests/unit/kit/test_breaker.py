"""The circuit breaker, scenario by scenario."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from typing import Any

import pytest

from hx_gateway.kit.breaker import CircuitBreaker, CircuitOpen, CircuitState
from tests.unit.kit.circuits import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    Ticks,
    begin,
    end,
    fail,
    half_open,
    ignore_failure,
    succeed,
    transitions,
)


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def breaker(ticks: Ticks) -> CircuitBreaker:
    return CircuitBreaker(monotonic=ticks, draw=lambda: 0.0)


async def until_parked(task: asyncio.Task[Any]) -> None:
    """Let ``task`` run as far as it gets without anything from outside."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


async def hang(breaker: CircuitBreaker) -> None:
    with breaker.attempt():
        await asyncio.Event().wait()


# Closed


def test_a_new_circuit_is_closed_and_lets_attempts_through(breaker: CircuitBreaker) -> None:
    succeed(breaker, 10)
    assert (breaker.state, breaker.forced, breaker.failure_count, breaker.opened_count) == (CLOSED, None, 0, 0)
    assert breaker.retry_after_seconds == 0.0
    assert breaker.remaining == 5


def test_four_failures_leave_it_closed_and_the_fifth_opens_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 4)
    assert (breaker.state, breaker.failure_count, breaker.remaining) == (CLOSED, 4, 1)
    fail(breaker)
    assert (breaker.state, breaker.failure_count, breaker.remaining) == (OPEN, 5, 0)
    assert breaker.opened_count == 1


def test_the_error_of_the_body_reaches_the_caller_unchanged(breaker: CircuitBreaker) -> None:
    error = ConnectionError("refused")
    with pytest.raises(ConnectionError) as caught, breaker.attempt():
        raise error
    assert caught.value is error


def test_a_stop_iteration_from_the_body_is_a_failure_like_any_other(breaker: CircuitBreaker) -> None:
    fail(breaker, error=StopIteration())
    assert breaker.failure_count == 1


def test_successes_between_failures_do_not_keep_it_closed(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        succeed(breaker, 3)
        fail(breaker)
    assert breaker.state is OPEN


def test_the_window_slides_so_that_old_failures_stop_counting_one_by_one(breaker: CircuitBreaker, ticks: Ticks) -> None:
    for _ in range(4):
        fail(breaker)
        ticks.advance(15)
    assert breaker.failure_count == 3
    fail(breaker)
    assert (breaker.state, breaker.failure_count) == (CLOSED, 4)
    ticks.advance(14)
    fail(breaker)
    assert breaker.state is OPEN


@pytest.mark.parametrize(("seconds", "expected"), [(59.999, OPEN), (60.0, CLOSED)])
def test_a_failure_counts_until_it_is_as_old_as_the_window(
    breaker: CircuitBreaker, ticks: Ticks, seconds: float, expected: CircuitState
) -> None:
    fail(breaker)
    ticks.advance(seconds)
    fail(breaker, 4)
    assert breaker.state is expected


def test_an_attempt_that_is_never_entered_takes_nothing(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    breaker.attempt()
    succeed(breaker)


# Open


def test_an_open_circuit_refuses_without_running_the_body(breaker: CircuitBreaker, ticks: Ticks) -> None:
    fail(breaker, 5)
    ticks.advance(20)
    ran = False
    with pytest.raises(CircuitOpen, match=r"ask again in 40\.000 s") as caught, breaker.attempt():
        ran = True
    assert not ran
    assert caught.value.retry_after_seconds == breaker.retry_after_seconds == 40.0


def test_a_refusal_is_not_a_failure(breaker: CircuitBreaker, ticks: Ticks) -> None:
    fail(breaker, 5)
    for _ in range(20):
        with pytest.raises(CircuitOpen):
            succeed(breaker)
    assert (breaker.failure_count, breaker.retry_after_seconds) == (5, 60.0)


def test_it_turns_half_open_when_its_time_is_up_and_not_before(breaker: CircuitBreaker, ticks: Ticks) -> None:
    fail(breaker, 5)
    ticks.advance(59.999)
    assert breaker.state is OPEN
    ticks.advance(0.001)
    assert breaker.state is HALF_OPEN
    assert (breaker.retry_after_seconds, breaker.remaining) == (0.0, 3)


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 60.0), (0.5, 63.0), (1.0, 66.0)])
def test_the_time_open_is_lengthened_by_up_to_a_tenth(ticks: Ticks, drawn: float, seconds: float) -> None:
    breaker = CircuitBreaker(monotonic=ticks, draw=lambda: drawn)
    fail(breaker, 5)
    assert breaker.retry_after_seconds == pytest.approx(seconds)


def test_the_usual_source_of_chance_stays_within_a_tenth_and_varies(ticks: Ticks) -> None:
    periods = set()
    for _ in range(200):
        breaker = CircuitBreaker(failure_threshold=1, monotonic=ticks)
        fail(breaker)
        periods.add(breaker.retry_after_seconds)
    assert min(periods) >= 60.0
    assert max(periods) <= 66.0
    assert len(periods) > 100


def test_each_opening_draws_a_time_of_its_own(ticks: Ticks) -> None:
    draws = iter([0.0, 0.5])
    breaker = CircuitBreaker(monotonic=ticks, draw=lambda: next(draws))
    half_open(breaker, ticks)
    fail(breaker)
    assert breaker.retry_after_seconds == pytest.approx(63.0)


def test_a_leap_of_the_clock_leads_to_half_open_and_no_further(breaker: CircuitBreaker, ticks: Ticks) -> None:
    seen = transitions(breaker)
    fail(breaker, 5)
    ticks.advance(10_000_000)
    assert breaker.state is HALF_OPEN
    assert seen == [(CLOSED, OPEN), (OPEN, HALF_OPEN)]
    ticks.advance(10_000_000)
    assert (breaker.state, breaker.failure_count) == (HALF_OPEN, 0)


def test_wall_time_is_never_read(breaker: CircuitBreaker, ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> float:
        raise AssertionError("wall time was read")

    assert inspect.signature(CircuitBreaker).parameters["monotonic"].default is time.monotonic
    monkeypatch.setattr(time, "time", forbidden)
    monkeypatch.setattr(time, "monotonic", forbidden)
    half_open(breaker, ticks)
    succeed(breaker, 3)
    assert breaker.state is CLOSED


# Half-open


def test_two_good_trials_are_not_enough_and_the_third_closes_it(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    succeed(breaker, 2)
    assert (breaker.state, breaker.remaining) == (HALF_OPEN, 1)
    succeed(breaker)
    assert (breaker.state, breaker.remaining) == (CLOSED, 5)


def test_a_failed_trial_opens_it_for_a_new_period(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    ticks.advance(7)
    succeed(breaker, 2)
    fail(breaker)
    assert (breaker.state, breaker.opened_count, breaker.retry_after_seconds) == (OPEN, 2, 60.0)


def test_the_successes_before_a_failed_trial_do_not_count_later(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    succeed(breaker, 2)
    fail(breaker)
    ticks.advance(60)
    succeed(breaker, 2)
    assert breaker.state is HALF_OPEN
    succeed(breaker)
    assert breaker.state is CLOSED


def test_a_circuit_that_closed_starts_without_failures() -> None:
    ticks = Ticks()
    breaker = CircuitBreaker(window_seconds=3600, open_seconds=1, monotonic=ticks, draw=lambda: 0.0)
    fail(breaker, 5)
    ticks.advance(1)
    succeed(breaker, 3)
    assert breaker.failure_count == 0
    fail(breaker, 4)
    assert breaker.state is CLOSED


def test_one_trial_at_a_time_is_let_through(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    with breaker.attempt():
        for _ in range(3):
            with pytest.raises(CircuitOpen) as caught:
                succeed(breaker)
            assert caught.value.retry_after_seconds == 0.0
    succeed(breaker)
    assert breaker.remaining == 1


async def test_of_many_tasks_that_wait_for_the_end_of_the_period_one_goes_through(
    breaker: CircuitBreaker, ticks: Ticks
) -> None:
    half_open(breaker, ticks)
    answered = asyncio.Event()
    entered = 0

    async def try_once() -> None:
        nonlocal entered
        with breaker.attempt():
            entered += 1
            await answered.wait()

    tasks = [asyncio.create_task(try_once()) for _ in range(20)]
    await until_parked(tasks[0])
    answered.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert entered == 1
    assert sum(isinstance(result, CircuitOpen) for result in results) == 19
    assert breaker.remaining == 2


# What says nothing about the dependency


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(), SystemExit()])
def test_what_ends_the_caller_is_no_failure(breaker: CircuitBreaker, error: BaseException) -> None:
    fail(breaker, 20, error)
    assert (breaker.state, breaker.failure_count) == (CLOSED, 0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(), SystemExit()])
def test_what_ends_the_caller_of_a_trial_gives_the_permit_back_and_changes_nothing(
    breaker: CircuitBreaker, ticks: Ticks, error: BaseException
) -> None:
    half_open(breaker, ticks)
    succeed(breaker)
    fail(breaker, 20, error)
    assert (breaker.state, breaker.remaining) == (HALF_OPEN, 2)
    succeed(breaker, 2)
    assert breaker.state is CLOSED


async def test_a_cancelled_task_gives_its_permit_back(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    task = asyncio.create_task(hang(breaker))
    await until_parked(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (breaker.state, breaker.remaining) == (HALF_OPEN, 3)
    succeed(breaker)


async def test_a_coroutine_that_is_closed_gives_its_permit_back(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    abandoned = hang(breaker)
    abandoned.send(None)
    with pytest.raises(CircuitOpen):
        succeed(breaker)
    abandoned.close()
    succeed(breaker)


async def test_a_time_limit_inside_of_the_attempt_is_a_failure_and_one_outside_is_not(breaker: CircuitBreaker) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await hang(breaker)
    assert breaker.failure_count == 0
    with pytest.raises(TimeoutError), breaker.attempt():
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    assert breaker.failure_count == 1


def test_an_ignored_exception_is_no_failure(breaker: CircuitBreaker) -> None:
    for _ in range(20):
        with pytest.raises(LookupError):
            ignore_failure(breaker)
    assert (breaker.state, breaker.failure_count) == (CLOSED, 0)


def test_an_ignored_failure_of_a_trial_gives_the_permit_back(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    succeed(breaker)
    for _ in range(20):
        with pytest.raises(LookupError):
            ignore_failure(breaker)
    assert (breaker.state, breaker.remaining) == (HALF_OPEN, 2)
    succeed(breaker, 2)
    assert breaker.state is CLOSED


def test_an_ignored_success_of_a_trial_does_not_count(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    for _ in range(20):
        with breaker.attempt() as attempt:
            attempt.ignore()
    assert (breaker.state, breaker.remaining) == (HALF_OPEN, 3)


def test_an_ignored_trial_keeps_its_permit_until_its_body_ends(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    with breaker.attempt() as attempt:
        attempt.ignore()
        with pytest.raises(CircuitOpen):
            succeed(breaker)


# Results that come late


def test_late_failures_do_not_lengthen_the_open_period(breaker: CircuitBreaker, ticks: Ticks) -> None:
    late = begin(breaker)
    fail(breaker, 5)
    ticks.advance(30)
    end(late, OSError())
    assert (breaker.state, breaker.retry_after_seconds, breaker.opened_count) == (OPEN, 30.0, 1)


def test_of_ten_attempts_in_flight_that_all_fail_five_count(breaker: CircuitBreaker) -> None:
    seen = transitions(breaker)
    for guard in [begin(breaker) for _ in range(10)]:
        end(guard, OSError())
    assert (breaker.state, breaker.failure_count) == (OPEN, 5)
    assert seen == [(CLOSED, OPEN)]


@pytest.mark.parametrize("error", [None, OSError(), asyncio.CancelledError()])
def test_an_attempt_that_began_closed_and_ends_half_open_changes_nothing(
    breaker: CircuitBreaker, ticks: Ticks, error: BaseException | None
) -> None:
    late = begin(breaker)
    half_open(breaker, ticks)
    assert breaker.state is HALF_OPEN
    end(late, error)
    assert (breaker.state, breaker.remaining) == (HALF_OPEN, 3)


@pytest.mark.parametrize("error", [None, OSError(), asyncio.CancelledError()])
def test_an_attempt_that_began_closed_does_not_give_the_permit_of_a_trial_back(
    breaker: CircuitBreaker, ticks: Ticks, error: BaseException | None
) -> None:
    late = begin(breaker)
    half_open(breaker, ticks)
    with breaker.attempt():
        end(late, error)
        with pytest.raises(CircuitOpen):
            succeed(breaker)


def test_a_failure_from_an_earlier_closed_period_is_not_one(breaker: CircuitBreaker, ticks: Ticks) -> None:
    late = begin(breaker)
    half_open(breaker, ticks)
    succeed(breaker, 3)
    end(late, OSError())
    assert (breaker.state, breaker.failure_count) == (CLOSED, 0)


def test_a_trial_of_an_earlier_period_does_not_close_a_later_one(breaker: CircuitBreaker, ticks: Ticks) -> None:
    half_open(breaker, ticks)
    late = begin(breaker)
    breaker.force_open()
    breaker.release()
    succeed(breaker, 2)
    end(late, None)
    assert (breaker.state, breaker.remaining) == (HALF_OPEN, 1)


# Arguments


@pytest.mark.parametrize("name", ["failure_threshold", "window_seconds", "open_seconds", "success_threshold"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_an_argument_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name} must be above 0"):
        CircuitBreaker(**arguments)


def test_thresholds_of_one_open_at_the_first_failure_and_close_at_the_first_success(ticks: Ticks) -> None:
    breaker = CircuitBreaker(failure_threshold=1, success_threshold=1, monotonic=ticks, draw=lambda: 0.0)
    fail(breaker)
    assert breaker.state is OPEN
    ticks.advance(60)
    succeed(breaker)
    assert breaker.state is CLOSED


def test_states_read_as_words() -> None:
    assert [str(state) for state in CircuitState] == ["closed", "open", "half_open"]
