"""``hx-gateway cache``: what is kept of answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hx_gateway.cli.access_options import JsonOption
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.tables import print_json

app = typer.Typer(help="The response cache of a running gateway.", no_args_is_help=True)

PATH = "/v1/cache"


@app.callback()
def cache() -> None:
    """Keep the name of the one command there is."""


@app.command()
def purge(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of a platform admin: whose answers.")] = None,
    of_key: Annotated[str | None, typer.Option("--of-key", help="Those that calls of this key brought, by id.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Those of this model.")] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Forget answers of a tenant: the next request is answered by its model."""
    chosen = {"tenant_id": tenant, "key_id": of_key, "model": model}
    purged: dict[str, Any] = run_with(url, key, lambda gateway: gateway.ask("DELETE", PATH, chosen))
    if as_json:
        print_json(purged)
    else:
        typer.echo(f"{purged['purged']} answers of tenant {plain(purged['tenant_id'])} are forgotten")
