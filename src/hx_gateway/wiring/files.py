"""Files, links and folders as they are and as they shall be; each change is there whole, or not at all."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hx_gateway.wiring.folders import attributes_of, entered, read_file, remove_if_there

MAX_BYTES = 8 * 1024 * 1024
FOLDER_MODE = 0o755
DRAFT_MODE = 0o600

Kind = Literal["absent", "file", "link", "folder"]


class FileProblem(Exception):
    """Something about a file: which one, what about it, and what to do."""

    def __init__(self, path: Path, message: str, remedy: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a file belongs to, and what others may do with it."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, repr=False)
class State:
    """What is at a path: for a file its bytes and owner, for a link its target."""

    kind: Kind = "absent"
    data: bytes = b""
    owner: Owner | None = None
    target: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What is at ``path``, and what shall be there."""

    path: Path
    before: State
    after: State


ABSENT = State()
FOLDER = State("folder")


def look(path: Path) -> State:
    """Return what is at ``path``. Raises :class:`FileProblem` for what is neither file, link nor folder, or too big."""
    try:
        with entered(path.parent) as folder:
            status = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return State("link", target=os.readlink(path.name, dir_fd=folder))
            if stat.S_ISDIR(status.st_mode):
                return FOLDER
            status, data = read_file(path.name, folder, MAX_BYTES + 1)
        if not stat.S_ISREG(status.st_mode):
            raise FileProblem(path, "is not a plain file", "Put a plain file in its place.")
        if len(data) > MAX_BYTES:
            raise FileProblem(path, f"is larger than {MAX_BYTES} bytes", "See what it is.")
        return State("file", data, Owner(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid))
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except OSError as error:
        raise _failed(path, "cannot be read", error) from None


def text_of(path: Path, state: State) -> str:
    """Return a file as text. Raises :class:`FileProblem`."""
    try:
        text = state.data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = state.data[: error.start].count(b"\n") + 1
        raise FileProblem(path, f"line {line}: not valid UTF-8", "Save it as UTF-8.") from None
    if "\0" in text:
        raise FileProblem(path, "holds a NUL byte", "See what it is: this is no text.")
    return text


def check_possible(change: Change) -> None:
    """Raise :class:`FileProblem` where ``change`` would surely fail, before anything is changed."""
    owner = change.before.owner
    us = os.geteuid()
    if owner is not None and us not in (0, owner.uid):
        raise FileProblem(change.path, f"belongs to another account (uid {owner.uid})", "Run this as root.")
    folder = change.path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise FileProblem(folder, "is not a folder", "Put a folder in its place.")
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise FileProblem(folder, "cannot be written to", "Run this as root, on a file system that is not read-only.")


def apply(change: Change) -> None:
    """Make ``change``. Raises :class:`FileProblem`: then everything is as it was, or the change is there whole."""
    path, after = change.path, change.after
    if look(path) != change.before:
        raise FileProblem(path, "was changed meanwhile by somebody else", "Run this again.")
    try:
        match after.kind:
            case "file":
                _replace(path, after)
            case "link":
                _replace_by_link(path, after.target)
            case "folder":
                make_folder(path)
            case "absent":
                _remove(change)
        _sync_folder(path.parent)
    except OSError as error:
        raise _failed(path, "cannot be changed", error) from None


def write_new(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, and that it outlives a loss of power. Raises ``OSError``."""
    _replace(path, State("file", data, Owner(DRAFT_MODE, os.geteuid(), os.getegid())))
    _sync_folder(path.parent)


def make_folder(path: Path, mode: int = FOLDER_MODE) -> None:
    """Make one folder with this mode whatever the process's mask is. Raises ``OSError``."""
    with entered(path.parent) as above:
        os.mkdir(path.name, mode, dir_fd=above)
        descriptor = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)


def draft_of(path: Path) -> Path:
    """Return where a file is written before it takes its place; what an interrupted run left there is overwritten."""
    return path.with_name(f".{path.name}.hx-draft")


def _replace(path: Path, after: State) -> None:
    with entered(path.parent) as folder:
        draft = draft_of(path).name
        remove_if_there(draft, folder)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(draft, flags, DRAFT_MODE, dir_fd=folder)
            with os.fdopen(descriptor, "wb") as file:
                _give(file.fileno(), after.owner)
                for name, value in attributes_of(path.name, folder).items():
                    with suppress(OSError):
                        os.setxattr(file.fileno(), name, value)
                file.write(after.data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            remove_if_there(draft, folder)


def _give(descriptor: int, owner: Owner | None) -> None:
    if owner is None:
        return
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (owner.uid, owner.gid):
        os.fchown(descriptor, owner.uid, owner.gid)
    os.fchmod(descriptor, owner.mode)


def _replace_by_link(path: Path, target: str) -> None:
    with entered(path.parent) as folder:
        draft = draft_of(path).name
        remove_if_there(draft, folder)
        try:
            os.symlink(target, draft, dir_fd=folder)
            os.replace(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            remove_if_there(draft, folder)


def _remove(change: Change) -> None:
    with entered(change.path.parent) as folder:
        if change.before.kind != "folder":
            os.unlink(change.path.name, dir_fd=folder)
            return
        try:
            os.rmdir(change.path.name, dir_fd=folder)
        except OSError as error:
            # One in which somebody put something meanwhile stays.
            if error.errno != errno.ENOTEMPTY:
                raise


def _sync_folder(path: Path) -> None:
    with suppress(FileNotFoundError, NotADirectoryError), entered(path) as folder:
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _failed(path: Path, what: str, error: OSError) -> FileProblem:
    remedies = {
        "StrangeLink": "Put a folder in its place, or let it belong to root.",
        "PermissionError": "Run this as root.",
        "IsADirectoryError": "Put a plain file in its place.",
    }
    remedy = remedies.get(type(error).__name__, "See to the disk, then run this again: it goes on where it stopped.")
    return FileProblem(path, f"{what}: {error.strerror}", remedy)
