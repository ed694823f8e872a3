"""The folders of a journal's streams: one a process that writes, locked while it lives, adopted when it is gone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import UUID, uuid4
from weakref import WeakSet

from hx_gateway.journal.segment import DRAFT_SUFFIX, SPARE_FILE, segment_number

LOCK_FILE = "lock"
QUARANTINE = "quarantine"


class StreamFolder:
    """A folder whose lock this process holds. ``stream`` is the name of the folder and of its cursor rows."""

    def __init__(self, path: Path, stream: UUID, lock_fd: int) -> None:
        self.path = path
        self.stream = stream
        self._lock_fd: int | None = lock_fd
        _held.add(self)

    @classmethod
    def create(cls, root: Path) -> Self:
        """Make a stream of our own. Raises ``OSError``."""
        stream = uuid4()
        path = root / str(stream)
        # Parents that are made on the way get the mode of the process, whatever is said here.
        root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.mkdir(exist_ok=True, mode=0o700)
        # Made under another name: nobody may adopt it before it is locked.
        draft = root / f".{stream}"
        draft.mkdir(mode=0o700)
        lock_fd = None
        try:
            lock_fd = _lock(draft)
            if lock_fd is None:
                raise BlockingIOError(f"{draft} is locked")
            draft.rename(path)
        except OSError:
            if lock_fd is not None:
                os.close(lock_fd)
            _remove_folder(draft)
            raise
        return cls(path, stream, lock_fd)

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Take over a folder whose writer is gone; ``None`` while somebody holds it."""
        stream = stream_of(path)
        if stream is None:
            return None
        try:
            lock_fd = _lock(path)
        except OSError:
            return None
        return None if lock_fd is None else cls(path, stream, lock_fd)

    def segments(self) -> list[int]:
        """Return the numbers of the segments that are there, oldest first."""
        return list_segments(self.path)

    def remove(self) -> None:
        """Remove the folder if no segment is left in it. The lock goes last, so that nobody adopts half of it."""
        if not self.segments():
            _remove_folder(self.path)
        self.release()

    def release(self) -> None:
        """Let others adopt what is left."""
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            os.close(fd)


def list_segments(path: Path) -> list[int]:
    """Return the numbers of the segments in ``path``, oldest first; none if there is no such folder.

    What is called like a segment and is not a file is none: opening it might wait for ever.
    """
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(number for name in names if (number := segment_number(name)) is not None)


def stream_of(path: Path) -> UUID | None:
    """Return the stream that a folder's name tells, ``None`` for any other: one name a stream, as we write it."""
    try:
        stream = UUID(path.name)
    except ValueError:
        return None
    return stream if str(stream) == path.name else None


def stream_folders(root: Path) -> Iterator[Path]:
    """Yield the folders of streams in ``root``, by name."""
    try:
        paths = sorted(root.iterdir())
    except OSError:
        return
    yield from (path for path in paths if stream_of(path) is not None)


def _remove_folder(path: Path) -> None:
    """Remove a folder and what of ours is in it beside segments, the lock last. What is not ours keeps it."""
    with suppress(OSError):
        for name in os.listdir(path):
            if name.startswith(SPARE_FILE) or name.endswith(DRAFT_SUFFIX):
                (path / name).unlink()
    with suppress(OSError):
        (path / LOCK_FILE).unlink()
    with suppress(OSError):
        path.rmdir()


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, ``None`` if another process has it."""
    fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever removed the folder held the lock of a file that is no longer there.
        same = os.path.samestat(os.fstat(fd), os.stat(folder / LOCK_FILE))
    except BlockingIOError:
        same = False
    except OSError:
        os.close(fd)
        raise
    if not same:
        os.close(fd)
        return None
    return fd


# A lock belongs to the open file, which a forked child shares: it would outlive the parent in the child's hands.
_held: WeakSet[StreamFolder] = WeakSet()


def _release_all() -> None:
    for folder in tuple(_held):
        folder.release()


os.register_at_fork(after_in_child=_release_all)
