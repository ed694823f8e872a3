"""A server of ours as a child process: one owner at a time, gone when its owner is, taken over by who waits."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from hx_gateway.kit.undo import undone_on_failure
from hx_gateway.services.embedded.account import Account
from hx_gateway.services.embedded.errors import EmbeddedError

READY_SECONDS = 120.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.01
MAX_BACKOFF_SECONDS = 30.0
# A server that ran this long before it ended is no crash loop.
STABLE_SECONDS = 60.0
MAX_LOG_BYTES = 10 * 1024 * 1024
# sun_path is 108 bytes on Linux and 104 on macOS.
MAX_SOCKET_PATH = 100
_PR_SET_PDEATHSIG = 1

Notify = Callable[[str], None]


class OwnedServer(ABC):
    """One server in ``base``. The process that holds the lock there starts it; others use it and wait for the lock.

    ``start``, ``check`` and ``stop`` are called from the main thread: on Linux the child is told to stop when the
    thread that started it ends, however it ends.
    """

    title: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, base: Path, account: Account, notify: Notify) -> None:
        self.base = base
        self.role: Literal["owner", "attached", "stopped"] = "stopped"
        self._account = account
        self._notify = notify
        self._lock: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._started_at = 0.0
        self._not_before = 0.0

    def start(self) -> None:
        """Start the server, or use the one that another process runs. Raises :class:`EmbeddedError`."""
        make_folder(self.base, 0o711 if self._account.dropped else 0o700)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._take_lock():
                self._own()
                return
            if self.is_ready():
                self.role = "attached"
                return
            time.sleep(POLL_SECONDS)
        raise EmbeddedError(f"another process holds {str(self.base)!r} and its {self.title} does not answer: stop it.")

    def check(self) -> None:
        """Restart what died, with growing pauses; take over from an owner that is gone.

        Does not wait for the server to be ready, which may take long after a crash: this is called where others are
        served.
        """
        if self.role == "stopped" or time.monotonic() < self._not_before:
            return
        if self.role == "attached" and self._take_lock():
            self.role = "owner"
        if self.role == "owner" and (self._child is None or self._child.poll() is not None):
            self._restart()

    def stop(self) -> None:
        """Stop the server if it is ours. Its data stays."""
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.send_signal(self.stop_signal)
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.role = "stopped"
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server in ``base`` answers."""

    @abstractmethod
    def prepare(self) -> bool:
        """Make ``base`` ready for a start; return whether it is: not yet, while a dead owner's server still ends."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line."""

    def _own(self) -> None:
        self.role = "owner"
        with undone_on_failure(self.stop):
            self._await_place()
            self._launch()
            self._await_ready()

    def _restart(self) -> None:
        self._child = None
        lived = time.monotonic() - self._started_at
        try:
            if not self.prepare():
                return
            self._notify(f"The embedded {self.title} ended and is started again.")
            self._launch()
        except (EmbeddedError, OSError) as error:
            self._notify(str(error))
        self._failures = 0 if lived > STABLE_SECONDS else self._failures + 1
        self._not_before = time.monotonic() + min(2.0**self._failures, MAX_BACKOFF_SECONDS)

    def _take_lock(self) -> bool:
        descriptor = os.open(self.base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        return True

    def _launch(self) -> None:
        log_path = self.base / "server.log"
        with contextlib.suppress(FileNotFoundError):
            if log_path.stat().st_size > MAX_LOG_BYTES:
                log_path.replace(self.base / "server.log.1")
        self._started_at = time.monotonic()
        with log_path.open("ab") as log:
            self._child = run_as(self._account, self.command(), self.stop_signal, output=log.fileno())

    def _await_place(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while not self.prepare():
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"a {self.title} without owner works in {str(self.base)!r} and does not end: stop it."
                )
            time.sleep(POLL_SECONDS)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self._child is None or self._child.poll() is not None:
                raise EmbeddedError(f"the embedded {self.title} ended at its start; its log says: {self._last_line()}")
            if time.monotonic() > deadline:
                log_path = self.base / "server.log"
                raise EmbeddedError(f"the embedded {self.title} is not ready after {READY_SECONDS:g} s; see {log_path}")
            time.sleep(POLL_SECONDS)

    def _last_line(self) -> str:
        lines = (self.base / "server.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(nothing)"


def run_as(
    account: Account,
    command: list[str],
    death_signal: signal.Signals,
    *,
    output: int,
    given: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``command`` as ``account`` in a session of its own; on Linux it gets ``death_signal`` when we end."""
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def in_child() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(death_signal))
            if os.getppid() != parent:
                os._exit(1)

    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]  # noqa: S603
        command,
        stdin=given if given is not None else subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
        preexec_fn=in_child,  # noqa: PLW1509 - it calls one function of the C library
        **account.popen_options(),
    )


def make_folder(path: Path, mode: int) -> None:
    """Make ``path`` and what is missing above it with exactly ``mode``; what exists stays as it is."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        # Not by mkdir: the umask may be stricter than what another account needs.
        path.chmod(mode)


def private_folder(path: Path, account: Account) -> Path:
    """Make ``path`` for ``account`` alone, or check that it is. Raises :class:`EmbeddedError`."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        account.own(path)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.uid or status.st_mode & 0o077:
        raise EmbeddedError(f"{str(path)!r} is not a folder of our own with mode 0700: remove it.")
    return path


def socket_folder(base: Path, account: Account, socket_name: str) -> Path:
    """Return a private folder for a socket: in ``base``, or in a short path where ``base`` is too long for one."""
    inside = base / "run"
    if len(os.fsencode(inside / socket_name)) <= MAX_SOCKET_PATH:
        return private_folder(inside, account)
    name = f"hx-{account.uid}-{hashlib.sha256(os.fsencode(base)).hexdigest()[:16]}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # In root's own /run nobody can take the name before us, and nothing is cleaned up.
    roots = [Path("/run")] if account.dropped and os.access("/run", os.W_OK) else []
    if runtime and not account.dropped:
        roots = [Path(runtime)]
    for root in (*roots, Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - checked by private_folder
        if root.is_dir() and len(os.fsencode(root / name / socket_name)) <= MAX_SOCKET_PATH:
            return private_folder(root / name, account)
    raise EmbeddedError(f"no path is short enough for a socket: set HX_DATA_DIR to one below {MAX_SOCKET_PATH} bytes.")
