"""``hx-gateway registry import, export``: many services, from files and to them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, Refused, UrlOption, run_with
from hx_gateway.cli.output_file import whole_file
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.documents import (
    Entry,
    UnreadableServices,
    batches,
    document_of,
    in_order,
    lost_dependencies,
    read_json,
    without_ends,
)
from hx_gateway.cli.registry.requests import SERVICES, Registry, Service, pages
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import print_json
from hx_gateway.registry.formats import OFFICIAL_REGISTRY
from hx_gateway.registry.repository import MAX_BULK

FATES = ("created", "updated", "restored", "skipped", "failed")

OWN_FORMAT = "services"
FormatOption = Annotated[
    str,
    typer.Option("--format", help="services, as export writes them; mcp_servers; server_json; official_registry."),
]
ModeOption = Annotated[
    str, typer.Option("--mode", help="partial keeps those that can be; atomic all, at most 500, or none.")
]
BulkConflictOption = Annotated[
    str,
    typer.Option("--on-conflict", help="Where a name is taken: error, skip, update, or restore, which finds deleted "
                 "ones too."),
]  # fmt: skip


class Outcome(NamedTuple):
    """A service of a file, and what became of it."""

    entry: Entry
    told: Mapping[str, Any]


def import_services(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A file of --format, or with official_registry a registry's address.")
    ],
    format_: FormatOption = OWN_FORMAT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try all of it, and keep nothing.")] = False,
    mode: ModeOption = "partial",
    on_conflict: BulkConflictOption = "error",
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Register the services of a file, and say what cannot be and why; leave with 1 where there is such a one."""
    how = {"mode": mode, "on_conflict": on_conflict, "dry_run": dry_run}
    if format_ == OWN_FORMAT:
        entries = _read(Path(file))
        if mode == "atomic" and len(list(batches(entries))) > 1:
            message = f"--mode atomic: all or none goes for what one request may have: {MAX_BULK} services."
            fail(message, code=EXIT_FAILED)
        outcomes = run_with(url, key, lambda gateway: _import(gateway, tenant, entries, how))
    else:
        body = {**how, "format": format_, **_document(format_, file)}
        answer = Registry(url, key, tenant).ask("POST", f"{SERVICES}/import", None, body)
        for warning in answer["warnings"]:
            typer.echo(plain(warning), err=True)
        outcomes = [Outcome(Entry(told["index"] + 1, {}), told) for told in answer["results"]]
    _print(sorted(outcomes, key=lambda one: one.entry.row), as_json=as_json, dry_run=dry_run)
    if any(one.told["status"] == "failed" for one in outcomes):
        raise SystemExit(EXIT_FAILED)


def export(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The file to write; else standard output.")
    ] = None,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Write all services, by name, as JSON that ``import`` reads: what was set, with dependencies by name."""

    async def work(gateway: GatewayClient) -> list[Service]:
        items: list[Service] = []
        console = Console(stderr=True)
        with Progress(console=console, disable=file is None or not console.is_terminal, transient=True) as progress:
            task = progress.add_task("services", total=None)
            async for page, _ in pages(gateway, {"tenant_id": tenant, "sort": "name"}):
                items += page
                progress.update(task, advance=len(page))
        return items

    items = run_with(url, key, work)
    with whole_file(file) as out:
        for part in document_of(items):
            out.write(part.encode())
    lost = lost_dependencies(items)
    if lost:
        typer.echo(f"left out: {lost} dependencies on services that were deleted", err=True)
    if file is not None:
        typer.echo(f"{len(items)} services in {file}")


def _document(format_: str, file: str) -> dict[str, Any]:
    """Return what a gateway is told to import of a format that it reads itself, or leave."""
    if format_ == OFFICIAL_REGISTRY:
        return {"source": file}
    try:
        return {"document": json.loads(_text(Path(file)))}
    except (ValueError, RecursionError) as error:
        fail(f"{file}: it is not JSON: {error}. Nothing was registered.", code=EXIT_FAILED)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{file}: {error.strerror}.", code=EXIT_FAILED)
    except UnicodeDecodeError:
        fail(f"{file}: it is not UTF-8.", code=EXIT_FAILED)


def _read(file: Path) -> list[Entry]:
    """Return the services of a file in the order in which they can be registered, or leave."""
    try:
        entries = in_order(read_json(_text(file)))
    except UnreadableServices as error:
        fail(f"{file}: {plain(str(error))}. Nothing was registered.", code=EXIT_FAILED)
    if not entries:
        fail(f"{file}: it has no services.", code=EXIT_FAILED)
    return entries


async def _import(
    gateway: GatewayClient, tenant: str | None, entries: Sequence[Entry], how: Mapping[str, Any]
) -> list[Outcome]:
    """Ask for one batch after the other. Raises ``Refused`` where the next ones would be refused alike."""
    outcomes: list[Outcome] = []
    before: frozenset[str] = frozenset()
    console = Console(stderr=True)
    with Progress(console=console, disable=len(entries) <= MAX_BULK or not console.is_terminal) as progress:
        task = progress.add_task("services", total=len(entries))
        for batch in batches(entries):
            items = [without_ends(entry, before) for entry in batch]
            try:
                answer = await gateway.ask("POST", f"{SERVICES}/bulk", {"tenant_id": tenant}, {**how, "items": items})
            except Refused as refused:
                kept = sum(one.told["status"] != "failed" for one in outcomes)
                raise Refused(f"{refused} Done before it: {kept} of {len(entries)} services.", refused.status) from None
            outcomes += [Outcome(batch[told["index"]], told) for told in answer["results"]]
            if how["dry_run"]:
                # What earlier batches would have made is not there for later ones to depend on.
                before |= {entry.name.lower() for entry in batch}
            progress.update(task, advance=len(batch))
    return outcomes


def _print(outcomes: Sequence[Outcome], *, as_json: bool, dry_run: bool) -> None:
    counts = Counter(one.told["status"] for one in outcomes)
    failed = [one for one in outcomes if one.told["status"] == "failed"]
    if as_json:
        print_json({**{fate: counts[fate] for fate in FATES}, "dry_run": dry_run, "failures": list(map(_told, failed))})
        return
    if failed:
        Console().print(_table(failed))
    said = ", ".join([f"{counts[fate]} {fate}" for fate in FATES if counts[fate]])
    typer.echo(f"{said}{'; a dry run: nothing was kept' if dry_run else ''}")


def _told(one: Outcome) -> dict[str, Any]:
    return {
        "row": one.entry.row,
        "name": one.entry.name or None,
        **{name: one.told.get(name) for name in ("param", "code", "error")},
    }


def _table(failed: Sequence[Outcome]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("row", "name", "field", "code", "what is wrong"):
        shown.add_column(name, overflow="fold")
    for one in failed:
        told = [Text(plain(one.told.get(name)), style) for name, style in (("param", "yellow"), ("code", "red"))]
        shown.add_row(
            str(one.entry.row), Text(plain(one.entry.name), "bold"), *told, Text(plain(one.told.get("error")))
        )
    return shown
