"""Journals and records for tests, and an independent way to read a journal's files."""

from __future__ import annotations

from pathlib import Path

from hx_gateway.journal.format import Record
from hx_gateway.journal.kinds import Kind, Policy
from hx_gateway.journal.log import Journal, JournalOptions
from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.space import Budget
from hx_gateway.journal.sync import Durability

REJECTING, SHEDDING, DROPPING = 1, 2, 3
KINDS = (
    Kind(number=REJECTING, name="decisions", policy=Policy.REJECT),
    Kind(number=SHEDDING, name="events", policy=Policy.SHED),
    Kind(number=DROPPING, name="samples", policy=Policy.DROP_OLDEST),
)
FREE = Budget(max_bytes=64 * 1024**2, min_free_bytes=0, ballast_bytes=0)


def journal(
    root: Path,
    *,
    durability: Durability = Durability.PROCESS,
    segment_bytes: int = 64 * 1024,
    segment_seconds: float = 60.0,
    max_age_seconds: float = 86400.0,
    spare: bool = False,
    budget: Budget = FREE,
    wake_rows: int = 100,
) -> Journal:
    """Return a journal that is open."""
    options = JournalOptions(
        durability=durability,
        segment_bytes=segment_bytes,
        segment_seconds=segment_seconds,
        max_age_seconds=max_age_seconds,
        spare=spare,
        budget=budget,
        wake_rows=wake_rows,
    )
    made = Journal(root, "events", KINDS, options)
    made.open()
    return made


def on_disk(folder: Path) -> list[Record]:
    """Return all records below ``folder``, by the files alone."""
    return [record for path in sorted(folder.rglob("*.log")) for record in read_segment(path)]


def payloads(folder: Path) -> list[bytes]:
    """Return their payloads."""
    return [record.payload for record in on_disk(folder)]
