"""Where bytes go that can neither be stored nor thrown away without a trace."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec
import structlog

MAX_BYTES = 64 * 1024 * 1024


class Quarantine:
    """A folder of damaged ranges and unstorable rows, each with a file that says why. Bounded; never raises."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()
        self._log = structlog.get_logger()

    def put(self, data: bytes, reason: str, **details: object) -> None:
        """Keep ``data``, unless the folder is full or cannot be written to; the log says so either way."""
        name = f"{time.time_ns()}-{os.getpid()}-{next(self._numbers)}"
        kept = False
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._used() + len(data) <= MAX_BYTES:
                _write(self._folder / f"{name}.bin", data)
                _write(self._folder / f"{name}.json", msgspec.json.encode({"reason": reason, **details}, enc_hook=str))
                kept = True
        self._log.error("journal_quarantined", reason=reason, bytes=len(data), kept=kept, name=name, **details)

    def _used(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
