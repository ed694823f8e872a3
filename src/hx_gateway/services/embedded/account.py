"""Which account an embedded server runs as, and whether it can reach a path."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from hx_gateway.services.embedded.errors import EmbeddedError

# Servers refuse to run as root. Accounts that exist on practically every system, the fitting one first.
_FOR_ROOT = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """A user by numbers. ``dropped`` is true where root runs a server as somebody else."""

    uid: int
    gid: int
    dropped: bool

    def popen_options(self) -> dict[str, object]:
        """Return the options of ``subprocess`` that start a process as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.dropped else {}

    def own(self, path: Path) -> None:
        """Give ``path`` to this account."""
        if self.dropped:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_reach(self, path: Path) -> bool:
        """Return whether every folder above ``path`` lets this account through."""
        if not self.dropped:
            return True
        return all(self._may_enter(parent) for parent in path.resolve().parents)

    def _may_enter(self, folder: Path) -> bool:
        status = folder.stat()
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def server_account() -> Account:
    """Return the account that servers run as. Raises :class:`EmbeddedError` where there is none."""
    uid = os.geteuid()
    if uid == 0:
        for name in _FOR_ROOT:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return Account(entry.pw_uid, entry.pw_gid, dropped=True)
        raise EmbeddedError("PostgreSQL does not run as root and there is no account 'nobody': set PG_URL instead.")
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"the user id {uid} has no entry in the password file, which PostgreSQL needs: add one, or set PG_URL."
        ) from None
    return Account(uid, os.getegid(), dropped=False)
