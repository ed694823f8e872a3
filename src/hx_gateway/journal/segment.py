"""One file of a journal while it is written: its space is reserved, and a failed write leaves no trace."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import UUID

from hx_gateway.journal.format import SEGMENT_HEADER_BYTES, SegmentHeader, encode_segment_header

SUFFIX = ".log"
DRAFT_SUFFIX = ".new"
SPARE_FILE = "spare"
_NUMBER_DIGITS = 20
_NO_RESERVATION = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS})


def segment_name(first_seq: int) -> str:
    """Return the file name of the segment that begins with ``first_seq``; names sort as their segments do."""
    return f"{first_seq:0{_NUMBER_DIGITS}d}{SUFFIX}"


def segment_number(name: str) -> int | None:
    """Return the first sequence number that a file name tells, ``None`` if it is not a segment's."""
    stem, suffix = os.path.splitext(name)
    if suffix != SUFFIX or len(stem) != _NUMBER_DIGITS or not stem.isdigit():
        return None
    return int(stem)


class Segment:
    """A segment that is being written.

    ``end`` is where the next record goes, ``size`` the bytes it may hold, ``last_seq`` its last record. Space is
    reserved when it is made, so that a full disk shows then and not in the middle of a record.
    """

    __slots__ = (
        "began",
        "created_us",
        "end",
        "fd",
        "first_seq",
        "last_seq",
        "path",
        "rows",
        "size",
        "synced_end",
        "synced_seq",
    )

    def __init__(self, path: Path, fd: int, first_seq: int, size: int, created_us: int) -> None:
        self.path = path
        self.fd = fd
        self.first_seq = first_seq
        self.last_seq = first_seq - 1
        self.size = size
        self.end = SEGMENT_HEADER_BYTES
        self.rows = 0
        # What is known to be on the disk itself, where somebody syncs.
        self.synced_end = SEGMENT_HEADER_BYTES
        self.synced_seq = self.last_seq
        self.created_us = created_us
        # Its age is told by a clock that nobody sets: the wall's may jump by years.
        self.began = time.monotonic()

    @classmethod
    def create(cls, folder: Path, stream: UUID, first_seq: int, *, size: int, created_us: int) -> Self:
        """Make the file. Raises ``OSError``, and leaves nothing, where it cannot be made whole."""
        path = folder / segment_name(first_seq)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            reserve(fd, size)
            header = encode_segment_header(SegmentHeader(stream, first_seq, created_us))
            write_whole(fd, header, 0)
        except OSError:
            os.close(fd)
            with suppress(OSError):
                path.unlink()
            raise
        return cls(path, fd, first_seq, size, created_us)

    @classmethod
    def reuse(cls, spare: Path, folder: Path, stream: UUID, first_seq: int, *, size: int, created_us: int) -> Self:
        """Make a segment of a file whose space was reserved before. Raises ``OSError``."""
        path = folder / segment_name(first_seq)
        fd = os.open(spare, os.O_RDWR | os.O_NOFOLLOW)
        try:
            write_whole(fd, encode_segment_header(SegmentHeader(stream, first_seq, created_us)), 0)
            spare.rename(path)
        except OSError:
            os.close(fd)
            raise
        return cls(path, fd, first_seq, size, created_us)

    @classmethod
    def in_memory(cls, stream: UUID, first_seq: int, *, size: int, created_us: int) -> Self:
        """Make a segment that is nowhere but in memory; it can be read by its path while it is open."""
        fd = os.memfd_create(f"hx-journal-{first_seq}")
        write_whole(fd, encode_segment_header(SegmentHeader(stream, first_seq, created_us)), 0)
        return cls(Path(f"/proc/self/fd/{fd}"), fd, first_seq, size, created_us)

    @staticmethod
    def make_spare(path: Path, size: int) -> None:
        """Reserve a segment's space in a file for :meth:`reuse`. Raises ``OSError``."""
        if path.exists():
            return
        draft = path.with_name(f"{path.name}{DRAFT_SUFFIX}")
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            reserve(fd, size)
            draft.rename(path)
        except OSError:
            draft.unlink()
            raise
        finally:
            os.close(fd)

    def write(self, record: bytes) -> None:
        """Write behind the last record. After ``OSError`` the segment is as it was before."""
        try:
            written = os.pwrite(self.fd, record, self.end)
            if written != len(record):
                write_whole(self.fd, record[written:], self.end + written)
        except OSError:
            with suppress(OSError):
                # Needs no space. What was reserved behind the end is given up: the next write may fail again.
                os.ftruncate(self.fd, self.end)
            raise
        self.end += len(record)

    def seal(self) -> None:
        """Give back the space that was not used."""
        with suppress(OSError):
            os.ftruncate(self.fd, self.end)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self.fd)


def replace_segment(path: Path, data: bytes, *, sync: bool) -> None:
    """Put ``data`` in a segment's place, all of it or none, whenever the process ends. Raises ``OSError``."""
    draft = path.with_name(f"{path.name}{DRAFT_SUFFIX}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        write_whole(fd, data, 0)
        if sync:
            os.fdatasync(fd)
        draft.rename(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise
    finally:
        os.close(fd)


def reserve(fd: int, size: int) -> None:
    """Reserve ``size`` bytes where the file system can. Raises ``OSError`` when there is no room."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in _NO_RESERVATION:
            raise


def write_whole(fd: int, data: bytes, at: int) -> None:
    """Write all of ``data`` at ``at``; a write that makes no progress is a full disk."""
    while data:
        written = os.pwrite(fd, data, at)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data[written:]
        at += written
