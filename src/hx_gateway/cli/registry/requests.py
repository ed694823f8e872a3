"""What the commands over the registry ask of a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import typer

from hx_gateway.access.resources import MAX_PAGE
from hx_gateway.cli.client import GatewayClient, Parameters, run_with
from hx_gateway.cli.plain_text import plain

PREFIX = "/api/v1/registry"
SERVICES = f"{PREFIX}/services"
Service = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry of a gateway: where to ask, with which key, and for which tenant (``None``: the key's own)."""

    url: str
    key: str | None
    tenant: str | None = None

    def ask(self, method: str, path: str, parameters: Parameters | None = None, body: object = None) -> Any:
        """Return the answer to one request. Leaves the program where it is refused."""
        chosen = {"tenant_id": self.tenant, **(parameters or {})}
        return run_with(self.url, self.key, lambda gateway: gateway.ask(method, path, chosen, body))

    def list(self, parameters: Parameters, limit: int | None = None) -> tuple[list[Service], bool]:
        """Return as many services as asked for (``None``: all), and whether there are more."""

        async def walk(gateway: GatewayClient) -> tuple[list[Service], bool]:
            items, more = list[Service](), False
            async for page, more in pages(gateway, {"tenant_id": self.tenant, **parameters}, limit):  # noqa: B007
                items += page
            return items, more

        return run_with(self.url, self.key, walk)


async def pages(
    gateway: GatewayClient, parameters: Parameters, limit: int | None = None, *, path: str = SERVICES
) -> AsyncIterator[tuple[list[Service], bool]]:
    """Yield pages of a list, of services unless it is another, up to ``limit`` items, each with whether more follow."""
    cursor, left = None, limit
    while True:
        size = MAX_PAGE if left is None else min(MAX_PAGE, left)
        page = await gateway.ask("GET", path, {**parameters, "limit": size, "cursor": cursor})
        cursor = page["next_cursor"]
        yield page["items"], cursor is not None
        left = None if left is None else left - len(page["items"])
        if cursor is None or (left is not None and left <= 0):
            return


def where(ref: str, *more: str) -> str:
    """Return the path of a service, or of what is below it."""
    return "/".join([SERVICES, *[quote(part, safe="") for part in (ref, *more)]])


def say(service: Mapping[str, Any], what: str) -> None:
    """Print in one line what became of a service."""
    typer.echo(f"service {plain(service['name'])} ({plain(service['id'])}) {what}")
