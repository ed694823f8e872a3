"""What the commands over tenants, teams, users and keys ask of a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import typer

from hx_gateway.cli.client import EXIT_FAILED, GatewayClient, Parameters, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import Cell, print_json, print_list, print_object

MAX_PAGE = 200


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask, and with which key."""

    url: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Objects:
    """One kind of objects: where they are, what one is called, and how they are shown."""

    path: str
    one: str
    columns: Mapping[str, Cell]

    def where(self, object_id: str, *more: str) -> str:
        """Return the path of an object, or of what is below it."""
        return "/".join([self.path, *[quote(part, safe="") for part in (object_id, *more)]])

    def list(self, server: Server, parameters: Parameters, limit: int, *, as_json: bool) -> None:
        """Print as many objects as asked for, over as many pages as it takes."""

        async def walk(gateway: GatewayClient) -> tuple[list[dict[str, Any]], bool]:
            items: list[dict[str, Any]] = []
            cursor: str | None = None
            while len(items) < limit:
                part = {**parameters, "limit": min(MAX_PAGE, limit - len(items)), "cursor": cursor}
                page = await gateway.ask("GET", self.path, part)
                items += page["data"]
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            return items, cursor is not None

        items, more = run_with(server.url, server.key, walk)
        if as_json:
            for item in items:
                print_json(item)
        else:
            print_list(items, self.columns, more=more)

    def create(self, server: Server, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a new object."""
        return self._ask(server, "POST", self.path, body)

    def show(self, server: Server, object_id: str, *, as_json: bool) -> None:
        """Print an object."""
        self.print(self._ask(server, "GET", self.where(object_id)), as_json=as_json)

    def update(
        self,
        server: Server,
        object_id: str,
        changes: Mapping[str, Any],
        limits: Mapping[str, int] | None = None,
        *,
        no_limits: bool = False,
    ) -> dict[str, Any]:
        """Change an object and return it. Limits that are not named stay, unless ``no_limits``."""
        if not changes and limits is None and not no_limits:
            fail("there is nothing to change: give an option.", code=EXIT_FAILED)

        async def work(gateway: GatewayClient) -> dict[str, Any]:
            body = dict(changes)
            if no_limits or limits is not None:
                kept = {} if no_limits else (await gateway.ask("GET", self.where(object_id)))["limits"]
                body["limits"] = {**kept, **(limits or {})}
            changed: dict[str, Any] = await gateway.ask("PATCH", self.where(object_id), None, body)
            return changed

        return run_with(server.url, server.key, work)

    def act(self, server: Server, object_id: str, action: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Do something to an object and return it: ``delete``, or what is below it by that name."""
        if action == "delete":
            return self._ask(server, "DELETE", self.where(object_id))
        return self._ask(server, "POST", self.where(object_id, action), body)

    def print(self, item: Mapping[str, Any], *, as_json: bool) -> None:
        """Print an object that was just answered."""
        if as_json:
            print_json(item)
        else:
            print_object(item, self.columns)

    def say(self, item: Mapping[str, Any], what: str) -> None:
        """Print in one line what became of an object."""
        typer.echo(f"{self.one} {plain(item['id'])} ({plain(item['name'])}) {what}")

    @staticmethod
    def _ask(server: Server, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found: dict[str, Any] = run_with(server.url, server.key, lambda gateway: gateway.ask(method, path, None, body))
        return found


def flag(value: bool | None) -> str | None:
    """Return a parameter that may be left out."""
    return None if value is None else str(value).lower()
