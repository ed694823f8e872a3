"""``hx-gateway audit``: who changed what, and whether somebody changed that."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from hx_gateway.cli.access_options import JsonOption
from hx_gateway.cli.access_requests import Objects, Server
from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, KeyOption, UrlOption, run_with
from hx_gateway.cli.tables import field, moment_cell, print_json

app = typer.Typer(help="The log of changes of a running gateway.", no_args_is_help=True)

PATH = "/v1/audit"
ENTRIES = Objects(
    PATH,
    "entry",
    {
        "at": moment_cell("at", ""),
        "action": field("action"),
        "what": field("object_kind"),
        "id": field("object_id", "bold"),
        "by key": field("actor_key"),
        "by user": field("actor_user"),
        "request": field("request_id"),
    },
)
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Of a platform admin: whose log.")]


@app.command("list")
def list_entries(
    tenant: TenantOption = None,
    kind: Annotated[str | None, typer.Option(help="Of what: tenant, team, user, key, cache or registry_item.")] = None,
    object_id: Annotated[str | None, typer.Option("--id", help="Of this object.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 50,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print the latest changes."""
    filters = {"tenant_id": tenant, "object_kind": kind, "object_id": object_id}
    ENTRIES.list(Server(url, key), filters, limit, as_json=as_json)


@app.command()
def verify(
    tenant: TenantOption = None, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, key: KeyOption = None
) -> None:
    """Check that no entry was changed or taken out; leave with 1 at the first that was."""
    found: dict[str, Any] = run_with(
        url, key, lambda gateway: gateway.ask("GET", f"{PATH}/check", {"tenant_id": tenant})
    )
    console = Console(highlight=False)
    if as_json:
        print_json(found)
    elif found["broken_at"] is None:
        console.print(f"{found['entries']} entries follow from each other, from the first to the last.")
    else:
        console.print(f"[bold red]Entry {found['broken_at']} is not what was written[/], or those before it are gone.")
    if found["broken_at"] is not None:
        raise SystemExit(EXIT_FAILED)
