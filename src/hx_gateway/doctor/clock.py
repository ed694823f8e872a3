"""This host's clock, by itself and beside those of the stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem

# No copy of this program is older.
EARLIEST = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
# Files that were just written may be a little ahead of a clock that was just set.
WRITTEN_AHEAD_SECONDS = 60.0
NOTED_SECONDS, WRONG_SECONDS = 1.0, 5.0
READINGS = 3
_REMEDY = "Synchronise the clocks by NTP on every host (timedatectl set-ntp true, or chrony)."


@dataclass(frozen=True, slots=True)
class Difference:
    """By how many seconds another clock is ahead of ours; ``uncertain`` is half of what asking took."""

    seconds: float
    uncertain: float


def examine_clock(around: Surroundings) -> list[Finding]:
    """Look at the wall clock of this host: it cannot be earlier than the program that reads it."""
    written = Path(__file__).stat().st_mtime - WRITTEN_AHEAD_SECONDS
    now, earliest = around.now(), max(EARLIEST, written)
    if now < earliest:
        detail = f"it is {_shown(now)} here, and the program is of {_shown(earliest)}"
        return [problem(Subject.CLOCK, detail, _REMEDY)]
    return [ok(Subject.CLOCK, f"it is {_shown(now)} here")]


async def difference(ask: Callable[[], Awaitable[float]], now: Callable[[], float]) -> Difference:
    """Ask another clock (seconds since 1970) several times; return what the quickest answer says."""
    found = []
    for _ in range(READINGS):
        before = now()
        theirs = await ask()
        after = now()
        found.append(Difference(theirs - (before + after) / 2, (after - before) / 2))
    return min(found, key=lambda reading: reading.uncertain)


def judge_difference(store: str, found: Difference) -> Finding:
    """Judge what is surely between the two clocks, whichever way."""
    surely = abs(found.seconds) - found.uncertain
    way = "ahead of" if found.seconds >= 0 else "behind"
    detail = f"{store} is {abs(found.seconds):.3f} s {way} this host (± {found.uncertain:.3f} s)"
    if surely > WRONG_SECONDS:
        return problem(Subject.CLOCK, detail, _REMEDY)
    return note(Subject.CLOCK, detail, _REMEDY) if surely > NOTED_SECONDS else ok(Subject.CLOCK, detail)


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
