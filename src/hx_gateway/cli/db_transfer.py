"""``hx-gateway db backup``, ``restore`` and ``move``: all that is ours, into a file, out of it, to another server."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import typer

from hx_gateway.cli.client import EXIT_FAILED
from hx_gateway.cli.databases import embedded_server, named_url, running_database, started
from hx_gateway.cli.output_file import private_file
from hx_gateway.cli.start import fail, read_settings
from hx_gateway.cli.transfer_progress import bytes_text, rows_text, watching
from hx_gateway.db.transfer.archive import Backup, check_backup, write_backup
from hx_gateway.db.transfer.contents import Contents, Figures, Source, Watch
from hx_gateway.db.transfer.errors import NotEmpty, TransferError
from hx_gateway.db.transfer.loading import Loaded, analyse, hold_the_same, load, require_empty
from hx_gateway.db.transfer.sessions import session
from hx_gateway.db.transfer.snapshot import snapshot
from hx_gateway.migrations import runner
from hx_gateway.services.dsn import place_of, postgres_dsn
from hx_gateway.services.failures import classify

EXIT_INTERRUPTED = 128 + signal.SIGINT
_OPEN_TO_OTHERS = 0o077
_MAY_NOT = "42501"
_ALL_OR_NOTHING = "The target has no rows or, if it was at the very end, all of them: `hx-gateway db status` tells."

T = TypeVar("T")

EnvFiles = Annotated[list[Path] | None, typer.Option(help="Read settings from this file too.")]
BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.", show_default=False)]


def backup(
    file: BackupFile,
    overwrite: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
    env_file: EnvFiles = None,
) -> None:
    """Write all that is ours in the database, as it is now, to one file that only you may read.

    Gateways go on working meanwhile. Keys are in it as hashes; the peppers and the journal are not in it.
    """
    loaded = read_settings(tuple(env_file or ()))
    with private_file(file, overwrite=overwrite) as out, running_database(loaded) as url, watching() as watch:
        contents, written = _run(_take(postgres_dsn(url), out, watch), place_of(url), "No backup was written.")
    size = bytes_text(file.stat().st_size)
    typer.echo(f"{file}: {_told(written)}, revision {contents.revision}, {size}")
    for name in contents.left_out:
        typer.echo(f"not in it: {name}")


def restore(
    file: BackupFile,
    to: Annotated[str | None, typer.Option(help="The URL of the database to fill; else PG_URL's, or our own.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only read the file, and say what is in it.")] = False,
    env_file: EnvFiles = None,
) -> None:
    """Fill an empty database from a backup, and bring it to the newest schema. All of it is there then, or nothing."""
    loaded = read_settings(tuple(env_file or ()))
    contents, found = _checked(file)
    typer.echo(f"{file}: {_told(found)}, revision {contents.revision}, of {contents.taken_at}: undamaged")
    if check:
        return
    _require_known(contents.revision, f"{str(file)!r} is of")
    with running_database(loaded, to, create=True) as url, file.open("rb") as given, watching() as watch:
        done = _run(_fill(postgres_dsn(url), Backup(given, str(file)), watch), place_of(url), _ALL_OR_NOTHING)
    _tell(done)
    typer.echo(f"restored: {_told(done.tables)}, the same in {place_of(url)}, which is at revision {runner.head()}")


def move(
    to: Annotated[str | None, typer.Option(help="The URL of the server's empty database; else PG_URL's.")] = None,
    env_file: EnvFiles = None,
) -> None:
    """Copy the embedded database to a server's empty one and compare both. The embedded one stays as it is."""
    loaded = read_settings(tuple(env_file or ()))
    target = named_url(loaded, to)
    if target is None:
        fail("where to? Give the URL of an empty database in --to or, so that it is in no list of processes, PG_URL.")
    server = embedded_server(loaded, create=False)
    with started(server):
        if server.role != "owner":
            fail(
                "another process uses the embedded database: stop the gateway (Ctrl-C, or its unit), "
                "or wait until the backup is done, and try again.",
                code=EXIT_FAILED,
            )
        with watching() as watch:
            work = _move(postgres_dsn(server.url), postgres_dsn(target), watch)
            done = _run(work, f"{place_of(server.url)} or {place_of(target)}", _ALL_OR_NOTHING)
    if done is None:
        typer.echo(f"{place_of(target)} has all of it already: nothing to do")
    else:
        _tell(done)
        typer.echo(f"moved: {_told(done.tables)}, the same in {place_of(target)}")
    typer.echo("Next, give the gateway the URL, leave HX_DATA_DIR as it is, and start it:")
    typer.echo(f"  PG_URL={place_of(target).replace('://', '://[hidden]@', 1)}")


