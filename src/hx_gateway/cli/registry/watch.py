"""``hx-gateway registry watch``: changes as they happen, a line each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hx_gateway.cli.client import DEFAULT_URL, GatewayClient, KeyOption, Parameters, UrlOption, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.changes import ChangeFollower
from hx_gateway.cli.registry.columns import STATUS_STYLES
from hx_gateway.cli.tables import listed, print_json, short

RESET = "registry.reset"
TOOLS_CHANGED = "service.tools_changed"
_OF_SERVICES = "service."
_TYPE_STYLES = {
    "service.created": "green",
    "service.deleted": "red",
    "service.restored": "green",
    "service.purged": "red",
    "service.status_changed": "yellow",
    "service.dependency_changed": "cyan",
    TOOLS_CHANGED: "cyan",
    "service.flapping": "yellow",
    "service.stale": "yellow",
    "registry.self_preservation": "bold red",
    RESET: "bold red",
}
_WHOLE = frozenset({"service.created", "service.deleted", "service.restored", "service.purged"})
# What a value may take of a line.
_VALUE_CHARS = 40


def watch(
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--types",
            help="created, updated, deleted, restored, purged, status_changed, dependency_changed, tools_changed, "
            "flapping, stale, registry.self_preservation.",
        ),
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tags", help="Of services that have one of these tags.")] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="Of this service; repeatable.")] = None,
    required: Annotated[bool, typer.Option("--required", help="Of required services only.")] = False,
    since: Annotated[
        int | None, typer.Option("--since", min=0, help="What came after the change of this number first.")
    ] = None,
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print changes as they happen, until interrupted; goes on by itself where the gateway was away."""
    parameters = {
        "tenant_id": tenant,
        "types": _types(options.several_of("--types", types)),
        "tags": options.several_of("--tags", tags),
        "names": options.several_of("--name", name),
        "required_only": "true" if required else None,
        "since": since,
    }
    try:
        run_with(url, key, lambda gateway: _follow(gateway, parameters, as_json=as_json))
    except KeyboardInterrupt:
        raise SystemExit(0) from None


async def _follow(gateway: GatewayClient, parameters: Parameters, *, as_json: bool) -> None:
    console, aside = Console(soft_wrap=True, highlight=False), Console(stderr=True, soft_wrap=True, highlight=False)
    follower = ChangeFollower(
        gateway,
        parameters,
        on_away=lambda why: aside.print(Text(f"the gateway is away, waiting for it: {plain(why)}", "yellow")),
        on_back=lambda: aside.print(Text("the gateway is back", "green")),
    )
    async for event in follower.events():
        told = json.loads(event.data)
        if as_json:
            print_json(told)
        else:
            console.print(line_of(told))


def line_of(event: Mapping[str, Any]) -> Text:
    """Return a change in one line: when, what, of which service, and by whom."""
    kind = plain(event["type"])
    style = _TYPE_STYLES.get(kind, "")
    if kind == RESET:
        return Text(f"{kind}  what came before is of another history: list the services anew", style)
    data = event["data"]
    when = plain(event["time"])[:19].replace("T", " ")
    actor = data["actor"]
    parts = [
        Text(when, "dim"),
        Text(kind.removeprefix(_OF_SERVICES), style),
        Text(plain(data["name"] or ""), "bold"),
        Text(", ").join(_differences(kind, data)),
        Text(f"by {plain(actor['user'] or actor['key'])}", "dim"),
    ]
    return Text("  ").join([part for part in parts if part])


def _differences(kind: str, data: Mapping[str, Any]) -> list[Text]:
    """Return what differs; of services that came or went all does, and is not told."""
    if kind in _WHOLE:
        return []
    before, after = data["before"] or {}, data["after"] or {}
    if kind == TOOLS_CHANGED:
        return [_tools(before["tools"], after["tools"])]
    return [_difference(name, before.get(name), after.get(name)) for name in data["changed_fields"]]


def _difference(name: str, before: object, after: object) -> Text:
    sides = [Text(_value(value), STATUS_STYLES.get(str(value), "") if name == "status" else "")
             for value in (before, after)]  # fmt: skip
    told = Text(" → ").join(sides)
    return told if name == "status" else Text(f"{plain(name)} ") + told


def _tools(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Text:
    """Return names of tools with what became of them: ``+`` new, ``-`` gone, ``~`` defined otherwise."""
    were, are = ({tool["name"] for tool in side if "name" in tool} for side in (before, after))
    marks = [
        f"{'+' if name not in were else '-' if name not in are else '~'}{plain(name)}" for name in sorted(were | are)
    ]
    return Text(listed([*marks, *(f"{tool['more']} more" for tool in after if "more" in tool)]))


def _value(value: object) -> str:
    return "none" if value is None else short(plain(value), _VALUE_CHARS)


def _types(types: str | None) -> str | None:
    if types is None:
        return None
    return ",".join([kind if "." in kind else f"{_OF_SERVICES}{kind}" for kind in types.split(",")])
