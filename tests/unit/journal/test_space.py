"""How full a journal is, by what it holds and by what is left."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hx_gateway.journal.space import Budget, Pressure, Space

KILOBYTE = 1024


def space(root: Path, **budget: int | None) -> Space:
    return Space(root, Budget(**{"max_bytes": 100 * KILOBYTE, "min_free_bytes": 0, "ballast_bytes": 0, **budget}))  # type: ignore[arg-type]


def hold(root: Path, kilobytes: int, name: str = "file") -> None:
    (root / name).write_bytes(bytes(kilobytes * KILOBYTE))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk of 1 MB whose free space a test says."""
    found = SimpleNamespace(f_bavail=1000, f_frsize=KILOBYTE, f_blocks=1024)
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    return found


@pytest.mark.parametrize(("held", "pressure"), [(40, Pressure.OK), (88, Pressure.PRESSED), (104, Pressure.FULL)])
def test_pressure_is_told_by_what_all_streams_hold(tmp_path: Path, held: int, pressure: Pressure) -> None:
    (tmp_path / "stream").mkdir()
    hold(tmp_path / "stream", held // 2)
    hold(tmp_path, held // 2)
    assert space(tmp_path).refresh() is pressure


def test_a_tenth_of_the_disk_is_the_most(tmp_path: Path, disk: SimpleNamespace) -> None:
    watched = space(tmp_path, max_bytes=10**12)
    watched.refresh()
    assert watched.max_bytes == 1024 * KILOBYTE // 10


def test_what_must_stay_free_makes_it_full(tmp_path: Path, disk: SimpleNamespace) -> None:
    watched = space(tmp_path, min_free_bytes=50 * KILOBYTE)
    disk.f_bavail = 49
    assert watched.refresh() is Pressure.FULL
    assert not watched.admits(0)
    disk.f_bavail = 51
    assert watched.refresh() is Pressure.OK
    assert watched.admits(KILOBYTE)
    assert not watched.admits(2 * KILOBYTE)


def test_without_a_bound_only_the_disk_says_no(tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.f_bavail = 0
    watched = space(tmp_path, max_bytes=None, min_free_bytes=10**9)
    assert watched.refresh() is Pressure.OK
    assert watched.admits(10**12)


def test_growth_counts_before_the_next_measure(tmp_path: Path) -> None:
    watched = space(tmp_path)
    watched.refresh()
    assert watched.admits(60 * KILOBYTE)
    watched.grew(60 * KILOBYTE)
    assert not watched.admits(60 * KILOBYTE)
    watched.grew(-60 * KILOBYTE)
    assert watched.admits(60 * KILOBYTE)


def test_a_root_that_cannot_be_read_is_full(tmp_path: Path) -> None:
    watched = space(tmp_path / "missing")
    assert watched.refresh() is Pressure.FULL
    assert not watched.admits(1)


def test_the_ballast_is_no_use_of_ours_and_given_up_when_full(tmp_path: Path, disk: SimpleNamespace) -> None:
    watched = space(tmp_path, ballast_bytes=200 * KILOBYTE)
    watched.refresh()
    watched.keep_ballast()
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= 200 * KILOBYTE
    assert watched.refresh() is Pressure.OK
    assert watched.used_bytes == 0
    hold(tmp_path, 200)
    assert watched.refresh() is Pressure.FULL
    assert not (tmp_path / "ballast").exists()
    watched.keep_ballast()
    assert not (tmp_path / "ballast").exists()


def test_a_ballast_that_there_is_hardly_room_for_is_not_made(tmp_path: Path, disk: SimpleNamespace) -> None:
    disk.f_bavail = 399
    watched = space(tmp_path, ballast_bytes=200 * KILOBYTE)
    watched.refresh()
    watched.keep_ballast()
    assert not (tmp_path / "ballast").exists()
    disk.f_bavail = 400
    watched.refresh()
    watched.keep_ballast()
    assert (tmp_path / "ballast").exists()


def test_a_ballast_that_cannot_be_reserved_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    watched = space(tmp_path, ballast_bytes=KILOBYTE)
    watched.refresh()
    watched.keep_ballast()
    assert list(tmp_path.iterdir()) == []


def test_what_memory_holds_is_judged_as_a_disk_is(tmp_path: Path) -> None:
    watched = space(tmp_path)
    assert watched.holds(10 * KILOBYTE) is Pressure.OK
    assert watched.holds(90 * KILOBYTE) is Pressure.PRESSED
    assert watched.holds(101 * KILOBYTE) is Pressure.FULL
