"""Graphs of services as text that others draw: DOT for Graphviz, and Mermaid."""

from __future__ import annotations

from collections.abc import Iterator

from hx_gateway.db.models.registry_items import DependencyKind, ServiceStatus
from hx_gateway.registry.graph import Node, ServiceGraph

_COLOURS = {
    ServiceStatus.HEALTHY: "#2e7d32",
    ServiceStatus.UNHEALTHY: "#c62828",
    ServiceStatus.UNKNOWN: "#757575",
    ServiceStatus.MAINTENANCE: "#f9a825",
    ServiceStatus.DISABLED: "#424242",
}
_DOT_STYLES = {DependencyKind.RUNTIME: "solid", DependencyKind.STARTUP: "dashed", DependencyKind.OPTIONAL: "dotted"}
_ARROWS = {
    DependencyKind.RUNTIME: "-->",
    DependencyKind.STARTUP: "-->|startup|",
    DependencyKind.OPTIONAL: "-.->",
}
# Mermaid reads entities of its own kind in texts; nothing else keeps quotes, brackets and its own words out of harm.
_PLAIN = frozenset(" -./_")


def dot(graph: ServiceGraph) -> str:
    """Return the graph in Graphviz's language: an arrow from each service to what it depends on."""
    return "\n".join(["digraph services {", *_dot_lines(graph), "}"]) + "\n"


def mermaid(graph: ServiceGraph) -> str:
    """Return the graph as a Mermaid flow chart."""
    return "\n".join(["flowchart LR", *_mermaid_lines(graph)]) + "\n"


def _dot_lines(graph: ServiceGraph) -> Iterator[str]:
    for node in graph.nodes:
        width = ", penwidth=2" if node.is_required else ""
        yield f'  "{node.id}" [label={_dot_text(node.name)}, color="{_COLOURS[node.status]}"{width}];'
    for edge in graph.edges:
        yield f'  "{edge.item_id}" -> "{edge.depends_on_id}" [style={_DOT_STYLES[edge.kind]}];'


def _mermaid_lines(graph: ServiceGraph) -> Iterator[str]:
    names = {node.id: f"s{number}" for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        yield f"  {names[node.id]}{_mermaid_box(node)}:::{node.status.value}"
    for edge in graph.edges:
        yield f"  {names[edge.item_id]} {_ARROWS[edge.kind]} {names[edge.depends_on_id]}"
    for status in sorted({node.status for node in graph.nodes}):
        yield f"  classDef {status.value} stroke:{_COLOURS[status]}"


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _mermaid_box(node: Node) -> str:
    text = "".join(one if one.isalnum() or one in _PLAIN else f"#{ord(one)};" for one in node.name)
    return f'[["{text}"]]' if node.is_required else f'["{text}"]'
