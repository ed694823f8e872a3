"""What was there before a run changed it: one folder a run, named by its time, which only its owner may read."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hx_gateway.wiring.files import ABSENT, Change, FileProblem, Owner, State, draft_of, look, make_folder, write_new
from hx_gateway.wiring.folders import entered
from hx_gateway.wiring.layout import Layout

PRIVATE_MODE = 0o700
MANIFEST = "manifest.json"
STAMP = re.compile(r"\d{8}T\d{6}Z(-\d+)?")


@dataclass(frozen=True, slots=True)
class Backups:
    """The backups of one installation, by their stamps."""

    layout: Layout

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody else change this installation meanwhile. Raises :class:`FileProblem`."""
        folder = self.layout.backups
        try:
            if not folder.parent.exists():
                make_folder(folder.parent)
            if not folder.exists():
                make_folder(folder, PRIVATE_MODE)
            with entered(folder) as place:
                descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
        except OSError as error:
            raise FileProblem(folder, f"cannot be used: {error.strerror}", "Run this as root.") from None
        try:
            status = os.fstat(descriptor)
            if not _is_ours(Owner(status.st_mode, status.st_uid, status.st_gid)):
                remedy = f"See what is in it, then: chown root {folder} && chmod 700 {folder}."
                raise FileProblem(folder, "can be changed by another account", remedy)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise FileProblem(folder, "another run changes this installation", "Wait for its end.") from None
        finally:
            os.close(descriptor)

    def keep(self, command: str, changes: Sequence[Change], now: datetime) -> str:
        """Keep what ``changes`` will replace, all of it, and return the stamp. Raises :class:`FileProblem`."""
        folder = self._new_folder(now)
        entries = []
        try:
            make_folder(folder, PRIVATE_MODE)
            for number, change in enumerate(changes):
                if change.before.kind == "file":
                    write_new(folder / str(number), change.before.data)
                entries.append(self._entry(number, change))
            text = json.dumps({"command": command, "entries": entries}, indent=1)
            # Written last: a backup without it was interrupted, and nothing was changed after it.
            write_new(folder / MANIFEST, text.encode())
        except OSError as error:
            raise FileProblem(folder, f"no backup can be made: {error.strerror}", "Make room there.") from None
        return folder.name

    def stamps(self) -> list[str]:
        """Return the stamps of whole backups, the oldest first. Raises :class:`FileProblem`."""
        folder = self.layout.backups
        try:
            found = list(folder.iterdir()) if folder.is_dir() else []
            whole = [path.name for path in found if STAMP.fullmatch(path.name) and (path / MANIFEST).is_file()]
        except PermissionError as error:
            raise FileProblem(folder, f"cannot be read: {error.strerror}", "Run this as root.") from None
        return sorted(whole, key=_order)

    def as_before(self, stamp: str) -> list[Change]:
        """Return the changes that make everything as it was before the run of ``stamp``: later runs are undone too.

        Raises :class:`FileProblem`.
        """
        stamps = self.stamps()
        if stamp not in stamps:
            known = ", ".join(stamps[-5:]) or "there is none"
            raise FileProblem(self.layout.backups, f"has no backup {stamp!r}", f"Give one of: {known}.")
        wanted: dict[Path, State] = {}
        for name in stamps[stamps.index(stamp) :]:
            for path, state in self._read(name):
                wanted.setdefault(path, state)
        # What a run that was killed had begun to write was not there before it either.
        drafts = [Change(draft_of(path), look(draft_of(path)), ABSENT) for path in wanted]
        changes = [*drafts, *(Change(path, look(path), state) for path, state in wanted.items())]
        return sorted((change for change in changes if change.before != change.after), key=_turn)

    def _new_folder(self, now: datetime) -> Path:
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        taken = {path.name for path in self.layout.backups.iterdir()}
        # By a clock that was set back this run would be before the ones that it follows.
        stamp = max([stamp, *(name.partition("-")[0] for name in taken if STAMP.fullmatch(name))])
        names = (stamp, *(f"{stamp}-{number}" for number in range(2, len(taken) + 3)))
        return self.layout.backups / next(name for name in names if name not in taken)

    def _entry(self, number: int, change: Change) -> dict[str, object]:
        before = change.before
        entry: dict[str, object] = {"path": self.layout.name_of(change.path), "kind": before.kind}
        if before.owner is not None:
            owner = before.owner
            entry |= {"copy": str(number), "mode": f"{owner.mode:04o}", "uid": owner.uid, "gid": owner.gid}
        if before.kind == "link":
            entry["target"] = before.target
        return entry

    def _read(self, stamp: str) -> list[tuple[Path, State]]:
        folder = self.layout.backups / stamp
        try:
            manifest = json.loads(_own_file(folder / MANIFEST))
            return [self._state(folder, entry) for entry in manifest["entries"]]
        except (FileProblem, OSError, ValueError, KeyError, TypeError):
            remedy = "Put its files back by hand; the manifest in it says where they were."
            raise FileProblem(folder, "is damaged: nothing was changed", remedy) from None

    def _state(self, folder: Path, entry: dict[str, Any]) -> tuple[Path, State]:
        path = self.layout.root / str(entry["path"]).lstrip("/")
        if path not in self._places(entry["kind"]):
            raise ValueError(entry["path"])
        if entry["kind"] == "file":
            data = _own_file(folder / str(int(entry["copy"])))
            return path, State("file", data, Owner(int(entry["mode"], 8), int(entry["uid"]), int(entry["gid"])))
        return path, State(entry["kind"], target=str(entry.get("target", "")))

    def _places(self, kind: str) -> set[Path]:
        """Return everything that a run may have changed: a backup that names another path is not one of ours."""
        files = {self.layout.at(path) for path in self.layout.files}
        if kind == "folder":
            return {folder for path in files for folder in path.parents}
        above = {folder for path in files for folder in path.parents} if kind == "absent" else set()
        return files | {draft_of(path) for path in files} | above


def _own_file(path: Path) -> bytes:
    """Return a file that nobody else could have written. Raises :class:`FileProblem`."""
    found = look(path)
    if found.owner is None or not _is_ours(found.owner):
        raise FileProblem(path, "was not written by a run of this account's", "See where it comes from.")
    return found.data


def _is_ours(owner: Owner) -> bool:
    return owner.uid in (0, os.geteuid()) and not owner.mode & (stat.S_IWGRP | stat.S_IWOTH)


def _turn(change: Change) -> tuple[int, int]:
    """Return when a change has its turn: folders come before what is in them, and go after it."""
    depth = len(change.path.parts)
    if change.after.kind == "folder":
        return 0, depth
    return (2, -depth) if change.before.kind == "folder" else (1, depth)


def _order(stamp: str) -> tuple[str, int]:
    time, _, number = stamp.partition("-")
    return time, int(number or 1)
