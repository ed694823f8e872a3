"""``hx-gateway registry graph``: what services depend on, as a tree, for Mermaid and for Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, KeyOption, UrlOption
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.columns import STATUS_STYLES, state_of
from hx_gateway.cli.registry.requests import Registry
from hx_gateway.cli.start import fail

_FIELDS = "id,name,status,is_deleted,is_required,dependencies,dependents"
# What both formats know by name; others have no colour.
_COLOURS = {"healthy": "green", "unhealthy": "red", "maintenance": "orange", "disabled": "purple", "deleted": "gray"}
FORMATS = ("tree", "mermaid", "dot")


@dataclass(frozen=True, slots=True)
class Graph:
    """Services by id, and for each the ids that it leads to: those it depends on, or those that depend on it."""

    services: Mapping[str, Mapping[str, Any]]
    edges: Mapping[str, Sequence[str]]

    def roots(self) -> list[str]:
        """Return the living services that none leads to, by name."""
        reached = {end for ends in self.edges.values() for end in ends}
        return [one for one in self.edges if one not in reached and not self.services[one]["is_deleted"]]

    def reached(self, roots: Iterable[str]) -> list[str]:
        """Return ``roots`` and all that they lead to, each once, the nearest first."""
        found = dict.fromkeys(roots)
        waiting = list(found)
        for here in waiting:
            new = [end for end in self.edges[here] if end not in found]
            found |= dict.fromkeys(new)
            waiting += new
        return waiting


def graph(
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="From this service on: its name, or its id; else all.")
    ] = None,
    output: Annotated[str, typer.Option("--format", help="tree, mermaid or dot.")] = "tree",
    dependents: Annotated[
        bool, typer.Option("--dependents", help="What depends on services, not what they depend on.")
    ] = False,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print what services depend on."""
    if output not in FORMATS:
        fail(f"--format {output!r}: {', '.join(FORMATS)}.", code=EXIT_FAILED)
    parameters = {"fields": _FIELDS, "include_deleted": "true", "sort": "name"}
    items, _ = Registry(url, key, tenant).list(parameters)
    found = graph_of(items, "dependents" if dependents else "dependencies")
    roots = found.roots() if ref is None else [_named(found, ref)]
    match output:
        case "mermaid":
            typer.echo("\n".join(mermaid(found, roots, backwards=dependents)))
        case "dot":
            typer.echo("\n".join(dot(found, roots, backwards=dependents)))
        case _:
            console = Console(soft_wrap=True)
            for root in roots:
                console.print(tree(found, root))


def graph_of(items: Sequence[Mapping[str, Any]], ends: str) -> Graph:
    """Return the graph of services over the field ``ends``; ends that are not among them are left out."""
    services = {item["id"]: item for item in items}
    places = {item_id: place for place, item_id in enumerate(services)}
    return Graph(
        services,
        {one: sorted((end for end in item[ends] if end in services), key=places.__getitem__)
         for one, item in services.items()},
    )  # fmt: skip


def tree(graph: Graph, root: str) -> Tree:
    """Return a service and what it leads to. What was told above is not told again."""
    top = Tree(_label(graph, root))
    told, waiting = set[str](), [(top, root)]
    while waiting:
        branch, here = waiting.pop()
        if here in told:
            if graph.edges[here]:
                branch.add(Text("… as above", "dim"))
            continue
        told.add(here)
        below = [(branch.add(_label(graph, end)), end) for end in graph.edges[here]]
        waiting += reversed(below)
    return top


def mermaid(graph: Graph, roots: Sequence[str], *, backwards: bool = False) -> Iterator[str]:
    """Yield the lines of a Mermaid flowchart; arrows go from a service to what it depends on."""
    names = {one: f"s{number}" for number, one in enumerate(graph.reached(roots))}
    yield "flowchart LR"
    for one, short in names.items():
        state = state_of(graph.services[one])
        text = plain(graph.services[one]["name"]).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        yield f'  {short}["{text}"]{f":::{state}" if state in _COLOURS else ""}'
    for start, end in _edges(graph, names, backwards=backwards):
        yield f"  {names[start]} --> {names[end]}"
    for state in sorted({state_of(graph.services[one]) for one in names} & _COLOURS.keys()):
        yield f"  classDef {state} stroke:{_COLOURS[state]}"


def dot(graph: Graph, roots: Sequence[str], *, backwards: bool = False) -> Iterator[str]:
    """Yield the lines of a Graphviz digraph; arrows go from a service to what it depends on."""
    reached = graph.reached(roots)
    yield "digraph registry {"
    yield "  rankdir=LR;"
    for one in reached:
        colour = _COLOURS.get(state_of(graph.services[one]))
        style = f", color={colour}" if colour else ""
        yield f"  {_quoted(one)} [label={_quoted(graph.services[one]['name'])}{style}];"
    for start, end in _edges(graph, reached, backwards=backwards):
        yield f"  {_quoted(start)} -> {_quoted(end)};"
    yield "}"


def _edges(graph: Graph, reached: Iterable[str], *, backwards: bool) -> Iterator[tuple[str, str]]:
    for one in reached:
        for end in graph.edges[one]:
            yield (end, one) if backwards else (one, end)


def _label(graph: Graph, one: str) -> Text:
    service = graph.services[one]
    state = state_of(service)
    label = Text.assemble((plain(service["name"]), "bold"), "  ", (state, STATUS_STYLES.get(state, "")))
    return label + Text("  required", "yellow") if service["is_required"] else label


def _quoted(text: object) -> str:
    escaped = plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _named(graph: Graph, ref: str) -> str:
    """Return the id of the service that is meant, a living one first. Leaves where there is none."""
    wanted = ref.lower()
    found = [one for one, item in graph.services.items() if wanted in (one, item["name"].lower())]
    if not found:
        fail(f"there is no service {ref!r}.", code=EXIT_FAILED)
    return min(found, key=lambda one: (bool(graph.services[one]["is_deleted"]), one != wanted))
