"""Moments as whole microseconds: since 1970, as most of the world counts, and since 2000, as PostgreSQL does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# What to add to PostgreSQL's count to get that since 1970.
POSTGRES_EPOCH_US = (POSTGRES_EPOCH - UNIX_EPOCH) // MICROSECOND


def unix_us(moment: datetime) -> int:
    """Return an aware ``moment`` in microseconds since 1970."""
    return (moment - UNIX_EPOCH) // MICROSECOND


def from_unix_us(count: int) -> datetime:
    """Return the moment that :func:`unix_us` made a number of. Raises ``OverflowError`` beyond the calendar."""
    return UNIX_EPOCH + timedelta(microseconds=count)


def postgres_us(moment: datetime) -> int:
    """Return an aware ``moment`` in microseconds since 2000."""
    return (moment - POSTGRES_EPOCH) // MICROSECOND


def from_postgres_us(count: int) -> datetime:
    """Return the moment that :func:`postgres_us` made a number of. Raises ``OverflowError`` beyond the calendar."""
    return POSTGRES_EPOCH + timedelta(microseconds=count)
