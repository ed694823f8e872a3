"""Whether it is worth waiting for something that was too slow the last times."""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 5
REST_SECONDS = 5.0


class Patience:
    """Lost after :data:`FAILURES` failures in a row, for :data:`REST_SECONDS`; then one try tells.

    Not a circuit breaker, which counts failures however many successes lie between: of hundreds of look-ups a second
    a few are late at any time, and the others are worth it.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._in_a_row = 0
        self._until = 0.0

    def allows(self) -> bool:
        """Return whether to try now. The try that follows a rest is one: others wait for what it says."""
        if self._in_a_row < FAILURES:
            return True
        if self._monotonic() < self._until:
            return False
        self._rest()
        return True

    def succeeded(self) -> None:
        """Say that a try was worth it."""
        self._in_a_row = 0

    def failed(self) -> None:
        """Say that one was not."""
        self._in_a_row += 1
        if self._in_a_row >= FAILURES:
            self._rest()

    def _rest(self) -> None:
        self._until = self._monotonic() + REST_SECONDS
