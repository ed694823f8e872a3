"""Which database a command works on: the one that is named, the settings', or our own, which runs meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from hx_gateway.cli.client import EXIT_FAILED
from hx_gateway.cli.start import fail, open_installation
from hx_gateway.services.dsn import DsnError, postgres_dsn
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.postgres import EmbeddedPostgres
from hx_gateway.settings import NOT_CONFIGURED, LoadedSettings


def named_url(loaded: LoadedSettings, given: str | None = None) -> str | None:
    """Return ``given``, or what ``PG_URL`` says, checked; ``None`` where the database is our own."""
    url = loaded.settings.pg_url
    value = given or (url.get_secret_value() if url is not None else None)
    if value is None:
        return None
    if value == NOT_CONFIGURED:
        fail("PG_URL is 'none': there is no database. Set PG_URL to one.")
    try:
        postgres_dsn(value)
    except DsnError as error:
        fail(f"{'--to' if given else 'PG_URL'}: {error}.")
    return value


@contextmanager
def running_database(loaded: LoadedSettings, given: str | None = None, *, create: bool = False) -> Iterator[str]:
    """Give the URL of :func:`named_url`, or of our own database, which is started where nobody runs it."""
    url = named_url(loaded, given)
    if url is not None:
        yield url
        return
    server = embedded_server(loaded, create=create)
    with started(server):
        yield server.url


@contextmanager
def started(server: EmbeddedPostgres) -> Iterator[None]:
    """Run ``server``, or use it where another process does, until the end; leave where neither can be done."""
    try:
        server.start()
    except EmbeddedError as error:
        fail(str(error), code=EXIT_FAILED)
    try:
        yield
    finally:
        server.stop()


def embedded_server(loaded: LoadedSettings, *, create: bool) -> EmbeddedPostgres:
    """Return our own database; leave where there is none and none is to be made."""
    data_dir = open_installation(loaded).data_dir
    try:
        server = EmbeddedPostgres(data_dir / "postgres", notify=lambda line: typer.echo(line, err=True))
    except EmbeddedError as error:
        fail(str(error))
    if not server.exists and not create:
        fail(f"there is no embedded database in {str(data_dir)!r}: set HX_DATA_DIR to the gateway's, or PG_URL.")
    return server
