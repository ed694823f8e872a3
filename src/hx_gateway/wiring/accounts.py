"""The account that the gateway's services run as, on this host or in a tree, and what it may read."""

from __future__ import annotations

import grp
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from hx_gateway.wiring.layout import Layout


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """An account by numbers, with every group that it is in."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]

    def may(self, path: Path, read: int, read_group: int, read_others: int) -> bool:
        """Return whether the bit that is this account's is set."""
        status = path.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & read)
        if status.st_gid in self.groups:
            return bool(status.st_mode & read_group)
        return bool(status.st_mode & read_others)

    def obstacle(self, path: Path, root: Path) -> Path | None:
        """Return the file or folder below ``root`` that keeps this account from reading ``path``."""
        folders = [folder for folder in reversed(path.parents) if folder.is_relative_to(root) and folder != root]
        for folder in folders:
            if not self.may(folder, stat.S_IXUSR, stat.S_IXGRP, stat.S_IXOTH):
                return folder
        return None if self.may(path, stat.S_IRUSR, stat.S_IRGRP, stat.S_IROTH) else path


def find_account(layout: Layout, name: str) -> ServiceAccount | None:
    """Return the account of this name: that of the tree, where it has a list of accounts of its own."""
    if not layout.is_staging:
        return _of_the_host(name)
    users, groups = _lines(layout.root / "etc/passwd"), _lines(layout.root / "etc/group")
    try:
        user = next(line for line in users if line[0] == name)
        uid, gid = int(user[2]), int(user[3])
        own = next((int(line[2]) for line in groups if line[0] == name), gid)
        others = {int(line[2]) for line in groups if name in line[3].split(",")}
    except (StopIteration, ValueError, IndexError):
        return None
    return ServiceAccount(name, uid, own, frozenset({gid, own, *others}))


def _of_the_host(name: str) -> ServiceAccount | None:
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    try:
        own = grp.getgrnam(name).gr_gid
    except KeyError:
        own = user.pw_gid
    others = {group.gr_gid for group in grp.getgrall() if name in group.gr_mem}
    return ServiceAccount(name, user.pw_uid, own, frozenset({user.pw_gid, own, *others}))


def _lines(path: Path) -> list[list[str]]:
    try:
        return [line.split(":") for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return []
