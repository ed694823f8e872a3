"""What the tests of the circuit breaker do to one."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from hx_gateway.kit.breaker import Attempt, CircuitBreaker, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Ticks:
    """Monotonic seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


def transitions(breaker: CircuitBreaker) -> list[tuple[CircuitState, CircuitState]]:
    seen: list[tuple[CircuitState, CircuitState]] = []
    breaker.on_transition(lambda old, new: seen.append((old, new)))
    return seen


def succeed(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with breaker.attempt():
            pass


def fail(breaker: CircuitBreaker, times: int = 1, error: BaseException | None = None) -> None:
    error = error or ConnectionError("refused")
    for _ in range(times):
        with pytest.raises(type(error)), breaker.attempt():
            raise error


def half_open(breaker: CircuitBreaker, ticks: Ticks) -> None:
    fail(breaker, 5)
    ticks.advance(60)


def ignore_failure(breaker: CircuitBreaker) -> None:
    with breaker.attempt() as attempt:
        attempt.ignore()
        raise LookupError("the row is bad, the database is not")


def begin(breaker: CircuitBreaker) -> AbstractContextManager[Attempt]:
    """Return an attempt in flight, for :func:`end`."""
    guard = breaker.attempt()
    guard.__enter__()
    return guard


def end(guard: AbstractContextManager[Attempt], error: BaseException | None) -> None:
    assert not guard.__exit__(type(error) if error else None, error, None)
