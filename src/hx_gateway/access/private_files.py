"""Reads files with secrets: only such that nobody else could have read or written."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_OTHERS_MAY = stat.S_IRWXO | stat.S_IWGRP
RULE = "must be a plain file that only its owner may write and others may not read (chmod 600)"


def read_private(path: Path, most_bytes: int) -> bytes:
    """Return what is in the file, up to ``most_bytes``.

    Raises ``OSError``: for one that cannot be opened, a link, and with :data:`RULE` for one that is open to others.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & _OTHERS_MAY:
            raise PermissionError(errno.EACCES, RULE)
        return file.read(most_bytes)
