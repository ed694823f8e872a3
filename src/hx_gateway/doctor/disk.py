"""Room on the disks that hold the gateway's state, and whether they keep what is written."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hx_gateway.doctor.embedded import cluster_folder
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.settings import NOT_CONFIGURED

GIB = 1024**3
# Below one of these it is a problem, below one of those something to know.
LOW_BYTES, LOW_SHARE = 1 * GIB, 0.02
SCARCE_BYTES, SCARCE_SHARE = 5 * GIB, 0.10
LOW_INODES, SCARCE_INODES = 0.01, 0.05
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
# Locks, sockets or fsync(2) are not what they are on a disk of this host.
OVER_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs"})
MOUNTS = Path("/proc/self/mountinfo")
DATA, JOURNAL, DATABASE = "data directory", "journal", "embedded PostgreSQL"


@dataclass(frozen=True, slots=True)
class Space:
    """What a file system has, for accounts other than root. ``inodes`` is 0 where it counts none."""

    free_bytes: int
    total_bytes: int
    free_inodes: int
    inodes: int

    @classmethod
    def at(cls, path: Path) -> Space:
        """Measure. Raises ``OSError``."""
        found = os.statvfs(path)
        return cls(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_favail, found.f_files)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of the gateway's that is there, or the nearest one above where it will be. ``uses`` say what for."""

    path: Path
    uses: tuple[str, ...]

    @property
    def label(self) -> str:
        """What it is, for people."""
        return f"{', '.join(self.uses)} ({self.path})"


def examine_disk(around: Surroundings) -> list[Finding]:
    """Look at each file system that holds state, once."""
    try:
        places = _by_file_system(_uses(around))
        mounts = MOUNTS.read_text(errors="surrogateescape") if MOUNTS.exists() else ""
        found = []
        for place in places:
            found += judge_space(place, Space.at(place.path), around.settings.journal_min_free_bytes)
            found += judge_kind(place, kind_of(place.path, mounts), around.settings.journal_durability)
            found += _judge_sync(place)
    except OSError as error:
        detail = f"{error.filename}: {error.strerror}"
        return [problem(Subject.DISK, detail, "Mount it, or set HX_DATA_DIR or HX_JOURNAL_DIR to another folder.")]
    return found


def judge_space(place: Place, space: Space, journal_free_bytes: int) -> list[Finding]:
    """Judge by the thresholds above; a journal also by what it leaves free."""
    share, inodes = _share(space.free_bytes, space.total_bytes), _share(space.free_inodes, space.inodes)
    detail = f"{place.label}: {space.free_bytes / GIB:.1f} GiB ({share:.0%}) and {inodes:.0%} of inodes free"
    if JOURNAL in place.uses and space.free_bytes < journal_free_bytes:
        remedy = "Free space, or set HX_JOURNAL_DIR to another disk, or lower HX_JOURNAL_MIN_FREE_BYTES."
        return [problem(Subject.DISK, f"{detail}; events are refused", remedy)]
    if space.free_bytes < LOW_BYTES or share < LOW_SHARE:
        return [problem(Subject.DISK, detail, "Free space, or set HX_DATA_DIR to a larger disk.")]
    if inodes < LOW_INODES:
        return [problem(Subject.DISK, detail, "Delete small files, or make the file system anew with more inodes.")]
    if space.free_bytes < SCARCE_BYTES or share < SCARCE_SHARE or inodes < SCARCE_INODES:
        return [note(Subject.DISK, detail, "Free space before it is needed.")]
    return [ok(Subject.DISK, detail)]


def judge_kind(place: Place, kind: str, durability: str) -> list[Finding]:
    """Judge a file system by its type, as the kernel calls it."""
    needed = [use for use in place.uses if use == DATABASE or (use == JOURNAL and durability != "memory")]
    if kind in IN_MEMORY:
        detail, remedy = f"{place.label} is in memory ({kind}): a restart loses it", "Set HX_DATA_DIR to a disk."
    elif kind in OVER_NETWORK:
        detail = f"{place.label} is on {kind}: locks and fsync may not hold there"
        remedy = "Set HX_DATA_DIR to a disk of this host, or PG_URL to a server."
    else:
        return []
    return [problem(Subject.DISK, detail, remedy) if needed else note(Subject.DISK, detail, remedy)]


def kind_of(path: Path, mounts: str) -> str:
    """Return the type of the file system that ``path`` is on, by the text of ``mountinfo`` (proc(5))."""
    best, kind = -1, "unknown"
    resolved = path.resolve()
    for line in mounts.splitlines():
        before, separator, after = line.partition(" - ")
        if not separator:
            continue
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), before.split(" ")[4]))
        # Of several on one point the last hides the others.
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split(" ")[0]
    return kind


def _judge_sync(place: Place) -> list[Finding]:
    descriptor = -1
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
    except PermissionError:
        return []  # told as one of permissions
    except OSError as error:
        detail = f"{place.label}: fsync fails: {error.strerror}"
        return [problem(Subject.DISK, detail, "Set HX_DATA_DIR to a file system that keeps what is written.")]
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return []


def _uses(around: Surroundings) -> dict[str, Path]:
    settings = around.settings
    uses = {DATA: around.data_dir}
    if settings.pg_url is None or settings.pg_url.get_secret_value() != NOT_CONFIGURED:
        uses[JOURNAL] = around.journal_dir
    if settings.pg_url is None and settings.embedded:
        uses[DATABASE] = cluster_folder(around)
    return uses


def _by_file_system(uses: dict[str, Path]) -> Sequence[Place]:
    found: dict[int, Place] = {}
    for use, path in uses.items():
        there = _nearest(path)
        device = there.stat().st_dev
        known = found.get(device)
        found[device] = Place(known.path if known else there, (*(known.uses if known else ()), use))
    return list(found.values())


def _nearest(path: Path) -> Path:
    for folder in (path, *path.parents):
        with suppress(PermissionError):
            if folder.is_dir():
                return folder
    return Path("/")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
