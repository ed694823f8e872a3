"""``hx-gateway db status``: which database it is, how big, and what its schema lacks."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hx_gateway.cli.client import EXIT_FAILED
from hx_gateway.cli.databases import running_database
from hx_gateway.cli.start import fail, read_settings
from hx_gateway.cli.tables import print_json
from hx_gateway.cli.transfer_progress import bytes_text
from hx_gateway.db.standing import Standing, read_standing
from hx_gateway.migrations import runner
from hx_gateway.services.dsn import place_of, postgres_dsn
from hx_gateway.services.failures import classify


def status(
    env_file: Annotated[list[Path] | None, typer.Option(help="Read settings from this file too.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print which database it is, its revision, and its tables with about how many rows."""
    loaded = read_settings(tuple(env_file or ()))
    with running_database(loaded) as url:
        try:
            standing, revision = asyncio.run(_read(postgres_dsn(url)))
        except runner.DRIVER_ERRORS as error:
            fail(f"the database at {place_of(url)} failed ({classify(error).kind}): {error}", code=EXIT_FAILED)
    if json_output:
        told = asdict(standing)
        tables = told.pop("tables")
        pending = {"revision": revision, "newest": runner.head(), "pending": _pending(revision)}
        print_json({"place": place_of(url), **told, **pending, "tables": tables})
    else:
        _show(standing, place_of(url), revision)


async def _read(dsn: str) -> tuple[Standing, str | None]:
    return await read_standing(dsn), await runner.current(dsn)


def _pending(revision: str | None) -> tuple[str, ...] | None:
    """Return the migrations that are to come; ``None`` where a newer program was here."""
    try:
        return runner.pending(revision)
    except runner.SchemaTooNew:
        return None


def _show(standing: Standing, place: str, revision: str | None) -> None:
    pending = _pending(revision)
    waiting = "unknown: a newer program was here" if pending is None else ", ".join(pending) or "none"
    facts = {
        "server": f"PostgreSQL {standing.version} at {place}",
        "database": f"{standing.database}, {bytes_text(standing.size)}",
        "role": standing.role + (", which row-level security does not hold for" if standing.exempt else ""),
        "revision": f"{revision or 'none'}, newest {runner.head()}",
        "pending": waiting,
    }
    console = Console(soft_wrap=True)
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        grid.add_row(name, value)
    console.print(grid, highlight=False, markup=False)
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("table", no_wrap=True)
    for heading in ("rows, about", "size", "partitions"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for table in standing.tables:
        shown.add_row(
            f"{table.schema}.{table.name}", f"{table.rows:,}", bytes_text(table.size), str(table.partitions or "")
        )
    console.print(shown)
