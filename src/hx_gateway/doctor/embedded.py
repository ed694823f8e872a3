"""Servers of our own: where they are and whether they run. None is started, and no folder is made for one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hx_gateway.doctor.findings import Surroundings
from hx_gateway.doctor.programs import ProgramFailed, output_of
from hx_gateway.services.embedded.account import server_account
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.postgres import INSTALLATION, ROOT_STATE, EmbeddedPostgres, find_installation
from hx_gateway.services.embedded.valkey import EmbeddedValkey, find_server
from hx_gateway.settings import NOT_CONFIGURED

_VERSION = re.compile(r"\bv=(\S+)")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Our PostgreSQL: the version of its programs, that of its files (``None`` before the first start), its URL."""

    programs: str
    files: str | None
    url: str | None


def find_cluster(around: Surroundings) -> Cluster:
    """Return our PostgreSQL. ``url`` is there while it runs. Raises ``EmbeddedError`` where it cannot run."""
    server_account()
    programs = find_installation().name.removeprefix(INSTALLATION.rstrip("0123456789"))
    try:
        server = _postgres(around)
        if server is None:
            return Cluster(programs, None, None)
        files = (server.base / "cluster" / "PG_VERSION").read_text(encoding="ascii").strip()
        return Cluster(programs, files, server.url if server.is_ready() else None)
    except FileNotFoundError:
        return Cluster(programs, None, None)
    except OSError as error:
        raise EmbeddedError(
            f"cannot look into {str(error.filename)!r} ({error.strerror}): look with its owner's account."
        ) from error


def cluster_folder(around: Surroundings) -> Path:
    """Return where our PostgreSQL keeps its files, or will."""
    try:
        server = _postgres(around)
    except (EmbeddedError, OSError):
        server = None
    return server.base if server is not None else around.data_dir / "postgres"


def postgres_url(around: Surroundings) -> str | None:
    """Return the URL of the gateway's database, where it has one and, if it is ours, where that runs."""
    if around.settings.pg_url is not None:
        url = around.settings.pg_url.get_secret_value()
        return None if url == NOT_CONFIGURED else url
    if not around.settings.embedded:
        return None
    try:
        return find_cluster(around).url
    except EmbeddedError:
        return None


def valkey_url(around: Surroundings) -> str | None:
    """Return the URL of our Valkey while it runs."""
    folder = around.data_dir / "valkey"
    try:
        if not folder.is_dir():
            return None
        server = EmbeddedValkey(folder, notify=_unheard)
        return server.url if server.is_ready() else None
    except (EmbeddedError, OSError):
        return None


async def server_version() -> tuple[str, str]:
    """Return product and version of the server that would be started. Raises ``EmbeddedError``."""
    program = find_server()
    try:
        found = _VERSION.search(await output_of(program, "--version"))
    except ProgramFailed as error:
        raise EmbeddedError(f"{program}: {error}.") from error
    if found is None:
        raise EmbeddedError(f"{program} --version does not tell a version.")
    return ("Valkey" if "valkey" in program.name else "Redis"), found[1]


def _postgres(around: Surroundings) -> EmbeddedPostgres | None:
    """Return our server without making a folder for it; ``None`` before the first start."""
    directory = around.data_dir / "postgres"
    is_there = directory.is_dir() and server_account().can_reach(directory / "cluster")
    if not is_there and not ROOT_STATE.is_dir():
        return None
    return EmbeddedPostgres(directory, notify=_unheard)


def _unheard(_line: str) -> None:
    """Take what a server of ours would say at its start."""