async def _take(dsn: str, out: BinaryIO, watch: Watch) -> tuple[Contents, dict[str, Figures]]:
    async with session(dsn) as connection, snapshot(connection) as source:
        return source.contents, await write_backup(source, out, watch)


async def _move(source_dsn: str, target_dsn: str, watch: Watch) -> Loaded | None:
    """Return what was moved, or ``None`` where the target has it all."""
    async with session(source_dsn) as connection, snapshot(connection, alone=True) as source:
        runner.pending(source.contents.revision)
        try:
            return await _fill(target_dsn, source, watch)
        except NotEmpty:
            async with session(target_dsn) as other, snapshot(other) as target:
                if await hold_the_same(source, target):
                    return None
            raise


async def _fill(dsn: str, source: Source, watch: Watch) -> Loaded:
    async with session(dsn) as connection:
        await require_empty(connection)
    await runner.bring_to(dsn, source.contents.revision)
    async with session(dsn) as connection:
        done = await load(connection, source, watch)
    try:
        async with session(dsn) as connection:
            await analyse(connection, done)
        await runner.upgrade(dsn)
    except runner.DRIVER_ERRORS as error:
        raise TransferError(
            f"all rows are in the target, and only the newest schema is missing ({error}): run `hx-gateway db upgrade` "
            "there."
        ) from error
    return done


def _checked(file: Path) -> tuple[Contents, dict[str, Figures]]:
    """Return what is in ``file``, or leave where it is damaged; nobody's database was touched then."""
    try:
        with file.open("rb") as given, watching() as watch:
            if file.stat().st_mode & _OPEN_TO_OTHERS:
                typer.echo(f"{file} is open to others than you: chmod 600 it.", err=True)
            read = Backup(given, str(file))
            return read.contents, asyncio.run(check_backup(read, watch))
    except OSError as error:
        fail(f"{str(file)!r} cannot be read: {error.strerror}.", code=EXIT_FAILED)
    except TransferError as error:
        fail(str(error), code=EXIT_FAILED)


def _require_known(revision: str, what: str) -> None:
    try:
        runner.pending(revision)
    except runner.SchemaTooNew:
        fail(
            f"{what} revision {revision!r}, which this program does not know; its newest is {runner.head()!r}: run the "
            "newer program.",
            code=EXIT_FAILED,
        )


def _run(work: Coroutine[object, object, T], place: str, outcome: str) -> T:
    """Return what ``work`` returns, or leave with what went wrong at ``place`` and ``outcome``."""
    try:
        return asyncio.run(work)
    except (TransferError, runner.SchemaTooNew) as error:
        fail(str(error), code=EXIT_FAILED)
    except runner.DRIVER_ERRORS as error:
        told = [f"the database at {place} failed ({classify(error).kind}): {error}"]
        if getattr(error, "sqlstate", None) == _MAY_NOT:
            told.append("its role may not do this: take one that owns the gateway's tables, or may make its schemas.")
        fail(*told, outcome, code=EXIT_FAILED)
    except KeyboardInterrupt:
        fail(f"interrupted. {outcome}", code=EXIT_INTERRUPTED)


def _told(figures: dict[str, Figures]) -> str:
    return f"{len(figures)} tables, {rows_text(sum(table.rows for table in figures.values()))}"


def _tell(done: Loaded) -> None:
    for name in done.left_out:
        typer.echo(f"left out, for no migration of ours makes it: {name}", err=True)
