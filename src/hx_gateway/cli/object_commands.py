"""The commands that teams, users and tenants have alike."""

from __future__ import annotations

from typing import Any

import typer

from hx_gateway.cli.access_options import JsonOption
from hx_gateway.cli.access_requests import Objects, Server
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption


def add_show(app: typer.Typer, kind: Objects) -> None:
    """Add the command that prints an object."""
    argument = _id_of(kind)

    @app.command(help=f"Print a {kind.one} with everything that is known of it.")
    def show(
        object_id: str = argument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, key: KeyOption = None
    ) -> None:
        kind.show(Server(url, key), object_id, as_json=as_json)


def add_switches(app: typer.Typer, kind: Objects) -> None:
    """Add the commands that delete and block an object, and undo that."""
    argument = _id_of(kind)

    @app.command(help=f"Delete a {kind.one}: it stops working at once. ``restore`` undoes it.")
    def delete(object_id: str = argument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
        deleted = kind.act(Server(url, key), object_id, "delete")
        kind.say(deleted, f"deleted; 'hx-gateway {kind.one}s restore' undoes it")

    @app.command(help=f"Restore a {kind.one} that was deleted.")
    def restore(object_id: str = argument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
        kind.say(kind.act(Server(url, key), object_id, "restore"), "restored")

    @app.command(help=f"Refuse everything of a {kind.one} from now on.")
    def block(object_id: str = argument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
        kind.say(kind.update(Server(url, key), object_id, {"blocked": True}), "blocked")

    @app.command(help=f"Let a blocked {kind.one} in again.")
    def unblock(object_id: str = argument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
        kind.say(kind.update(Server(url, key), object_id, {"blocked": False}), "unblocked")


def _id_of(kind: Objects) -> Any:
    return typer.Argument(metavar=kind.one, help=f"The id of the {kind.one}.")
