"""The arithmetic of rates: a bucket as one moment, in whole microseconds that a double holds exactly.

The generic cell rate algorithm (ITU-T I.371) keeps of a bucket only when it will be full again, the theoretical arrival
time. What a take costs is rounded down, and never to nothing: so a bucket of N takes N at once whatever N is, and the
error is less than a microsecond a take.
"""

from __future__ import annotations

from typing import NamedTuple

from hx_gateway.allowances import Rate
from hx_gateway.limits.model import RateState

MINUTE_US = 60_000_000
# No bucket is further from full than this (ten years): with the present time added it stays far below 2**53.
LONGEST_US = 315_576_000_000_000


class Take(NamedTuple):
    """What some units are to a bucket: the time that refills them, and the time that refills all of it."""

    increment_us: int
    capacity_us: int

    @property
    def too_large(self) -> bool:
        """Whether not even a full bucket holds so much."""
        return self.increment_us > self.capacity_us


def take_of(units: int, rate: Rate, share: int = 1) -> Take:
    """Return what ``units`` are to a bucket of ``rate``, or to one of ``share`` that it is dealt out to.

    A part of a bucket holds one unit at least, and lends a take that the whole one would hold when it is full itself:
    its mean rate stays what it is.
    """
    if rate.per_minute <= 0 or rate.burst <= 0:
        return Take(1, 0)
    increment = _refill_us(units, rate, share)
    if share == 1:
        return Take(increment, _capacity_us(rate.burst, rate, 1))
    part = _capacity_us(max(1, rate.burst // share), rate, share)
    return Take(increment, max(part, min(increment, _capacity_us(rate.burst, rate, share))))


def wait_us(tat_us: int, now_us: int, take: Take) -> int:
    """Return how long until the bucket holds ``take`` if nobody else comes: 0 when it does, or when it never will."""
    if take.too_large:
        return 0
    return max(0, max(tat_us, now_us) + take.increment_us - now_us - take.capacity_us)


def taken(tat_us: int, now_us: int, take: Take) -> int:
    """Return the bucket after ``take``."""
    return max(tat_us, now_us) + take.increment_us


def correction_us(units: int, rate: Rate, share: int = 1) -> int:
    """Return what ``units`` more (or fewer: negative) than were taken are to a bucket; see :func:`corrected`."""
    if rate.per_minute <= 0 or units == 0:
        return 0
    return _refill_us(units, rate, share) if units > 0 else -_refill_us(-units, rate, share)


def corrected(tat_us: int, now_us: int, correction_us: int) -> int:
    """Return the bucket after a correction. One that is full cannot get anything back; debt has no other bound."""
    if correction_us < 0:
        return max(now_us, tat_us + correction_us)
    return min(max(tat_us, now_us) + correction_us, now_us + LONGEST_US)


def state_of(tat_us: int, now_us: int, rate: Rate, share: int = 1) -> RateState:
    """Return how much is left in a bucket, in whole units, and when it is full again."""
    full_in = max(0, tat_us - now_us)
    if rate.per_minute <= 0 or rate.burst <= 0:
        return RateState(left=0, full_in_us=full_in)
    burst = rate.burst if share == 1 else max(1, rate.burst // share)
    left = (_capacity_us(burst, rate, share) - full_in) * rate.per_minute // (MINUTE_US * share)
    return RateState(left=max(0, min(left, burst)), full_in_us=full_in)


def _refill_us(units: int, rate: Rate, share: int) -> int:
    if units <= 0:
        return 0
    return min(max(1, units * MINUTE_US * share // rate.per_minute), LONGEST_US + 1)


def _capacity_us(units: int, rate: Rate, share: int) -> int:
    return min(-(-units * MINUTE_US * share // rate.per_minute), LONGEST_US)
