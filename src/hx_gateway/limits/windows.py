"""Which window of a budget a moment is in: days, ISO weeks and months of a time zone, or all time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple, assert_never
from zoneinfo import ZoneInfo

import msgspec

from hx_gateway.allowances import Budget, Period
from hx_gateway.kit.epochs import UNIX_EPOCH, from_unix_us, unix_us
from hx_gateway.limits.model import Charge

TOTAL = "total"
# Current windows that are remembered; there are some hundred zones that people live in.
MAX_REMEMBERED = 1_000
# Callers whose charges are remembered.
MAX_CHARGED = 50_000

# Later than any moment.
NEVER_US = 2**63

_DAY = timedelta(days=1)


class Window(NamedTuple):
    """A window's name, and the moments in UTC when it begins and ends; that of all time has no end."""

    id: str
    start: datetime
    end: datetime | None


class _Charged(msgspec.Struct, frozen=True, gc=False):
    """What calls under ``budgets`` are charged to, from ``start_us`` until before ``end_us``."""

    budgets: Sequence[Budget]
    start_us: int
    end_us: int
    charges: tuple[Charge, ...]


class WindowCalendar:
    """Windows by their IANA zone. It remembers the current ones, which nearly every question is about."""

    def __init__(self) -> None:
        self._current: dict[tuple[Period, str], Window] = {}
        # By the identity of the budgets, which are kept here so that it is nobody else's.
        self._charges: dict[int, _Charged] = {}

    def window_of(self, period: Period, time_zone: str, at: datetime) -> Window:
        """Return the window that ``at`` (aware) is in.

        Raises ``ZoneInfoNotFoundError`` or ``ValueError`` for a zone that this machine does not know.
        """
        if period is Period.TOTAL:
            return Window(TOTAL, UNIX_EPOCH, None)
        known = self._current.get((period, time_zone))
        if known is not None and known.start <= at and (known.end is None or at < known.end):
            return known
        window = _find(period, ZoneInfo(time_zone), at)
        if len(self._current) >= MAX_REMEMBERED:
            self._current.clear()
        self._current[(period, time_zone)] = window
        return window

    def charges_for(self, budgets: Sequence[Budget], at_us: int) -> tuple[Charge, ...]:
        """Return what a call that begins at ``at_us`` is charged to: it stays there even if it ends in the next window.

        A key's budgets are the same object from call to call, and their windows too until the first of them ends.
        """
        kept = self._charges.get(id(budgets))
        if kept is not None and kept.budgets is budgets and kept.start_us <= at_us < kept.end_us:
            return kept.charges
        at = from_unix_us(at_us)
        windows = [self.window_of(budget.period, budget.time_zone, at) for budget in budgets]
        charges = tuple([Charge(budget, window.id) for budget, window in zip(budgets, windows, strict=True)])
        if len(self._charges) >= MAX_CHARGED:
            self._charges.clear()
        start_us = max((unix_us(window.start) for window in windows), default=0)
        end_us = min((unix_us(window.end) for window in windows if window.end is not None), default=NEVER_US)
        self._charges[id(budgets)] = _Charged(budgets, start_us, end_us, charges)
        return charges


_CALENDAR = WindowCalendar()


def window_of(period: Period, time_zone: str, at: datetime) -> Window:
    """Return the window that ``at`` (aware) is in; see :meth:`WindowCalendar.window_of`."""
    return _CALENDAR.window_of(period, time_zone, at)


def charges_for(budgets: Sequence[Budget], at_us: int) -> tuple[Charge, ...]:
    """Return what a call that begins at ``at_us`` (microseconds since 1970) is charged to."""
    return _CALENDAR.charges_for(budgets, at_us)


def _find(period: Period, zone: ZoneInfo, at: datetime) -> Window:
    today = _day_of(zone, at)
    match period:
        case Period.DAY:
            name, first, after = today.isoformat(), today, today + _DAY
        case Period.WEEK:
            year, week, weekday = today.isocalendar()
            first = today - (weekday - 1) * _DAY
            name, after = f"{year:04}-W{week:02}", first + 7 * _DAY
        case Period.MONTH:
            first = today.replace(day=1)
            name, after = f"{today:%Y-%m}", (first + 31 * _DAY).replace(day=1)
        case Period.TOTAL:
            return Window(TOTAL, UNIX_EPOCH, None)
        case _:
            assert_never(period)
    return Window(name, _midnight(zone, first), _midnight(zone, after))


def _day_of(zone: ZoneInfo, at: datetime) -> date:
    """Return the day that began last: clocks that are set back over midnight do not bring back the day before."""
    day = at.astimezone(zone).date()
    return day + _DAY if _midnight(zone, day + _DAY) <= at else day


def _midnight(zone: ZoneInfo, day: date) -> datetime:
    """Return when a day begins: the first of two midnights, and the moment of change where it is skipped (PEP 495)."""
    return datetime.combine(day, time(), zone).astimezone(UTC)
