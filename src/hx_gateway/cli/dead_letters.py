"""``hx-gateway events dead-letters``: rows that the database refused, to be read, tried again or thrown away."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, UrlOption, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.start import fail

PATH = "/api/v1/observability/dead_letters"
COLUMNS = ("id", "created_at", "target", "sqlstate", "replayed_at", "error")

app = typer.Typer(help="Rows that the database refused.", no_args_is_help=True)

TenantOption = Annotated[str | None, typer.Option(help="Of an admin's key: the tenant to look at.")]
TargetOption = Annotated[str | None, typer.Option(help="Those of one table.")]


@app.command("list")
def list_letters(
    target: TargetOption = None,
    sqlstate: Annotated[str | None, typer.Option(help="Those with one error of PostgreSQL.")] = None,
    replayed: Annotated[bool | None, typer.Option(help="Those that were, or were not, tried again.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    tenant: TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print the newest dead letters."""
    query: dict[str, str | int | None] = {
        "target": target,
        "sqlstate": sqlstate,
        "replayed": None if replayed is None else str(replayed).lower(),
        "limit": limit,
        "tenant_id": tenant,
    }
    page = run_with(url, key, lambda gateway: gateway.ask("GET", PATH, query))
    shown = Table(*COLUMNS, box=None, header_style="bold", pad_edge=False)
    for letter in page["items"]:
        shown.add_row(*[Text(plain(letter[name])) for name in COLUMNS])
    Console().print(shown)


@app.command()
def show(letter: int, tenant: TenantOption = None, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Print a dead letter with its row, as JSON."""
    found = run_with(url, key, lambda gateway: gateway.ask("GET", f"{PATH}/{letter}", {"tenant_id": tenant}))
    typer.echo(json.dumps(found, indent=2))


@app.command()
def replay(
    letters: Annotated[list[int] | None, typer.Argument(help="Which ones.")] = None,
    target: TargetOption = None,
    tenant: TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Try dead letters again: some by their ids, or all of a table that were not tried again yet."""
    if bool(letters) == (target is not None):
        fail("give ids, or --target with a table.", code=EXIT_FAILED)

    async def work(gateway: GatewayClient) -> tuple[int, list[dict[str, Any]]]:
        body: dict[str, Any] = {"ids": letters} if letters else {"target": target, "after": 0}
        count, skipped = 0, []
        while True:
            said = await gateway.ask("POST", f"{PATH}/replay", {"tenant_id": tenant}, body)
            count += len(said["replayed"])
            skipped += said["skipped"]
            if letters or said["next_after"] is None:
                return count, skipped
            body["after"] = said["next_after"]

    count, skipped = run_with(url, key, work)
    for left in skipped:
        typer.echo(f"{left['id']}: {left['reason']}", err=True)
    typer.echo(f"{count} on their way again, {len(skipped)} left as they are")


@app.command()
def purge(
    letters: Annotated[list[int] | None, typer.Argument(help="Which ones.")] = None,
    older_than: Annotated[str | None, typer.Option(help="All from before this time (ISO 8601, with a zone).")] = None,
    tenant: TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Delete dead letters: some by their ids, or all from before a time."""
    if bool(letters) == (older_than is not None):
        fail("give ids, or --older-than with a time.", code=EXIT_FAILED)
    body = {"ids": letters} if letters else {"older_than": older_than}
    said = run_with(url, key, lambda gateway: gateway.ask("DELETE", PATH, {"tenant_id": tenant}, body))
    typer.echo(f"{said['deleted']} deleted")
