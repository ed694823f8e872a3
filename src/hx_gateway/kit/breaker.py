"""A circuit breaker: a dependency that keeps failing is left alone for a while, then tried by one caller at a time."""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

MAX_JITTER = 0.1


class CircuitState(StrEnum):
    """Closed lets everything through, open nothing, half-open one attempt at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitOpen(Exception):
    """The attempt was not allowed, and nothing was sent.

    ``retry_after_seconds`` says when to ask again. 0.0: nobody knows, because another caller's trial is under way; who
    asks in a loop needs a back-off of his own.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the circuit allows no attempt now; ask again in {retry_after_seconds:.3f} s")
        self.retry_after_seconds = retry_after_seconds


class Attempt:
    """One attempt, for ``with``: what its body may say about its outcome."""

    __slots__ = ("_admit", "_generation", "_settle", "ignored")

    def __init__(self, admit: Callable[[], int], settle: Callable[[int, bool | None], None]) -> None:
        self._admit = admit
        self._settle = settle
        self._generation = 0
        self.ignored = False

    def ignore(self) -> None:
        """Let the outcome say nothing about the dependency: neither a success nor a failure, however the body ends."""
        self.ignored = True

    def __enter__(self) -> Self:
        self._generation = self._admit()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        neutral = self.ignored or (kind is not None and not issubclass(kind, Exception))
        self._settle(self._generation, None if neutral else kind is None)


Listener = Callable[[CircuitState, CircuitState], None]


