"""``hx-gateway events``: look into a running gateway's record, and send to it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from hx_gateway.cli import dead_letters
from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, UrlOption, run_with
from hx_gateway.cli.moments import SinceOption, UntilOption, past_of
from hx_gateway.cli.output_file import whole_file
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import print_json, short

PREFIX = "/api/v1/observability"
TAIL_SECONDS = 1.0
REMEMBERED = 10_000
MAX_LIMIT = 1_000
MAX_CELL_CHARS = 80
_STYLES = {"ERROR": "red", "FATAL": "bold red", "WARN": "yellow", "DEBUG": "dim", "TRACE": "dim"}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "trace_events": ("timestamp", "level", "event_type", "agent_name", "trace_id", "message"),
    "routing_decisions": ("timestamp", "selected_agent", "confidence_score", "routing_strategy", "user_request"),
    "performance_metrics": ("timestamp", "metric_name", "metric_value", "unit", "component"),
    "transformation_events": ("timestamp", "transformation_type", "source_agent", "target_agent", "success"),
}

app = typer.Typer(help="The record of a running gateway.", no_args_is_help=True)
app.add_typer(dead_letters.app, name="dead-letters")

TableArgument = Annotated[str, typer.Argument(help="trace_events, or another of the record's tables.")]
WhereOption = Annotated[list[str] | None, typer.Option("--where", help="A filter, as agent_name=support.")]
TenantOption = Annotated[str | None, typer.Option(help="Of an admin's key: the tenant to look at.")]
AgentOption = Annotated[str | None, typer.Option(help="A filter: agent_name.")]
TypeOption = Annotated[str | None, typer.Option(help="A filter: event_type.")]
LevelOption = Annotated[str | None, typer.Option(help="A filter: this level and above.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]


@app.command("list")
def list_events(
    table: TableArgument = "trace_events",
    where: WhereOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    agent_name: AgentOption = None,
    event_type: TypeOption = None,
    min_level: LevelOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print the newest records of a table."""
    named = {"agent_name": agent_name, "event_type": event_type, "min_level": min_level, "limit": limit}
    query = {**named, **_filters(table, where, since, until, tenant)}
    page = run_with(url, key, lambda gateway: gateway.ask("GET", f"{PREFIX}/{table}", query))
    if as_json:
        for item in page["items"]:
            print_json(item)
        return
    shown = Table(*COLUMNS[table], box=None, header_style="bold", pad_edge=False)
    for item in page["items"]:
        shown.add_row(*_cells(item, COLUMNS[table]))
    console = Console()
    console.print(shown)
    more = "; there are more" if page["next_cursor"] else ""
    console.print(f"{len(page['items'])} since {page['window']['start'][:19]}Z{more}", style="dim")


