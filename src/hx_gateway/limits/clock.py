"""The clock of who counts money, as this worker learns it: a call is charged to the window that one sees."""

from __future__ import annotations

from datetime import datetime

from hx_gateway.kit.clock import Clock
from hx_gateway.kit.epochs import from_unix_us, unix_us

SECOND_US = 1_000_000
# An answer that took longer says little about the time; it is used where nothing better was heard for a while.
SURE_SECONDS = 0.25
STALE_SECONDS = 60.0


class AuthorityClock:
    """Wall time of the authority. Until it was heard once, this machine's; from then on steps of ours mean nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard_us: int | None = None
        self._heard_at = 0.0
        self._took = 0.0

    @property
    def heard(self) -> bool:
        """Whether it is known at all."""
        return self._heard_us is not None

    def learn(self, now_us: int, asked_at: float) -> None:
        """Take what a verdict says, that was asked for at ``asked_at`` (monotonic seconds)."""
        answered_at = self._clock.monotonic()
        took = answered_at - asked_at
        if took > max(SURE_SECONDS, self._took) and answered_at - self._heard_at < STALE_SECONDS and self.heard:
            return
        self._heard_us, self._heard_at, self._took = now_us, answered_at - took / 2, took

    def now_us(self) -> int:
        """Return microseconds since 1970."""
        if self._heard_us is None:
            return unix_us(self._clock.now())
        return self._heard_us + int((self._clock.monotonic() - self._heard_at) * SECOND_US)

    def now(self) -> datetime:
        """Return aware UTC time."""
        return from_unix_us(self.now_us())
