"""An acknowledged record is on the disk itself; a sync that failed loses nothing and repeats nothing."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from hx_gateway.journal import sync
from hx_gateway.journal.errors import JournalRefused
from hx_gateway.journal.log import Journal
from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.sync import Durability
from tests.unit.journal.samples import REJECTING, journal, on_disk, payloads

SYNCING = [Durability.GROUP, Durability.ALWAYS]


class Disk:
    """Counts syncs; fails those it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: int = 0) -> None:
        self.failing = failing
        self.syncs = 0
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        self.syncs += 1
        if self.failing:
            self.failing -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._real(fd)


def readable(made: Journal) -> list[int]:
    """Return the numbers of the records that may be applied."""
    found: list[int] = []
    places = [(sealed.first_seq, sealed.path) for sealed in made.sealed.values()]
    if made.active is not None:
        places.append((made.active.first_seq, made.active.path))
    for number, path in places:
        found += [record.seq for record in read_segment(path, made.readable(number)[0])]
    return found


@pytest.mark.parametrize("durability", SYNCING)
async def test_a_record_is_acknowledged_after_the_sync_and_not_applied_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    made = journal(tmp_path, durability=durability)
    disk = Disk(monkeypatch)
    seq = made.append(REJECTING, b"1", 1)
    assert (disk.syncs, readable(made)) == (0, [])
    await made.synced(seq)
    assert (disk.syncs, readable(made)) == (1, [seq])
    made.close()


async def test_a_group_shares_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path, durability=Durability.GROUP)
    disk = Disk(monkeypatch)
    await asyncio.gather(*[made.synced(made.append(REJECTING, b"x", 1)) for _ in range(100)])
    assert disk.syncs == 1
    assert readable(made) == list(range(1, 101))
    made.close()


async def test_a_process_that_does_not_sync_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path)
    disk = Disk(monkeypatch)
    await made.synced(made.append(REJECTING, b"1", 1))
    assert disk.syncs == 0
    assert readable(made) == [1]
    made.close()


@pytest.mark.parametrize("durability", SYNCING)
async def test_a_sync_that_fails_moves_its_records_to_another_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    made = journal(tmp_path, durability=durability)
    disk = Disk(monkeypatch)
    for number in range(1, 4):
        await made.synced(made.append(REJECTING, b"%d" % number, 1))
    disk.failing = 1
    for number in range(4, 8):
        made.append(REJECTING, b"%d" % number, 1)
    await made.synced(7)
    assert [record.seq for record in on_disk(tmp_path)] == readable(made) == [1, 2, 3, 4, 5, 6, 7]
    assert payloads(tmp_path) == [b"%d" % number for number in range(1, 8)]
    assert list(made.sealed) == [1]
    assert made.active is not None
    assert made.active.first_seq == 4
    assert made.counts.of("decisions").waiting == 7
    await made.synced(made.append(REJECTING, b"8", 1))
    made.close()


async def test_a_sync_that_fails_over_several_segments_keeps_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path, durability=Durability.GROUP, segment_bytes=4096)
    disk = Disk(monkeypatch, failing=1)
    for _ in range(20):
        made.append(REJECTING, bytes(1024), 1)
    assert readable(made) == []
    await made.synced(20)
    assert disk.syncs >= 2
    assert [record.seq for record in on_disk(tmp_path)] == readable(made) == list(range(1, 21))
    made.close()


async def test_a_sealed_segment_is_not_applied_before_it_is_on_the_disk(tmp_path: Path) -> None:
    made = journal(tmp_path, durability=Durability.ALWAYS, segment_bytes=4096)
    for _ in range(5):
        made.append(REJECTING, bytes(1024), 1)
    assert list(made.sealed) == [1]
    assert made.readable(1) == (64, False)
    await made.synced(5)
    assert made.readable(1) == (made.sealed[1].end, True)
    made.close()


async def test_a_disk_that_cannot_sync_at_all_refuses_and_takes_again_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path, durability=Durability.ALWAYS)
    disk = Disk(monkeypatch)
    await made.synced(made.append(REJECTING, b"before", 1))
    disk.failing = 10**9
    seqs = [made.append(REJECTING, b"lost", 2) for _ in range(5)]
    results = await asyncio.wait_for(asyncio.gather(*map(made.synced, seqs), return_exceptions=True), 20)
    assert [type(result) for result in results] == [JournalRefused] * 5
    assert disk.syncs <= 2 + sync.MAX_FAILURES
    counts = made.counts.of("decisions")
    assert (counts.received, counts.refused, counts.waiting) == (1, {"disk_error": 10}, 1)
    disk.failing = 0
    await made.synced(made.append(REJECTING, b"after", 1))
    # Who asks late is not told a lie.
    with pytest.raises(JournalRefused):
        await made.synced(seqs[0])
    await made.synced(1)
    assert payloads(tmp_path) == [b"before", b"after"]
    assert readable(made) == [record.seq for record in on_disk(tmp_path)]
    made.close()


async def test_a_disk_that_is_full_when_records_move_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path, durability=Durability.ALWAYS)
    Disk(monkeypatch, failing=1)
    seq = made.append(REJECTING, b"x", 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(JournalRefused):
            await made.synced(seq)
    assert on_disk(tmp_path) == []
    assert made.counts.of("decisions").refused == {"disk_full": 1}
    assert made.counts.of("decisions").waiting == 0
    await made.synced(made.append(REJECTING, b"y", 1))
    assert payloads(tmp_path) == [b"y"]
    made.close()


async def test_a_record_whose_caller_went_away_is_synced_all_the_same(tmp_path: Path) -> None:
    made = journal(tmp_path, durability=Durability.GROUP)
    made.append(REJECTING, b"1", 1)
    made.tick()
    async with asyncio.timeout(10):
        while readable(made) != [1]:
            await asyncio.sleep(0.01)
    made.close()


async def test_a_folder_that_cannot_be_synced_refuses_and_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        made = journal(tmp_path, durability=Durability.ALWAYS)
        with pytest.raises(JournalRefused):
            made.append(REJECTING, b"1", 1)
    await made.synced(made.append(REJECTING, b"2", 1))
    assert payloads(tmp_path) == [b"2"]
    made.close()