@app.command()
def tail(
    table: TableArgument = "trace_events",
    where: WhereOption = None,
    lines: Annotated[int, typer.Option(help="How many of the past to begin with.")] = 10,
    agent_name: AgentOption = None,
    event_type: TypeOption = None,
    min_level: LevelOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print new records of a table as they come, until interrupted."""
    named = {"agent_name": agent_name, "event_type": event_type, "min_level": min_level, "limit": MAX_LIMIT}
    query = {**named, **_filters(table, where, None, None, tenant)}

    async def follow(gateway: GatewayClient) -> None:
        console = Console(soft_wrap=True)
        seen: deque[str] = deque(maxlen=REMEMBERED)
        shown = lines
        while True:
            page = await gateway.ask("GET", f"{PREFIX}/{table}", query)
            known = set(seen)
            new = [item for item in reversed(page["items"]) if item["event_id"] not in known]
            seen.extend(item["event_id"] for item in new)
            for item in new[max(0, len(new) - shown) :]:
                _print_line(console, table, item, as_json=as_json)
            shown = MAX_LIMIT
            await asyncio.sleep(TAIL_SECONDS)

    try:
        run_with(url, key, follow)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


@app.command()
def trace(
    trace_id: str,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print a trace as a tree of its spans."""
    path = f"{PREFIX}/traces/{quote(trace_id, safe='')}"
    found = run_with(url, key, lambda gateway: gateway.ask("GET", path, {"tenant_id": tenant}))
    if as_json:
        print_json(found)
        return
    root = Tree(Text(plain(trace_id), "bold"))
    for event in found["events"]:
        root.add(_event_text(event))
    waiting = [(root, span) for span in reversed(found["roots"])]
    while waiting:
        branch, span = waiting.pop()
        below = branch.add(_span_text(span))
        for event in span["events"][1:]:
            below.add(_event_text(event))
        waiting += [(below, child) for child in reversed(span["children"])]
    console = Console(soft_wrap=True)
    console.print(root)
    cut = ", the first ones" if found["truncated"] else ""
    console.print(f"{found['span_count']} spans, {found['event_count']} events{cut}", style="dim")


@app.command()
def export(
    table: TableArgument,
    out: Annotated[Path | None, typer.Option(help="The file to write; else standard output.")] = None,
    where: WhereOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    tenant: TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Write all records of a table as JSON lines, newest first; those of the last day unless --since says more."""
    query = _filters(table, where, since, until, tenant)
    with whole_file(out) as file:

        async def work(gateway: GatewayClient) -> int:
            records = 0
            with Progress(*_PROGRESS, console=Console(stderr=True), disable=out is None) as progress:
                task = progress.add_task(table, total=None, records=0)
                async for chunk in gateway.stream(f"{PREFIX}/export/{table}", query):
                    file.write(chunk)
                    records += chunk.count(b"\n")
                    progress.update(task, advance=len(chunk), records=records)
            return records

        records = run_with(url, key, work)
    if out is not None:
        typer.echo(f"{records} records in {out}")


@app.command()
def send(
    event_type: str,
    trace_id: Annotated[str | None, typer.Option(help="The trace it belongs to; else one of its own.")] = None,
    level: Annotated[str, typer.Option(help="TRACE, DEBUG, INFO, WARN, ERROR or FATAL.")] = "INFO",
    message: Annotated[str | None, typer.Option(help="What happened, for people.")] = None,
    agent_name: Annotated[str | None, typer.Option(help="The agent it happened to.")] = None,
    metadata: Annotated[str | None, typer.Option(help="Anything else, as a JSON object.")] = None,
    tenant: TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Send one trace event."""
    try:
        more = None if metadata is None else json.loads(metadata)
    except ValueError as error:
        fail(f"--metadata is not JSON: {error}", code=EXIT_FAILED)
    event = {
        "trace_id": trace_id or f"cli-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
        "event_type": event_type,
        "level": level,
        "message": message,
        "agent_name": agent_name,
        "metadata": more,
    }
    answer = run_with(url, key, lambda gateway: gateway.ask("POST", f"{PREFIX}/events", {"tenant_id": tenant}, event))
    typer.echo(f"{answer['results'][0]['event_id']} in trace {event['trace_id']}")


@app.command()
def health(as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Print the record's health in figures."""
    found = run_with(url, key, lambda gateway: gateway.ask("GET", f"{PREFIX}/health"))
    if as_json:
        print_json(found)
        return
    shown = Table(box=None, show_header=False, pad_edge=False)
    for name, value in found.items():
        shown.add_row(name, plain(value))
    Console().print(shown)


_PROGRESS = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    TextColumn("{task.fields[records]} records"),
    DownloadColumn(),
    TransferSpeedColumn(),
    TimeElapsedColumn(),
)


def _filters(
    table: str, where: Iterable[str] | None, since: str | None, until: str | None, tenant: str | None
) -> dict[str, str | int | None]:
    if table not in COLUMNS:
        fail(f"there is no table {table!r}: {', '.join(COLUMNS)}.", code=EXIT_FAILED)
    found: dict[str, str | int | None] = {"tenant_id": tenant}
    for condition in where or ():
        name, equals, value = condition.partition("=")
        if not equals:
            fail(f"--where {condition!r}: write it as name=value.", code=EXIT_FAILED)
        found[name] = value
    return {**found, "start_time": past_of("--since", since), "end_time": past_of("--until", until)}


def _print_line(console: Console, table: str, item: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(item)
    else:
        console.print(Text("  ").join(cell for cell in _cells(item, COLUMNS[table]) if cell))


def _cells(item: Mapping[str, Any], columns: Iterable[str]) -> list[Text]:
    style = _STYLES.get(str(item.get("level")), "")
    return [_cell(name, item[name], style) for name in columns]


def _cell(name: str, value: object, style: str) -> Text:
    text = plain(value)
    if name == "timestamp":
        return Text(text[:23].replace("T", " "), "dim")
    return Text(short(text, MAX_CELL_CHARS), style)


def _event_text(event: Mapping[str, Any]) -> Text:
    return Text("  ").join(
        cell for cell in _cells(event, ("timestamp", "level", "event_type", "agent_name", "message")) if cell
    )


def _span_text(span: Mapping[str, Any]) -> Text:
    first = span["events"][0]
    took = "" if first["duration_ms"] is None else f"  {first['duration_ms']:.1f} ms"
    marks = "".join(f"  [{mark}]" for mark in ("parent_missing", "cycle", "duplicate", "depth_cut") if span[mark])
    return Text.assemble(_event_text(first), (took, "cyan"), (plain(marks).replace("_", " "), "yellow"))
