"""What is drained next, by whom, and what happens to a segment that is done with."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import pytest

from hx_gateway.journal.backlog import Backlog, Reading
from hx_gateway.journal.log import Journal
from hx_gateway.journal.sync import Durability
from tests.unit.journal.samples import DROPPING, REJECTING, journal

ALL = {"max_rows": 10**6, "max_bytes": 10**9}


def filled(root: Path, segments: int, kind: int = REJECTING, **options: Durability) -> Journal:
    """Return a journal of so many sealed segments of three records."""
    made = journal(root, segment_bytes=4096, **options)  # type: ignore[arg-type]
    for _ in range(segments * 3 + 1):
        made.append(kind, bytes(1000), 1)
    return made


def claim(backlog: Backlog) -> Reading:
    reading = backlog.claim()
    assert reading is not None
    return reading


async def test_segments_are_claimed_in_order_and_by_one_lane_each(tmp_path: Path) -> None:
    made = filled(tmp_path, 2)
    backlog = Backlog(made, ordered=False)
    first, second = claim(backlog), claim(backlog)
    assert [first.first_seq, second.first_seq] == [1, 4]
    assert backlog.claim() is None
    backlog.due = True
    assert claim(backlog).first_seq == 7
    assert made.draining == {1, 4, 7}
    backlog.release(first)
    assert claim(backlog) is first
    made.close()


async def test_an_ordered_backlog_has_one_segment_of_a_stream_in_work(tmp_path: Path) -> None:
    other = filled(tmp_path, 1)
    other.close()
    made = filled(tmp_path, 2)
    backlog = Backlog(made, ordered=True)
    backlog.adopt()
    adopted = claim(backlog)
    own = claim(backlog)
    assert [adopted.own, own.own] == [False, True]
    assert backlog.claim() is None
    backlog.release(own)
    own.resting_until = time.monotonic() + 60
    assert backlog.claim() is None
    backlog.close()
    made.close()


async def test_a_segment_that_rests_holds_up_no_other(tmp_path: Path) -> None:
    made = filled(tmp_path, 2)
    backlog = Backlog(made, ordered=False)
    first = claim(backlog)
    first.resting_until = time.monotonic() + 60
    backlog.release(first)
    assert claim(backlog).first_seq == 4
    made.close()


async def test_what_is_sealed_and_not_on_the_disk_is_not_claimed(tmp_path: Path) -> None:
    made = filled(tmp_path, 1, durability=Durability.GROUP)
    backlog = Backlog(made, ordered=False)
    assert backlog.claim() is None
    await made.synced(made.last_seq)
    reading = claim(backlog)
    chunk = await backlog.read(reading, **ALL)
    assert ([record.seq for record in chunk.records], chunk.ended) == ([1, 2, 3], True)
    made.close()


async def test_a_segment_that_lost_records_to_its_policy_is_read_from_its_beginning(tmp_path: Path) -> None:
    made = journal(tmp_path, segment_bytes=4096)
    for kind in (DROPPING, REJECTING, REJECTING, REJECTING):
        made.append(kind, bytes(1000), 1)
    backlog = Backlog(made, ordered=False)
    reading = claim(backlog)
    reading.offset = (await backlog.read(reading, max_rows=1, max_bytes=1)).next_offset
    made.applied[1] = reading.applied_seq = 1
    backlog.release(reading)
    made.applied[1] = 0
    assert made._drop_oldest("drop_oldest")
    again = claim(backlog)
    chunk = await backlog.read(again, **ALL)
    assert [record.seq for record in chunk.records] == [2, 3]
    made.close()


async def test_a_file_that_cannot_be_removed_keeps_its_cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 1).close()
    made = filled(tmp_path, 1)
    backlog = Backlog(made, ordered=False)
    backlog.adopt()

    def broken(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", broken)
        for _ in range(3):
            backlog.finish(claim(backlog))
    assert backlog.all_finished() == {}
    backlog.close()
    made.close()


async def test_a_finished_segment_leaves_its_cursor_to_be_forgotten_once(tmp_path: Path) -> None:
    made = filled(tmp_path, 2)
    backlog = Backlog(made, ordered=False)
    for number in (1, 4):
        reading = claim(backlog)
        assert reading.first_seq == number
        backlog.finish(reading)
        backlog.release(reading)
        assert not reading.path.exists()
    assert backlog.finished(made.stream) == [1, 4]
    backlog.forgotten(made.stream, [1])
    assert backlog.all_finished() == {made.stream: [4]}
    made.close()


async def test_an_adopted_folder_goes_with_its_last_segment(tmp_path: Path) -> None:
    other = filled(tmp_path, 1)
    other.close()
    assert other.folder is not None
    made = journal(tmp_path)
    backlog = Backlog(made, ordered=False)
    assert backlog.adopt() == [other.folder]
    assert backlog.adopt() == []
    assert not backlog.idle
    for _ in range(2):
        backlog.finish(claim(backlog))
    assert not other.folder.exists()
    assert backlog.idle
    made.close()


def test_a_batch_that_runs_out_of_time_is_halved_and_grows_again() -> None:
    reading = Reading(uuid4(), 1, Path("segment"), own=True)
    reading.was_too_much(5000)
    assert reading.most_rows == 2500
    reading.was_too_much(1)
    assert reading.most_rows == 1
    sizes = []
    for _ in range(4):
        reading.took_it(8)
        sizes.append(reading.most_rows)
    assert sizes == [2, 4, None, None]
