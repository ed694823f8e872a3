"""The arithmetic of the benchmark."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from benchmarks.figures import Spread, cpu_seconds, paired_ratios, resident_mib, schedstat, spread, steal_share, tree


def test_the_median_counts_and_the_spread_is_kept() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="no rounds"):
        spread([])


def test_ratios_are_taken_round_by_round() -> None:
    assert paired_ratios([1.0, 4.0], [2.0, 2.0]) == [0.5, 2.0]
    with pytest.raises(ValueError, match="zip"):
        paired_ratios([1.0], [])


def test_stolen_time_is_a_share_of_all_time() -> None:
    assert steal_share([0] * 8, [50, 0, 0, 40, 0, 0, 0, 10]) == 0.1


def test_cpu_time_is_read_in_nanoseconds(tmp_path: Path) -> None:
    file = tmp_path / "schedstat"
    file.write_text("1500000000 7 3\n")
    assert schedstat(file) == 1_500_000_000
    assert schedstat(tmp_path / "gone") == 0


def test_our_own_process_has_time_memory_and_a_tree() -> None:
    assert cpu_seconds([os.getpid()]) > 0
    assert resident_mib([os.getpid()]) > 1
    assert os.getpid() in tree([os.getpid()])