class CircuitBreaker:
    """Opens after ``failure_threshold`` failures in ``window_seconds``, closes after ``success_threshold`` good trials.

    - Closed: a failure counts until it is ``window_seconds`` old. Successes do not make up for it: a dependency that
      fails half of the time would never open a circuit that each success resets. Fits callers that make few attempts;
      one with thousands a second wants a rate.
    - Open: for ``open_seconds`` and up to a tenth more, by chance, so that several processes do not come back as one.
      Then half-open, without a timer: the clock is read whenever somebody asks.
    - Half-open: one attempt at a time. ``success_threshold`` successes with no failure between close the circuit, which
      then starts without failures; one failure opens it again for a new period.

    An attempt counts only in the period it began in: what ends after the circuit has changed, or was forced or
    released, changes nothing. For one event loop; not safe between threads. ``monotonic`` returns seconds that never
    step back, ``draw`` a number from 0 to below 1. Raises ``ValueError`` that names a wrong argument.
    """

    def __init__(
        self,
        *,
        failure_threshold: int = 5,
        window_seconds: float = 60.0,
        open_seconds: float = 60.0,
        success_threshold: int = 3,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        _check("failure_threshold", failure_threshold)
        _check("window_seconds", window_seconds)
        _check("open_seconds", open_seconds)
        _check("success_threshold", success_threshold)
        self._failure_threshold = failure_threshold
        self._window_seconds = window_seconds
        self._open_seconds = open_seconds
        self._success_threshold = success_threshold
        self._monotonic = monotonic
        self._draw = draw
        self._listeners: list[Listener] = []
        self._state = CircuitState.CLOSED
        self._forced = False
        self._generation = 0
        self._failures: deque[float] = deque(maxlen=failure_threshold)
        self._successes = 0
        self._trial_under_way = False
        self._open_until = 0.0
        self._opened_count = 0

    @property
    def state(self) -> CircuitState:
        """The state now. Asking may be what turns an open circuit whose time is up into a half-open one."""
        if self._state is CircuitState.OPEN and not self._forced and self._monotonic() >= self._open_until:
            self._enter(CircuitState.HALF_OPEN)
        return self._state

    @property
    def forced(self) -> CircuitState | None:
        """The state that the circuit was forced into, or ``None`` while it is automatic."""
        return self._state if self._forced else None

    @property
    def retry_after_seconds(self) -> float:
        """Seconds until an open circuit turns half-open, ``open_seconds`` if that is forced; 0.0 in another state."""
        if self.state is not CircuitState.OPEN:
            return 0.0
        return self._open_seconds if self._forced else max(0.0, self._open_until - self._monotonic())

    @property
    def failure_count(self) -> int:
        """Failures in the last ``window_seconds`` that counted, failed trials too; ``failure_threshold`` at most."""
        now = self._monotonic()
        return sum(now - failed_at < self._window_seconds for failed_at in self._failures)

    @property
    def opened_count(self) -> int:
        """How often the circuit has opened, by failures or by force."""
        return self._opened_count

    @property
    def remaining(self) -> int:
        """Outcomes that are missing to the next state: failures while closed, successes while half-open, 0 if open."""
        match self.state:
            case CircuitState.CLOSED:
                return self._failure_threshold - self.failure_count
            case CircuitState.HALF_OPEN:
                return self._success_threshold - self._successes
            case CircuitState.OPEN:
                return 0

    def on_transition(self, listener: Listener) -> None:
        """Call ``listener(old, new)`` after each change of state, in the order of registration.

        It is called by whoever causes or first observes the change, so it must be quick. It must not raise: an error
        goes to that caller and keeps it from later listeners, though not from the state.
        """
        self._listeners.append(listener)

    def attempt(self) -> Attempt:
        """Guard one attempt: ``with breaker.attempt(): await ...``. Raises :class:`CircuitOpen` if none is allowed.

        An ``Exception`` that leaves the body counts as a failure, no exception as a success. Cancellation, a closed
        generator and what ends the process say nothing about the dependency and count as neither. A time limit
        therefore belongs inside of the body, where it leaves as ``TimeoutError``; outside, it arrives as a
        cancellation. The body of a trial must have one: no other is let through until it ends.
        """
        return Attempt(self._admit, self._settle)

    def force_open(self) -> None:
        """Let nothing through until :meth:`release` or :meth:`force_closed`."""
        self._force(CircuitState.OPEN)

    def force_closed(self) -> None:
        """Let everything through and count nothing until :meth:`release` or :meth:`force_open`."""
        self._force(CircuitState.CLOSED)

    def release(self) -> None:
        """End the force, if there is any: half-open if it was open, since whoever releases wants a try; else closed."""
        if self._forced:
            self._enter(CircuitState.HALF_OPEN if self._state is CircuitState.OPEN else CircuitState.CLOSED)

    def _admit(self) -> int:
        if self.state is CircuitState.OPEN or self._trial_under_way:
            raise CircuitOpen(self.retry_after_seconds)
        self._trial_under_way = self._state is CircuitState.HALF_OPEN
        return self._generation

    def _settle(self, generation: int, succeeded: bool | None) -> None:
        if generation != self._generation:
            return
        self._trial_under_way = False
        if succeeded is None or self._forced:
            return
        if not succeeded:
            self._failed()
        elif self._state is CircuitState.HALF_OPEN:
            self._successes += 1
            if self._successes == self._success_threshold:
                self._enter(CircuitState.CLOSED)

    def _failed(self) -> None:
        self._failures.append(self._monotonic())
        if self._state is CircuitState.HALF_OPEN or self.failure_count == self._failure_threshold:
            self._enter(CircuitState.OPEN)

    def _force(self, state: CircuitState) -> None:
        if self.state is not state or not self._forced:
            self._enter(state, forced=True)

    def _enter(self, new: CircuitState, *, forced: bool = False) -> None:
        """Begin a period; attempts of the one before, the trial among them, do not count any more."""
        old, self._state, self._forced = self._state, new, forced
        self._generation += 1
        self._successes = 0
        self._trial_under_way = False
        if new is CircuitState.CLOSED:
            self._failures.clear()
        if new is CircuitState.OPEN:
            self._open_until = self._monotonic() + self._open_seconds * (1 + MAX_JITTER * self._draw())
        if new is old:
            return
        self._opened_count += new is CircuitState.OPEN
        for listener in tuple(self._listeners):
            listener(old, new)


def _check(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, not {value!r}")
