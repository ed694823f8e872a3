"""``hx-gateway db``: the database's schema, brought to the one of this program, and what is done with all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer

from hx_gateway.cli.databases import named_url
from hx_gateway.cli.db_bootstrap import bootstrap_stores
from hx_gateway.cli.db_status import status
from hx_gateway.cli.db_transfer import backup, move, restore
from hx_gateway.cli.start import fail, open_installation, read_settings
from hx_gateway.migrations import runner
from hx_gateway.services.dsn import place_of, postgres_dsn
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.postgres import EmbeddedPostgres
from hx_gateway.services.failures import classify
from hx_gateway.settings import LoadedSettings

EXIT_FAILED = 1

T = TypeVar("T")

app = typer.Typer(help="The database: its schema, and all that is in it.", no_args_is_help=True)
for _command in (status, backup, restore, move):
    app.command()(_command)
app.command("bootstrap")(bootstrap_stores)

EnvFiles = Annotated[list[Path] | None, typer.Option(help="Read settings from this file too.")]


@app.command()
def upgrade(env_file: EnvFiles = None) -> None:
    """Bring the database to the newest schema. Safe to run at any time, also beside gateways that serve."""
    url = _database(env_file)
    applied = _ask(url, runner.upgrade(postgres_dsn(url)))
    for revision in applied:
        typer.echo(f"applied {revision}")
    if not applied:
        typer.echo(f"{runner.head()} already: nothing to do")


@app.command()
def current(env_file: EnvFiles = None) -> None:
    """Print the revision of the database and the newest one."""
    url = _database(env_file)
    found = _ask(url, runner.current(postgres_dsn(url)))
    typer.echo(f"database  {found or 'none'}")
    typer.echo(f"newest    {runner.head()}")


def _database(env_files: list[Path] | None) -> str:
    """Return the URL of the database that the settings name, or of our own while it runs."""
    loaded = read_settings(tuple(env_files or ()))
    return named_url(loaded) or _embedded(loaded)


def _embedded(loaded: LoadedSettings) -> str:
    data_dir = open_installation(loaded).data_dir
    try:
        server = EmbeddedPostgres(data_dir / "postgres", notify=typer.echo)
        if not server.is_ready():
            fail(
                f"the embedded PostgreSQL in {str(data_dir)!r} does not run: start the gateway (hx-gateway serve), "
                "which brings its schema up to date, or set PG_URL to another database.",
                code=EXIT_FAILED,
            )
        return server.url
    except EmbeddedError as error:
        fail(str(error))


def _ask(url: str, question: Coroutine[object, object, T]) -> T:
    try:
        return asyncio.run(question)
    except runner.SchemaTooNew as error:
        fail(str(error))
    except runner.DRIVER_ERRORS as error:
        _unreachable(url, error)


def _unreachable(url: str, error: Exception) -> NoReturn:
    fail(f"the database at {place_of(url)} failed ({classify(error).kind}): {error}", code=EXIT_FAILED)
