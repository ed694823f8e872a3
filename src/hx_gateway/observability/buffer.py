"""One table's way into the journal, and how many of its rows are still on their way to the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hx_gateway.journal.counts import TableCounts
from hx_gateway.journal.format import MAX_PAYLOAD_BYTES
from hx_gateway.journal.log import Journal
from hx_gateway.observability.rows import Row


class BatchWriteBuffer:
    """What is added is kept at once; the journal's drain makes batches of it. Nothing here is only in memory.

    Raises :class:`~hx_gateway.journal.errors.JournalRefused` for what cannot be kept.
    """

    def __init__(self, journal: Journal, kind: int) -> None:
        self._journal = journal
        self._append = journal.append
        self.kind = kind
        self.table = journal.kinds[kind].name

    @property
    def counts(self) -> TableCounts:
        """What became of the table's rows."""
        return self._journal.counts.of(self.table)

    @property
    def pending(self) -> int:
        """Rows that are kept and not in the database yet."""
        return self.counts.waiting

    def add(self, row: Row) -> int:
        """Keep one row; return the number of its record."""
        time_us = row.time_us
        return self._append(self.kind, row.data, 1, time_us, time_us, row.flags)

    def add_together(self, rows: Sequence[Row]) -> int:
        """Keep rows that share their ``flags`` as one record, all or none; return its number. 8 MiB at most."""
        times = [row.time_us for row in rows]
        payload = b"".join([row.data for row in rows])
        return self._append(self.kind, payload, len(rows), min(times), max(times), rows[0].flags)


def portions(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield ``rows`` in runs that fit a record each."""
    begin, size = 0, 0
    for at, row in enumerate(rows):
        if size + len(row.data) > MAX_PAYLOAD_BYTES:
            yield rows[begin:at]
            begin, size = at, 0
        size += len(row.data)
    if begin < len(rows):
        yield rows[begin:]
