"""How much disk a journal may take, how much is left, and a file to give up when there is none."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hx_gateway.journal.segment import reserve

BALLAST_FILE = "ballast"
SHARE_OF_DISK = 0.10
PRESSED_AT = 0.8


class Pressure(StrEnum):
    """How full a journal is. Under ``PRESSED`` what may be shed is shed; under ``FULL`` no segment is begun."""

    OK = "ok"
    PRESSED = "pressed"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bounds in bytes. ``max_bytes`` counts all streams below a root; ``None`` leaves only the disk as a bound."""

    max_bytes: int | None = 2 * 1024**3
    min_free_bytes: int = 512 * 1024**2
    ballast_bytes: int = 16 * 1024**2


class Space:
    """Watches one root. ``refresh`` reads the disk; ``pressure`` and ``used_bytes`` are what it read last."""

    def __init__(self, root: Path, budget: Budget) -> None:
        self._root = root
        self._budget = budget
        self.used_bytes = 0
        self.free_bytes = 0
        self.max_bytes = budget.max_bytes
        self.pressure = Pressure.OK

    def refresh(self) -> Pressure:
        """Measure again. A root that cannot be read counts as full: nothing can be kept there."""
        try:
            found = os.statvfs(self._root)
        except OSError:
            self.pressure = Pressure.FULL
            return self.pressure
        self.free_bytes = found.f_bavail * found.f_frsize
        self.used_bytes = _used(self._root)
        if self._budget.max_bytes is not None:
            self.max_bytes = min(self._budget.max_bytes, int(found.f_blocks * found.f_frsize * SHARE_OF_DISK))
        self.pressure = self._judge(0)
        if self.pressure is Pressure.FULL:
            self.give_up_ballast()
        return self.pressure

    def holds(self, used_bytes: int) -> Pressure:
        """Judge by what the caller says it holds, for a journal that is not on a disk."""
        self.used_bytes = used_bytes
        self.free_bytes = self._budget.min_free_bytes + (self.max_bytes or 0)
        self.pressure = self._judge(0)
        return self.pressure

    def admits(self, more_bytes: int) -> bool:
        """Return whether a segment of ``more_bytes`` fits the budget, by the last measure."""
        return self._judge(more_bytes) is not Pressure.FULL

    def grew(self, more_bytes: int) -> None:
        """Note bytes that were taken since the last measure, or given back."""
        self.used_bytes += more_bytes
        self.free_bytes -= more_bytes

    def _judge(self, more_bytes: int) -> Pressure:
        used, limit = self.used_bytes + more_bytes, self.max_bytes
        if limit is None:
            return Pressure.OK
        if used > limit or self.free_bytes - more_bytes < self._budget.min_free_bytes:
            return Pressure.FULL
        return Pressure.PRESSED if used > limit * PRESSED_AT else Pressure.OK

    def keep_ballast(self) -> None:
        """Make the file that is given up when the disk is full, once there is room for it."""
        size = self._budget.ballast_bytes
        path = self._root / BALLAST_FILE
        # Twice its size: what was just given up is not taken back at once.
        full = self.pressure is Pressure.FULL or self.free_bytes < self._budget.min_free_bytes + 2 * size
        if full or not size or path.exists():
            return
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            reserve(fd, size)
        except OSError:
            with suppress(OSError):
                path.unlink()
        finally:
            os.close(fd)

    def give_up_ballast(self) -> None:
        """Free its space for logs and for what is set aside."""
        with suppress(OSError):
            (self._root / BALLAST_FILE).unlink()


def _used(root: Path) -> int:
    """Return the bytes that all files below ``root`` take on disk, ballast apart."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            if name == BALLAST_FILE:
                continue
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
