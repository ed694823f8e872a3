"""The arithmetic of the benchmark: medians, ratios, CPU time of a process tree, memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of several rounds."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of ``values``. Raises ``ValueError`` for none."""
    if not values:
        raise ValueError("no rounds")
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours to theirs, round by round: what the machine does to one round it does to both."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the seconds that ``pids``, their threads and children have been on a CPU (Linux ``schedstat``)."""
    total = 0
    for pid in tree(pids):
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += schedstat(task)
    return total / 1e9


def schedstat(path: Path) -> int:
    """Return nanoseconds on a CPU; 0 for a thread that has just ended."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, IndexError):
        return 0


def tree(pids: Iterable[int]) -> list[int]:
    """Return ``pids`` and all that descend from them."""
    found = list(pids)
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    return found


def resident_mib(pids: Iterable[int]) -> float:
    """Return the memory of ``pids`` and their descendants in MiB, shared pages counted once (PSS)."""
    total = 0
    for pid in tree(pids):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def steal_share(before: Sequence[int], after: Sequence[int]) -> float:
    """Return the share of CPU time that the hypervisor took between two readings of ``/proc/stat``'s first line."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    total = sum(spent)
    return spent[7] / total if len(spent) > 7 and total else 0.0


def read_stat() -> list[int]:
    """Return the counters of ``/proc/stat``'s first line."""
    return [int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
