"""What became of every row: the figures behind the identity that nothing is lost.

``received + recovered = committed + duplicate + dead_lettered + sum(dropped) + waiting``, for each table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class TableCounts:
    """Rows of one table since this process began.

    ``recovered`` were found in journals of processes that ended; ``dropped`` is by reason. ``refused`` were never
    taken: their callers were told, they are not received.
    """

    received: int = 0
    recovered: int = 0
    committed: int = 0
    duplicate: int = 0
    dead_lettered: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, rows: int) -> None:
        """Count rows that are gone for ``reason``."""
        self.dropped[reason] = self.dropped.get(reason, 0) + rows

    def refuse(self, reason: str, rows: int) -> None:
        """Count rows that were not taken."""
        self.refused[reason] = self.refused.get(reason, 0) + rows

    def bury(self, sqlstate: str, rows: int) -> None:
        """Count rows that became dead letters."""
        self.dead_lettered[sqlstate] = self.dead_lettered.get(sqlstate, 0) + rows

    @property
    def waiting(self) -> int:
        """Rows in the journal that nothing has become of yet."""
        gone = self.committed + self.duplicate + sum(self.dead_lettered.values()) + sum(self.dropped.values())
        return self.received + self.recovered - gone


@dataclass(slots=True)
class JournalCounts:
    """All figures of one journal. ``tables`` is by the name of a record kind.

    ``lost_records`` are missing with the ``corrupt_ranges``, by the numbers before and behind them: how many rows
    those held, nobody can tell.
    """

    tables: dict[str, TableCounts] = field(default_factory=dict)
    corrupt_ranges: int = 0
    lost_records: int = 0
    sync_seconds: Callable[[float], None] | None = None

    def of(self, table: str) -> TableCounts:
        """Return the figures of ``table``."""
        counts = self.tables.get(table)
        if counts is None:
            counts = self.tables[table] = TableCounts()
        return counts
