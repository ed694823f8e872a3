"""Folders that are entered one after the other, so that nobody whose they are leads a run of root's elsewhere.

Between a look at a path and a change of it, whoever owns a folder on the way can put a link into it. What is done below
a descriptor of :func:`entered` is done there, whatever becomes of the path meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_LINKS = 40
_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class StrangeLink(OSError):
    """A link on the way that root must not follow: whoever it belongs to could lead it anywhere."""

    def __init__(self, path: str, uid: int) -> None:
        super().__init__(errno.ELOOP, f"{path} on the way to it is a link of another account's (uid {uid})")


@contextmanager
def entered(folder: Path) -> Iterator[int]:
    """Give a descriptor of ``folder`` for ``dir_fd``. Raises ``OSError``; root follows links of root's only."""
    here, left, links = os.open("/", _WAY), list(reversed(folder.absolute().parts[1:])), 0
    try:
        while left:
            name = left.pop()
            try:
                there = os.open(name, _WAY, dir_fd=here)
            except OSError as error:
                target = _target(name, here) if error.errno in (errno.ENOTDIR, errno.ELOOP) else None
                links += 1
                if target is None or links > MAX_LINKS:
                    raise
                left += reversed(Path(target).parts)
                continue
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def read_file(name: str, folder: int, most: int) -> tuple[os.stat_result, bytes]:
    """Return what a file in ``folder`` is and at most ``most`` bytes of it, both of the same file. Raises ``OSError``.

    Of what is no plain file nothing is read.
    """
    descriptor = os.open(name, _READ, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        return status, file.read(most) if stat.S_ISREG(status.st_mode) else b""


def attributes_of(name: str, folder: int) -> dict[str, bytes]:
    """Return the access lists and labels of a file, where it is there and the file system has such."""
    found: dict[str, bytes] = {}
    with suppress(OSError):
        descriptor = os.open(name, _READ, dir_fd=folder)
        try:
            for attribute in os.listxattr(descriptor):
                with suppress(OSError):
                    found[attribute] = os.getxattr(descriptor, attribute)
        finally:
            os.close(descriptor)
    return found


def remove_if_there(name: str, folder: int) -> None:
    """Remove a file or link in ``folder``. Raises ``OSError``."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _target(name: str, folder: int) -> str | None:
    """Return where a link points to, ``None`` for what is none. Raises :class:`StrangeLink`."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISLNK(status.st_mode):
            return None
        if os.geteuid() == 0 and status.st_uid != 0:
            raise StrangeLink(name, status.st_uid)
        return os.readlink("", dir_fd=descriptor)
    finally:
        os.close(descriptor)
