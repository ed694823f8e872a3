"""``hx-gateway registry tools``: what services can do, as their servers told it last or tell it now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, UrlOption, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.requests import PREFIX, Registry, pages, where
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import Cell, Shown, field, moment_cell, print_json, print_list, short

RefArgument = Annotated[
    str | None, typer.Argument(metavar="REF", help="The service's name, in whatever case, or its id; all unless given.")
]


def tools(
    ref: RefArgument = None,
    query: Annotated[
        str | None, typer.Option("--query", help="Words that each begin one of name, title or description.")
    ] = None,
    tag: options.TagFilter = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the service for its tools first.")] = False,
    limit: options.LimitOption = 50,
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print tools, by name."""
    registry = Registry(url, key, tenant)
    if refresh and ref is None:
        fail("--refresh: say which service is to be asked.", code=EXIT_FAILED)
    if refresh and ref is not None:
        _tell(registry.ask("POST", where(ref, "refresh"), None, {}))
    # As a parameter a name with commas would be several.
    service = registry.ask("GET", where(ref))["id"] if ref is not None and "," in ref else ref
    filters = {"tenant_id": tenant, "service": service, "q": query, "tags": options.several_of("--tag", tag)}

    async def walk(gateway: GatewayClient) -> tuple[list[Shown], bool]:
        items, more = list[Shown](), False
        async for page, more in pages(gateway, filters, limit, path=f"{PREFIX}/tools"):  # noqa: B007
            items += page
        return items, more

    items, more = run_with(url, key, walk)
    if not as_json:
        print_list(items, _LISTED, more=more)
        return
    for item in items:
        print_json(item)


def _tell(refreshed: Mapping[str, Any]) -> None:
    """Say on standard error what is new, so that JSON stays JSON."""
    told = [f"{what}: {_names(refreshed[what])}" for what in ("added", "removed", "changed") if refreshed[what]]
    typer.echo("; ".join(told) or "nothing changed", err=True)
    for warning in refreshed["warnings"]:
        typer.echo(plain(warning), err=True)


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(plain, names))


def _says(item: Shown) -> Text:
    """Return the first line of what a tool says of itself."""
    lines = (item.get("description") or item.get("title") or "").strip().splitlines()
    return Text(short(plain(lines[0])) if lines else "")


_LISTED: Mapping[str, Cell] = {
    "tool": field("name", "bold"),
    "service": field("service"),
    "description": _says,
    "changed": moment_cell("updated_at"),
}
