"""What the journal takes is on disk; what it cannot take is refused, shed or makes room, and is counted."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from pathlib import Path

import pytest

from hx_gateway.journal.errors import JournalClosed, JournalRefused
from hx_gateway.journal.format import MAX_PAYLOAD_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SHEDDABLE
from hx_gateway.journal.log import Journal
from hx_gateway.journal.reader import read_segment
from hx_gateway.journal.space import Budget, Pressure
from hx_gateway.journal.sync import Durability
from tests.unit.journal.samples import DROPPING, REJECTING, SHEDDING, journal, on_disk, payloads

KILOBYTE = bytes(1024)


def share(segments: int, size: int = 64 * 1024) -> Budget:
    """Return a budget of so many segments."""
    return Budget(max_bytes=segments * size, min_free_bytes=0, ballast_bytes=0)


def fill(made: Journal, kind: int, count: int, size: int = 1024, flags: int = 0) -> int:
    """Append ``count`` records of ``size`` bytes; return how many were refused."""
    refused = 0
    for _ in range(count):
        try:
            made.append(kind, bytes(size), 1, flags=flags)
        except JournalRefused:
            refused += 1
    return refused


def waiting(made: Journal) -> dict[str, int]:
    return {name: counts.waiting for name, counts in made.counts.tables.items() if counts.waiting}


def on_disk_by_kind(made: Journal) -> dict[str, int]:
    found: dict[str, int] = {}
    for record in on_disk(made.root):
        name = made.kinds[record.kind].name
        found[name] = found.get(name, 0) + record.rows
    return found


def test_what_was_appended_is_on_disk_in_order(tmp_path: Path) -> None:
    made = journal(tmp_path)
    numbers = [made.append(REJECTING, b"%d" % number, 1) for number in range(1000)]
    assert numbers == list(range(1, 1001))
    assert payloads(tmp_path) == [b"%d" % number for number in range(1000)]
    made.close()
    assert payloads(tmp_path) == [b"%d" % number for number in range(1000)]
    assert waiting(made) == {"decisions": 1000}


def test_records_that_are_written_together_are_like_those_that_are_not(tmp_path: Path) -> None:
    made = journal(tmp_path, wake_rows=5)
    made.append(REJECTING, b"1", 1)
    assert made.append_together(REJECTING, [b"2", b"", b"4"])
    assert (made.last_seq, made.arrived.is_set(), waiting(made)) == (4, False, {"decisions": 4})
    assert made.append_together(REJECTING, [b"5"])
    assert made.append(REJECTING, b"6", 1) == 6
    assert made.arrived.is_set()
    assert [(record.seq, record.rows, record.payload) for record in on_disk(tmp_path)] == [
        (number, 1, b"" if number == 3 else b"%d" % number) for number in range(1, 7)
    ]
    made.close()
    assert waiting(made) == {"decisions": 6}


def test_records_that_do_not_fit_together_are_not_written(tmp_path: Path) -> None:
    made = journal(tmp_path, segment_bytes=8192)
    group = [KILOBYTE] * 8
    assert not made.append_together(REJECTING, group)
    assert made.append_together(REJECTING, group[:7])
    assert not made.append_together(REJECTING, [KILOBYTE])
    assert [made.append(REJECTING, KILOBYTE, 1), len(on_disk(tmp_path)), waiting(made)] == [8, 8, {"decisions": 8}]
    assert not made.append_together(REJECTING, [bytes(MAX_PAYLOAD_BYTES + 1)])
    made.close()
    # Whoever closed is not written to: one by one they say why.
    assert not made.append_together(REJECTING, [KILOBYTE])


@pytest.mark.parametrize("taken", [0, 30, None], ids=["nothing", "a part", "error"])
def test_a_disk_that_fails_under_a_group_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int | None
) -> None:
    made = journal(tmp_path)
    made.append(REJECTING, b"before", 1)
    real = os.pwrite

    def pwrite(fd: int, data: bytes, at: int) -> int:
        if taken is None:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data[:taken], at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        assert not made.append_together(REJECTING, [b"one", b"two"])
    assert (made.last_seq, waiting(made)) == (1, {"decisions": 1})
    assert [made.append(REJECTING, payload, 1) for payload in (b"one", b"two")] == [2, 3]
    assert payloads(tmp_path) == [b"before", b"one", b"two"]
    made.close()


def test_records_that_somebody_waits_for_are_written_one_by_one(tmp_path: Path) -> None:
    made = journal(tmp_path, durability=Durability.GROUP)
    assert not made.append_together(REJECTING, [b"1", b"2"])
    made.close()


def test_a_segment_ends_at_its_size_and_no_record_is_split(tmp_path: Path) -> None:
    made = journal(tmp_path, segment_bytes=8192)
    fill(made, REJECTING, 50)
    fits = (8192 - SEGMENT_HEADER_BYTES) // (1024 + RECORD_HEADER_BYTES)
    assert [sealed.rows for sealed in made.sealed.values()] == [fits] * (49 // fits)
    assert list(made.sealed) == [1 + fits * index for index in range(49 // fits)]
    assert len(on_disk(tmp_path)) == 50
    made.close()


def test_a_record_larger_than_a_segment_gets_one_of_its_size(tmp_path: Path) -> None:
    made = journal(tmp_path, segment_bytes=8192)
    made.append(REJECTING, bytes(100_000), 1)
    made.append(REJECTING, b"after", 1)
    assert [len(payload) for payload in payloads(tmp_path)] == [100_000, 5]
    made.close()


def test_a_record_over_the_limit_is_refused_though_it_would_fit(tmp_path: Path) -> None:
    made = journal(tmp_path, segment_bytes=3 * MAX_PAYLOAD_BYTES, budget=Budget(max_bytes=None, ballast_bytes=0))
    made.append(REJECTING, bytes(MAX_PAYLOAD_BYTES), 1)
    with pytest.raises(ValueError, match="over the limit"):
        made.append(REJECTING, bytes(MAX_PAYLOAD_BYTES + 1), 1)
    made.append(REJECTING, b"after", 1)
    assert [len(payload) for payload in payloads(tmp_path)] == [MAX_PAYLOAD_BYTES, 5]
    made.close()


def test_a_segment_ends_at_its_age_whatever_the_clock_on_the_wall_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path, segment_seconds=60)
    made.append(REJECTING, b"1", 1)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    made.tick()
    assert not made.sealed
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 61)
    made.tick()
    assert list(made.sealed) == [1]
    assert made.active is None
    made.close()


def test_an_empty_segment_does_not_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path, segment_seconds=60)
    began = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began + 61)
    made.tick()
    assert made.active is not None
    made.close()
    assert list(made.root.iterdir()) == []


# Policies


def test_a_kind_that_rejects_is_refused_and_what_is_there_stays(tmp_path: Path) -> None:
    made = journal(tmp_path, budget=share(4))
    refused = fill(made, REJECTING, 400)
    assert refused > 0
    made.tick()
    assert fill(made, REJECTING, 1) == 1
    refused += 1
    assert made.counts.of("decisions").refused == {"over_budget": refused}
    assert on_disk_by_kind(made) == waiting(made) == {"decisions": 401 - refused}
    assert not made.accepting
    made.close()


def test_from_four_fifths_on_what_may_be_shed_is_dropped_and_the_rest_is_kept(tmp_path: Path) -> None:
    made = journal(tmp_path, budget=share(10))
    fill(made, SHEDDING, 500)
    made.tick()
    assert made.space.pressure is Pressure.PRESSED
    assert fill(made, SHEDDING, 10, flags=SHEDDABLE) == 0
    assert fill(made, SHEDDING, 5) == 0
    assert fill(made, REJECTING, 5, flags=SHEDDABLE) == 0
    counts = made.counts.of("events")
    assert (counts.received, counts.dropped) == (515, {"shed": 10})
    assert on_disk_by_kind(made) == waiting(made) == {"events": 505, "decisions": 5}
    made.close()


def test_the_oldest_make_room_and_those_that_are_never_dropped_stay_where_they_are(tmp_path: Path) -> None:
    made = journal(tmp_path, budget=share(5))
    kept = []
    for number in range(1000):
        made.append(DROPPING, KILOBYTE, 1)
        if number % 50 == 0:
            kept.append(made.append(REJECTING, b"never drop %d" % number, 1))
        if number % 10 == 0:
            made.tick()
    counts = made.counts.of("samples")
    assert counts.dropped["drop_oldest"] > 500
    assert counts.refused == {}
    assert on_disk_by_kind(made) == waiting(made)
    records = on_disk(tmp_path)
    assert [record.seq for record in records if record.kind == REJECTING] == kept
    # The newest of those that may be dropped are there, and all numbers grow.
    assert [record.seq for record in records] == sorted({record.seq for record in records})
    assert records[-1].seq == made.last_seq
    made.close()


def test_a_kind_that_drops_does_not_push_the_journal_over_its_budget(tmp_path: Path) -> None:
    made = journal(tmp_path, budget=share(6))
    for _ in range(300):
        fill(made, DROPPING, 2)
        fill(made, REJECTING, 1)
        assert sum(path.stat().st_size for path in made.root.rglob("*.log")) <= 6 * 64 * 1024
    made.tick()
    # What is left are those that are never dropped: nobody gets in any more.
    assert fill(made, DROPPING, 100) > 0
    assert on_disk_by_kind(made) == waiting(made)
    made.close()


def test_nothing_of_a_segment_that_is_being_applied_is_dropped(tmp_path: Path) -> None:
    made = journal(tmp_path, budget=share(4))
    made.append(DROPPING, b"first", 1)
    fill(made, DROPPING, 130)
    made.draining.add(1)
    fill(made, DROPPING, 500)
    assert b"first" in payloads(tmp_path)
    made.draining.clear()
    fill(made, DROPPING, 200)
    assert b"first" not in payloads(tmp_path)
    assert on_disk_by_kind(made) == waiting(made)
    made.close()


def test_what_is_applied_already_is_not_counted_as_dropped(tmp_path: Path) -> None:
    made = journal(tmp_path, budget=share(3))
    fill(made, DROPPING, 62)
    first = made.sealed[1]
    made.applied[1] = 40
    made.counts.of("samples").committed += 40
    fill(made, DROPPING, 130)
    assert made.counts.of("samples").dropped["drop_oldest"] % 61 != 0
    left = sum(count for count in on_disk_by_kind(made).values())
    assert waiting(made) == {"samples": left}
    assert not first.path.exists()
    made.close()


def test_a_kind_that_drops_is_refused_where_nothing_can_be_dropped(tmp_path: Path) -> None:
    made = journal(tmp_path, budget=share(4))
    fill(made, REJECTING, 400)
    assert fill(made, DROPPING, 3) == 3
    assert made.counts.of("samples").refused == {"over_budget": 3}
    assert on_disk_by_kind(made) == waiting(made)
    made.close()


def test_what_is_too_old_goes_but_never_what_is_not_to_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path, max_age_seconds=100, segment_seconds=10)
    began = time.monotonic()
    fill(made, SHEDDING, 5)
    made.append(REJECTING, b"old and dear", 1)
    monkeypatch.setattr(time, "monotonic", lambda: began + 50)
    made.tick()
    fill(made, SHEDDING, 7)
    monkeypatch.setattr(time, "monotonic", lambda: began + 101)
    made.tick()
    made.tick()
    assert made.counts.of("events").dropped == {"age": 5}
    assert on_disk_by_kind(made) == waiting(made) == {"decisions": 1, "events": 7}
    made.close()


def test_an_old_segment_that_is_being_applied_does_not_cost_younger_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path, max_age_seconds=100, segment_seconds=10)
    began = time.monotonic()
    fill(made, SHEDDING, 5)
    monkeypatch.setattr(time, "monotonic", lambda: began + 90)
    made.tick()
    fill(made, SHEDDING, 7)
    made.draining.add(1)
    monkeypatch.setattr(time, "monotonic", lambda: began + 102)
    made.tick()
    assert on_disk_by_kind(made) == waiting(made) == {"events": 12}
    made.draining.clear()
    made.tick()
    assert on_disk_by_kind(made) == waiting(made) == {"events": 7}
    made.close()


def test_a_clock_that_jumps_ten_years_makes_nothing_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path, max_age_seconds=100)
    fill(made, SHEDDING, 100)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10 * 365 * 86400 * 10**9)
    made.tick()
    fill(made, SHEDDING, 100)
    made.tick()
    assert on_disk_by_kind(made) == waiting(made) == {"events": 200}
    made.close()


# Disks


def test_a_full_disk_refuses_and_recovers_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path)
    fill(made, REJECTING, 10)
    real = os.pwrite
    full = True

    def pwrite(fd: int, data: bytes, at: int) -> int:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert fill(made, REJECTING, 5) == 5
    assert made.counts.of("decisions").refused == {"disk_full": 5}
    full = False
    assert fill(made, REJECTING, 10) == 0
    assert on_disk_by_kind(made) == waiting(made) == {"decisions": 20}
    assert [record.seq for record in on_disk(tmp_path)] == list(range(1, 21))
    made.close()


def test_a_write_that_fails_once_goes_to_another_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = journal(tmp_path)
    fill(made, REJECTING, 3)
    real, calls = os.pwrite, itertools.count()

    def pwrite(fd: int, data: bytes, at: int) -> int:
        match next(calls):
            case 0:
                return real(fd, data[:100], at)
            case 1:
                raise OSError(errno.EIO, "Input/output error")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    made.append(REJECTING, KILOBYTE, 1)
    made.append(REJECTING, KILOBYTE, 1)
    assert [record.seq for record in on_disk(tmp_path)] == [1, 2, 3, 4, 5]
    assert list(made.sealed) == [1]
    assert waiting(made) == {"decisions": 5}
    made.close()


def test_a_spare_segment_takes_what_a_full_disk_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(max_bytes=None, ballast_bytes=0)
    made = journal(tmp_path, spare=True, budget=budget, segment_bytes=8192)
    fill(made, REJECTING, 7)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert fill(made, REJECTING, 7) == 0
    assert fill(made, REJECTING, 7) == 7
    monkeypatch.undo()
    assert fill(made, REJECTING, 7) == 0
    assert [record.seq for record in on_disk(tmp_path)] == list(range(1, 22))
    made.close()
    assert [path.suffix for path in made.root.rglob("*") if path.is_file() and path.name != "lock"] == [".log"] * 3


def test_the_ballast_is_given_up_when_the_disk_is_full_and_made_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = journal(tmp_path, budget=Budget(max_bytes=2**30, min_free_bytes=0, ballast_bytes=65536))
    ballast = made.root / "ballast"
    assert ballast.stat().st_size == 65536
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _no_space)
        assert fill(made, REJECTING, 1) == 1
        assert not ballast.exists()
    made.tick()
    assert ballast.exists()
    made.close()


def _no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


# What is in the way


def test_a_root_that_is_no_folder_refuses_and_does_not_fail_to_open(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.write_text("not a folder")
    made = journal(root)
    assert not made.accepting
    assert fill(made, REJECTING, 3) == 3
    root.unlink()
    made.tick()
    assert fill(made, REJECTING, 3) == 0
    assert on_disk_by_kind(made) == waiting(made) == {"decisions": 3}
    made.close()


def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    made = journal(tmp_path, segment_bytes=8192)
    fill(made, REJECTING, 10)
    stream = made.stream
    shutil.rmtree(tmp_path / "events")
    made.tick()
    assert fill(made, REJECTING, 20) == 0
    assert made.stream != stream
    assert [record.seq for record in on_disk(tmp_path)][-10:] == list(range(21, 31))
    made.close()


def test_garbage_in_the_folder_is_in_nobodys_way(tmp_path: Path) -> None:
    root = tmp_path / "events"
    orphan = root / "11111111-2222-3333-4444-555555555555"
    orphan.mkdir(parents=True)
    (orphan / "00000000000000000001.log").mkdir()
    os.mkfifo(orphan / "00000000000000000002.log")
    (root / "file").write_bytes(b"\0" * 100)
    (root / "ballast").mkdir()
    (root / "spare").symlink_to("/nowhere")
    made = journal(tmp_path)
    assert fill(made, REJECTING, 3) == 0
    made.tick()
    made.close()
    assert waiting(made) == {"decisions": 3}


def test_a_journal_that_is_not_open_or_closed_or_of_an_unknown_kind_takes_nothing(tmp_path: Path) -> None:
    made = journal(tmp_path)
    with pytest.raises(LookupError):
        made.append(77, b"", 1)
    made.append(REJECTING, b"x", 1)
    assert [record.seq for record in on_disk(tmp_path)] == [1]
    made.close()
    with pytest.raises(JournalClosed):
        made.append(REJECTING, b"y", 1)
    assert payloads(tmp_path) == [b"x"]


def test_a_forked_child_is_refused_and_leaves_its_parents_files_alone(tmp_path: Path) -> None:
    made = journal(tmp_path, spare=True)
    fill(made, REJECTING, 100)
    before = sorted(path.name for path in made.root.rglob("*"))
    child = os.fork()
    if child == 0:
        try:
            made.append(REJECTING, b"from the child", 1)
        except JournalClosed:
            made.tick()
            made.close()
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(path.name for path in made.root.rglob("*")) == before
    made.append(REJECTING, b"from the parent", 1)
    assert payloads(tmp_path)[-1] == b"from the parent"
    made.close()


# Elsewhere


def test_in_memory_nothing_is_on_disk_and_segments_can_be_read(tmp_path: Path) -> None:
    made = journal(tmp_path, durability=Durability.MEMORY, segment_bytes=8192)
    fill(made, REJECTING, 20)
    assert list(tmp_path.rglob("*.log")) == []
    found = [record.seq for sealed in made.sealed.values() for record in read_segment(sealed.path, sealed.end)]
    assert made.active is not None
    found += [record.seq for record in read_segment(made.active.path, made.active.end)]
    assert found == list(range(1, 21))
    assert made.folder is None
    made.close()


def test_in_memory_the_budget_holds_and_the_oldest_make_room(tmp_path: Path) -> None:
    made = journal(tmp_path, durability=Durability.MEMORY, segment_bytes=8192, budget=share(6, 8192))
    for number in range(200):
        made.append(DROPPING, KILOBYTE, 1)
        if number % 20 == 0:
            made.append(REJECTING, b"kept", 1)
    records = [record for sealed in made.sealed.values() for record in read_segment(sealed.path, sealed.end)]
    assert made.active is not None
    records += read_segment(made.active.path, made.active.end)
    assert sum(record.kind == REJECTING for record in records) == 10
    assert waiting(made) == {"decisions": 10, "samples": sum(record.kind == DROPPING for record in records)}
    made.close()


def test_closing_removes_what_is_applied_and_leaves_the_rest(tmp_path: Path) -> None:
    made = journal(tmp_path, segment_bytes=8192)
    fill(made, REJECTING, 20)
    first, *others = made.sealed.values()
    made.applied[first.first_seq] = first.last_seq
    made.close()
    assert not first.path.exists()
    assert all(other.path.exists() for other in others)
    assert [record.seq for record in on_disk(tmp_path)] == list(range(first.last_seq + 1, 21))


def test_what_waits_wakes_the_drain_at_the_rows_that_were_asked_for(tmp_path: Path) -> None:
    made = journal(tmp_path)
    fill(made, REJECTING, 99)
    assert not made.arrived.is_set()
    fill(made, REJECTING, 1)
    assert made.arrived.is_set()
    made.seen()
    assert not made.arrived.is_set()
    made.close()
