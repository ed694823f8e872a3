"""Days and weeks of UTC: where a partition begins and ends, and what it is called."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

from hx_gateway.db.schemas import Interval, PartitionedTable

LENGTHS: dict[Interval, timedelta] = {"day": timedelta(days=1), "week": timedelta(weeks=1)}


def bounds(table: PartitionedTable, moment: datetime) -> tuple[datetime, datetime]:
    """Return the first moment of the partition that an aware ``moment`` falls in, and the first one after it.

    Both in UTC; weeks start on Monday. Raises ``ValueError`` for a time without a zone, ``OverflowError`` at the
    calendar's ends.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    day = moment.astimezone(UTC).date()
    if table.interval == "week":
        day -= timedelta(days=day.weekday())
    lower = datetime.combine(day, time(), UTC)
    return lower, lower + LENGTHS[table.interval]


def partition_name(table: PartitionedTable, moment: datetime) -> str:
    """Return the name of the partition that ``moment`` falls in: the table's and its first day."""
    lower, _ = bounds(table, moment)
    return f"{table.name}_p{lower.date().isoformat().replace('-', '')}"


def bounds_of_name(table: PartitionedTable, name: str) -> tuple[datetime, datetime] | None:
    """Return the bounds of the partition of that name, or ``None`` where it is not a name that we give."""
    digits = re.fullmatch(rf"{re.escape(table.name)}_p(\d{{8}})", name, re.ASCII)
    if digits is None:
        return None
    try:
        found = bounds(table, datetime.strptime(f"{digits[1]}+0000", "%Y%m%d%z"))
    except (ValueError, OverflowError):
        return None
    return found if partition_name(table, found[0]) == name else None
