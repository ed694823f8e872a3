"""A write that fails leaves a segment as it was; names sort as their numbers do."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from hx_gateway.journal.format import SEGMENT_HEADER_BYTES, encode_record
from hx_gateway.journal.reader import read_header, read_segment
from hx_gateway.journal.segment import Segment, replace_segment, segment_name, segment_number

STREAM = uuid4()
RECORD = encode_record(1, 1, 0, 1, 0, 0, b"x" * 100)


def segment(folder: Path, size: int = 4096) -> Segment:
    return Segment.create(folder, STREAM, 1, size=size, created_us=0)


def test_names_tell_numbers_and_nothing_else_does() -> None:
    assert segment_number(segment_name(0)) == 0
    assert segment_number(segment_name(2**63)) == 2**63
    assert sorted([segment_name(10), segment_name(9)]) == [segment_name(9), segment_name(10)]
    for name in ("1.log", segment_name(1) + ".new", segment_name(1)[:-1], "lock", "spare", "x" * 20 + ".log"):
        assert segment_number(name) is None


def test_space_is_reserved_and_given_back(tmp_path: Path) -> None:
    made = segment(tmp_path)
    assert made.path.stat().st_size == 4096
    made.write(RECORD)
    made.seal()
    assert made.path.stat().st_size == SEGMENT_HEADER_BYTES + len(RECORD)
    made.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_half_way_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    made = segment(tmp_path)
    made.write(RECORD)
    real = os.pwrite
    calls = iter([True, False])

    def half_way(fd: int, data: bytes, at: int) -> int:
        if next(calls):
            return real(fd, data[:40], at)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", half_way)
    with pytest.raises(OSError, match=os.strerror(code)):
        made.write(RECORD)
    monkeypatch.undo()
    assert made.path.stat().st_size == made.end == SEGMENT_HEADER_BYTES + len(RECORD)
    made.write(encode_record(2, 1, 0, 1, 0, 0, b"after"))
    assert [record.seq for record in read_segment(made.path)] == [1, 2]
    made.close()


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = segment(tmp_path)
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    made.write(RECORD)
    assert len(list(read_segment(made.path))) == 1
    made.close()


def test_a_write_that_makes_no_progress_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = segment(tmp_path)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        made.write(RECORD)
    made.close()


def test_a_limit_on_the_size_of_files_is_met_without_a_trace(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(_write_under_limit(tmp_path))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (path,) = tmp_path.glob("*.log")
    records = list(read_segment(path))
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert path.stat().st_size == SEGMENT_HEADER_BYTES + len(records) * len(RECORD)


def _write_under_limit(folder: Path) -> int:
    """Write until the kernel refuses; return 0 if it did, in the middle of a record."""
    made = segment(folder, size=SEGMENT_HEADER_BYTES)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for seq in range(1, 100):
        try:
            made.write(encode_record(seq, 1, 0, 1, 0, 0, b"x" * 100))
        except OSError as error:
            return 0 if error.errno == errno.EFBIG else 2
    return 1


def test_a_segment_that_cannot_be_made_whole_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _raising(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        segment(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_reserve_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _raising(errno.EOPNOTSUPP))
    made = segment(tmp_path)
    made.write(RECORD)
    assert len(list(read_segment(made.path))) == 1
    made.close()


def test_a_spare_becomes_a_segment_without_new_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Segment.make_spare(tmp_path / "spare", 4096)
    monkeypatch.setattr(os, "posix_fallocate", _raising(errno.ENOSPC))
    made = Segment.reuse(tmp_path / "spare", tmp_path, STREAM, 5, size=4096, created_us=9)
    made.write(encode_record(5, 1, 0, 1, 0, 0, b"kept"))
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == [segment_name(5)]
    header = read_header(made.path)
    assert header is not None
    assert (header.stream, header.first_seq) == (STREAM, 5)


def test_a_spare_that_cannot_be_used_stays_and_blocks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Segment.make_spare(tmp_path / "spare", 4096)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _raising(errno.EIO))
        with pytest.raises(OSError, match="error"):
            Segment.reuse(tmp_path / "spare", tmp_path, STREAM, 5, size=4096, created_us=9)
    assert [path.name for path in tmp_path.iterdir()] == ["spare"]
    Segment.create(tmp_path, STREAM, 5, size=4096, created_us=9).close()


def test_a_segment_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / segment_name(1)
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _raising(errno.ENOSPC))
        with pytest.raises(OSError, match="No space"):
            replace_segment(path, b"new", sync=True)
    assert path.read_bytes() == b"old"
    replace_segment(path, b"new", sync=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def _raising(code: int) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return call
