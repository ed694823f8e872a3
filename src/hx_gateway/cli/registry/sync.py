"""``hx-gateway registry sync``: the registries that a tenant takes servers from."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.requests import PREFIX, Registry
from hx_gateway.cli.tables import print_json

_COLUMNS = ("url", "running", "watermark", "succeeded_at", "next_at", "created", "updated", "disabled", "skipped")


def sync(
    now: Annotated[bool, typer.Option("--now", help="Follow them now, rather than when they are due.")] = False,
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print how far the registries were followed that the tenant takes servers from; with --now as they are asked."""
    answer = Registry(url, key, tenant).ask("POST" if now else "GET", f"{PREFIX}/sync")
    if as_json:
        print_json(answer)
        return
    if not answer["items"]:
        typer.echo("no registry is followed (HX_REGISTRY_SYNC)")
        return
    Console().print(_table(answer["items"]))


def _table(items: list[dict[str, Any]]) -> Table:
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in (*_COLUMNS, "last error"):
        shown.add_column(name, overflow="fold")
    for item in items:
        cells = [Text(plain(item[name])) for name in _COLUMNS]
        shown.add_row(*cells, Text(plain(item["last_error"] or ""), "red"))
    return shown
