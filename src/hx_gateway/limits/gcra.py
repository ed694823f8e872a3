"""The arithmetic of rates: a bucket as one moment, in whole microseconds that a double holds exactly.

The generic cell rate algorithm (ITU-T I.371) keeps of a bucket only when it will be full again, the theoretical arrival
time. What a take costs is rounded down, and never to nothing: so a bucket of N takes N at once whatever N is, and the
error is less than a microsecond a take.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from hx_gateway.allowances import Rate
from hx_gateway.limits.model import RateState

MINUTE_US = 60_000_000
# No bucket is further from full than this (ten years): with the present time added it stays far below 2**53.
LONGEST_US = 315_576_000_000_000


class Take(msgspec.Struct, frozen=True, gc=False):
    """What some units are to a bucket: the time that refills them, and the time that refills all of it."""

    increment_us: int
    capacity_us: int

    @property
    def too_large(self) -> bool:
        """Whether not even a full bucket holds so much."""
        return self.increment_us > self.capacity_us


# What no bucket without a rate, or of nothing, ever gives.
NEVER = Take(1, 0)


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """What of a rate is the same for each take: ``units`` that it holds, refilled by ``per_minute`` / ``share``.

    ``capacity_us`` is the time that refills it, ``whole_us`` that of all of the parts that it is one of.
    """

    per_minute: int
    units: int
    share: int
    capacity_us: int
    whole_us: int

    def take(self, units: int) -> Take:
        """Return what ``units`` are to the bucket.

        A part of a bucket lends a take that the whole one would hold when it is full itself: its mean rate stays what
        it is.
        """
        if not self.capacity_us:
            return NEVER
        increment, capacity = self._refill_us(units), self.capacity_us
        if increment > capacity and self.share != 1:
            capacity = min(increment, self.whole_us)
        return Take(increment, capacity)

    def state(self, tat_us: int, now_us: int) -> RateState:
        """Return how much is left, in whole units, and when it is full again."""
        full_in = tat_us - now_us if tat_us > now_us else 0
        left = (self.capacity_us - full_in) * self.per_minute // (MINUTE_US * self.share)
        if left < 0:
            left = 0
        elif left > self.units:
            left = self.units
        return RateState(left=left, full_in_us=full_in)

    def correction_us(self, units: int) -> int:
        """Return what ``units`` more (or fewer: negative) than were taken are to the bucket; see :func:`corrected`."""
        if self.per_minute <= 0:
            return 0
        return self._refill_us(units) if units > 0 else -self._refill_us(-units)

    def _refill_us(self, units: int) -> int:
        if units <= 0:
            return 0
        refill = units * MINUTE_US * self.share // self.per_minute
        return 1 if refill < 1 else refill if refill <= LONGEST_US else LONGEST_US + 1


@lru_cache(maxsize=4096)
def bucket_of(rate: Rate, share: int = 1) -> Bucket:
    """Return the bucket of ``rate``, or one of ``share`` that it is dealt out to: each holds one unit at least."""
    if rate.per_minute <= 0 or rate.burst <= 0:
        return Bucket(max(0, rate.per_minute), 0, share, 0, 0)
    units = rate.burst if share == 1 else max(1, rate.burst // share)
    capacity, whole = (_capacity_us(held, rate.per_minute, share) for held in (units, rate.burst))
    return Bucket(rate.per_minute, units, share, capacity, whole)


def wait_us(tat_us: int, now_us: int, take: Take) -> int:
    """Return how long until the bucket holds ``take`` if nobody else comes: 0 when it does, or when it never will."""
    if take.too_large:
        return 0
    wait = taken(tat_us, now_us, take) - now_us - take.capacity_us
    return max(0, wait)


def taken(tat_us: int, now_us: int, take: Take) -> int:
    """Return the bucket after ``take``."""
    if tat_us < now_us:
        tat_us = now_us
    return tat_us + take.increment_us


def corrected(tat_us: int, now_us: int, correction_us: int) -> int:
    """Return the bucket after a correction. One that is full cannot get anything back; debt has no other bound."""
    if correction_us < 0:
        return max(now_us, tat_us + correction_us)
    return min(max(tat_us, now_us) + correction_us, now_us + LONGEST_US)


def _capacity_us(units: int, per_minute: int, share: int) -> int:
    return min(-(-units * MINUTE_US * share // per_minute), LONGEST_US)
