"""systemd of this host, as far as wiring asks it: reload, restart, how units are, and what they logged."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hx_gateway.wiring.layout import Layout

BOOTED = Path("/run/systemd/system")
COMMAND_SECONDS = 120.0
JOURNAL_LINES = 80


class SystemdProblem(Exception):
    """A command of systemd's failed; the text is what it said."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """How a unit is. ``started_at`` is in seconds since the epoch, 0 where it does not run."""

    installed: bool
    active: bool
    restarts: int
    started_at: float


class Systemd:
    """Asks ``systemctl`` and ``journalctl``. Raises :class:`SystemdProblem`."""

    def absence(self, layout: Layout) -> str | None:
        """Return why units cannot be restarted here, ``None`` where they can."""
        return "a tree, not the host that runs" if layout.is_staging else self.absence_of_the_host()

    def absence_of_the_host(self) -> str | None:
        """Return why units cannot be restarted on the host itself."""
        if not BOOTED.is_dir() or shutil.which("systemctl") is None:
            return "systemd does not run here"
        return None

    def reload(self) -> None:
        """Let systemd read its units anew."""
        _run("systemctl", "daemon-reload")

    def restart(self, unit: str) -> None:
        """Restart a unit, and wait until it says that it started."""
        _run("systemctl", "restart", f"{unit}.service")

    def state(self, unit: str) -> UnitState:
        """Return how a unit is."""
        names = ("LoadState", "ActiveState", "NRestarts", "ActiveEnterTimestampMonotonic")
        said = _run("systemctl", "show", f"{unit}.service", f"--property={','.join(names)}")
        values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        active = values.get("ActiveState") == "active"
        since = int(values.get("ActiveEnterTimestampMonotonic") or 0) / 1_000_000
        return UnitState(
            installed=values.get("LoadState") == "loaded",
            active=active,
            restarts=int(values.get("NRestarts") or 0),
            started_at=time.time() - (time.monotonic() - since) if active else 0.0,
        )

    def journal(self, unit: str) -> str:
        """Return the last lines that a unit logged."""
        return _run("journalctl", "--no-pager", "-n", str(JOURNAL_LINES), "-u", f"{unit}.service")


def _run(*command: str) -> str:
    try:
        # The words are ours, and no shell reads them.
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, timeout=COMMAND_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemdProblem(f"{command[0]} {command[1]}: {error}") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        raise SystemdProblem(said)
    return done.stdout.decode("utf-8", "replace")


def newest_change(paths: Sequence[Path]) -> float:
    """Return when the newest of ``paths`` was changed, in seconds since the epoch."""
    return max((path.lstat().st_mtime for path in paths if path.exists()), default=0.0)
