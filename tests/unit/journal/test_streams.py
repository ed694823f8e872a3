"""A folder belongs to the process that lives; one process takes over what a dead one left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from uuid import uuid4

import pytest

from hx_gateway.journal.segment import segment_name
from hx_gateway.journal.streams import StreamFolder, list_segments, stream_folders, stream_of

STREAM = "6f9d2c44-1b7e-4a0d-9a35-2e8c7d1f6b90"


def orphan(root: Path, segments: int = 1) -> Path:
    """Leave a folder of a stream whose writer is gone."""
    folder = StreamFolder.create(root)
    for number in range(1, segments + 1):
        (folder.path / segment_name(number)).write_bytes(b"")
    folder.release()
    return folder.path


def test_a_folder_is_named_for_its_stream_and_nobody_adopts_it_while_it_is_held(tmp_path: Path) -> None:
    folder = StreamFolder.create(tmp_path / "deep" / "root")
    assert stream_of(folder.path) == folder.stream
    assert list(stream_folders(tmp_path / "deep" / "root")) == [folder.path]
    assert StreamFolder.adopt(folder.path) is None
    folder.release()
    adopted = StreamFolder.adopt(folder.path)
    assert adopted is not None
    assert adopted.stream == folder.stream
    adopted.release()


def test_a_folder_is_removed_with_what_is_ours_and_kept_while_a_segment_is_in_it(tmp_path: Path) -> None:
    path = orphan(tmp_path)
    adopted = StreamFolder.adopt(path)
    assert adopted is not None
    adopted.remove()
    assert list_segments(path) == [1]
    (path / segment_name(1)).unlink()
    (path / "spare").write_bytes(bytes(100))
    (path / "spare.new").write_bytes(bytes(100))
    (path / f"{segment_name(1)}.new").write_bytes(bytes(100))
    adopted = StreamFolder.adopt(path)
    assert adopted is not None
    adopted.remove()
    assert not path.exists()


def test_what_is_not_ours_is_not_removed(tmp_path: Path) -> None:
    path = orphan(tmp_path, segments=0)
    saved = path / f"{segment_name(1)}.saved"
    saved.write_bytes(b"somebody put it there")
    adopted = StreamFolder.adopt(path)
    assert adopted is not None
    adopted.remove()
    assert saved.exists()


@pytest.mark.parametrize(
    "name", ["lock", "not-a-uuid", "quarantine", f".{STREAM}", STREAM.upper(), STREAM.replace("-", "")]
)
def test_only_the_one_spelling_of_an_id_is_a_stream(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert list(stream_folders(tmp_path)) == []
    assert StreamFolder.adopt(tmp_path / name) is None


def test_segments_are_files_of_their_names_in_order(tmp_path: Path) -> None:
    for number in (10, 9, 200):
        (tmp_path / segment_name(number)).write_bytes(b"")
    (tmp_path / segment_name(1)).mkdir()
    (tmp_path / segment_name(2)).symlink_to("/dev/zero")
    os.mkfifo(tmp_path / segment_name(3))
    (tmp_path / "x.log").write_bytes(b"")
    assert list_segments(tmp_path) == [9, 10, 200]
    assert list_segments(tmp_path / "missing") == []


def test_a_folder_that_cannot_be_locked_is_not_adopted(tmp_path: Path) -> None:
    path = tmp_path / str(uuid4())
    path.mkdir()
    (path / "lock").symlink_to("/dev/null")
    assert StreamFolder.adopt(path) is None
    assert StreamFolder.adopt(tmp_path / str(uuid4())) is None


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="No space"):
        StreamFolder.create(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_one_adopts_an_orphan(tmp_path: Path) -> None:
    for _ in range(20):
        path = orphan(tmp_path)
        start = time.time() + 0.02
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                while time.time() < start:
                    pass
                adopted = StreamFolder.adopt(path)
                # Held until the other has tried too.
                time.sleep(0.05)
                os._exit(adopted is not None)
            children.append(child)
        got = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(got) == [0, 1]


def test_what_was_removed_while_another_waited_for_it_is_not_adopted(tmp_path: Path) -> None:
    path = orphan(tmp_path, segments=0)
    first = StreamFolder.adopt(path)
    assert first is not None
    late = os.open(path / "lock", os.O_RDWR)
    first.remove()
    os.close(late)
    assert StreamFolder.adopt(path) is None


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    ready, tell = os.pipe()
    parent = os.fork()
    if parent == 0:
        folder = StreamFolder.create(tmp_path)
        (folder.path / segment_name(1)).write_bytes(b"")
        child = os.fork()
        if child == 0:
            os.write(tell, b"%d" % os.getpid())
            time.sleep(60)
        time.sleep(0.05)
        os._exit(0)
    os.waitpid(parent, 0)
    child = int(os.read(ready, 20))
    os.close(ready)
    os.close(tell)
    try:
        (path,) = stream_folders(tmp_path)
        adopted = StreamFolder.adopt(path)
        assert adopted is not None
        adopted.release()
    finally:
        os.kill(child, signal.SIGKILL)
