"""Graphs as DOT and Mermaid: every name is a text, whatever it looks like."""

from __future__ import annotations

from uuid import UUID

from hx_gateway.db.models.registry_items import DependencyKind, ServicePriority, ServiceStatus
from hx_gateway.registry.graph import Edge, Node, ServiceGraph
from hx_gateway.registry.graph_text import dot, mermaid

A, B = UUID(int=1), UUID(int=2)


def graph_of(name: str, kind: DependencyKind = DependencyKind.RUNTIME) -> ServiceGraph:
    nodes = [
        Node(A, name, ServiceStatus.HEALTHY, ServicePriority.HIGH, True),
        Node(B, "store", ServiceStatus.UNHEALTHY, ServicePriority.LOW, False),
    ]
    return ServiceGraph(nodes, [Edge(A, B, kind)])


def test_a_graph_is_written_in_dot() -> None:
    assert dot(graph_of("mail")).splitlines() == [
        "digraph services {",
        f'  "{A}" [label="mail", color="#2e7d32", penwidth=2];',
        f'  "{B}" [label="store", color="#c62828"];',
        f'  "{A}" -> "{B}" [style=solid];',
        "}",
    ]


def test_a_graph_is_written_in_mermaid() -> None:
    assert mermaid(graph_of("com.example/mail", DependencyKind.STARTUP)).splitlines() == [
        "flowchart LR",
        '  s0[["com.example/mail"]]:::healthy',
        '  s1["store"]:::unhealthy',
        "  s0 -->|startup| s1",
        "  classDef healthy stroke:#2e7d32",
        "  classDef unhealthy stroke:#c62828",
    ]


def test_kinds_of_dependencies_look_different() -> None:
    assert len({dot(graph_of("a", kind)) for kind in DependencyKind}) == 3
    assert len({mermaid(graph_of("a", kind)) for kind in DependencyKind}) == 3


def test_a_name_does_not_end_its_text() -> None:
    assert r'label="a\\\"];b"' in dot(graph_of('a\\"];b'))
    line = mermaid(graph_of('"]\n<b>&#;`')).splitlines()[1]
    assert line == '  s0[["#34;#93;#10;#60;b#62;#38;#35;#59;#96;"]]:::healthy'


def test_nothing_is_a_graph_too() -> None:
    assert dot(ServiceGraph([], [])) == "digraph services {\n}\n"
    assert mermaid(ServiceGraph([], [])) == "flowchart LR\n"
