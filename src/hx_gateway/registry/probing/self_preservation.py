"""Tells a failure of our own network from one of the services: many of them, all at once, are ours."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

WINDOW_SECONDS = 60.0
# Its next finding may be a little late.
INTERVALS = 1.5
LEAST_FAILING = 5
SHARE = 0.5
# A fault that lasts so long is believed.
LONGEST_HOLD_SECONDS = 600.0


ServiceT = TypeVar("ServiceT", bound=Hashable)


@dataclass(slots=True)
class _Seen:
    until: float
    failed: bool


class SelfPreservation(Generic[ServiceT]):
    """Raised while at least half of the services that were healthy, and at least five, fail within one window.

    Those that were not healthy before say nothing about us. Each counts once, by its last finding, until it is due
    again, and for a window at least. After ``longest_hold`` it is lowered in any case, and not raised again before the
    share has gone down. Times are monotonic seconds.
    """

    def __init__(
        self,
        *,
        window: float = WINDOW_SECONDS,
        least_failing: int = LEAST_FAILING,
        share: float = SHARE,
        longest_hold: float = LONGEST_HOLD_SECONDS,
    ) -> None:
        self._window = window
        self._least_failing = least_failing
        self._share = share
        self._longest_hold = longest_hold
        self._seen: dict[ServiceT, _Seen] = {}
        self._raised_at: float | None = None
        self._believed = False

    @property
    def raised(self) -> bool:
        """Whether transitions are frozen."""
        return self._raised_at is not None

    @property
    def longest_hold(self) -> float:
        """After how many seconds it is lowered in any case."""
        return self._longest_hold

    def services(self) -> list[ServiceT]:
        """Return the services of the window."""
        return [*self._seen]

    def note(self, service: ServiceT, *, failed: bool, now: float, interval: float) -> None:
        """Note what was found of a service that was healthy before, and is looked at each ``interval`` seconds."""
        self._seen[service] = _Seen(now + max(self._window, INTERVALS * interval), failed)

    def forget(self, service: ServiceT) -> None:
        """Let a service say nothing any more: it is not one of those that were healthy."""
        self._seen.pop(service, None)

    def update(self, now: float) -> bool:
        """Judge the window that ends now; return whether that raised or lowered it."""
        self._prune(now)
        failing = sum(seen.failed for seen in self._seen.values())
        many = failing >= self._least_failing and failing >= self._share * len(self._seen)
        if not many:
            self._believed = False
        if self._raised_at is None:
            if many and not self._believed:
                self._raised_at = now
                return True
            return False
        too_long = now - self._raised_at >= self._longest_hold
        if many and not too_long:
            return False
        self._raised_at, self._believed = None, many
        return True

    def figures(self) -> tuple[int, int]:
        """Return how many of the window's services fail, and how many there are."""
        return sum(seen.failed for seen in self._seen.values()), len(self._seen)

    def _prune(self, now: float) -> None:
        for service in [service for service, seen in self._seen.items() if seen.until <= now]:
            del self._seen[service]
