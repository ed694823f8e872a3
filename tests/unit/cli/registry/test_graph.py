"""What services depend on, drawn for people, for Mermaid and for Graphviz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from rich.console import Console

from hx_gateway.cli.registry.graph import Graph, dot, graph_of, mermaid, tree


def services(names: Mapping[str, Sequence[str]], **fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "name": name,
            "status": "healthy",
            "is_deleted": False,
            "is_required": False,
            "dependencies": list(ends),
            **fields.get(name, {}),
        }
        for name, ends in names.items()
    ]


DIAMOND = services({"api": ["db"], "db": ["disk"], "disk": [], "jobs": ["db"], "web": ["api", "jobs"]})


def drawn(graph: Graph, root: str) -> list[str]:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(tree(graph, root))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_tree_tells_what_was_told_above_once() -> None:
    found = graph_of(DIAMOND, "dependencies")
    assert found.roots() == ["web"]
    assert drawn(found, "web") == [
        "web  healthy",
        "├── api  healthy",
        "│   └── db  healthy",
        "│       └── disk  healthy",
        "└── jobs  healthy",
        "    └── db  healthy",
        "        └── … as above",
    ]


def test_a_service_that_was_deleted_is_there_only_where_others_depend_on_it() -> None:
    items = services({"web": ["db"], "db": [], "old": []}, db={"is_deleted": True}, old={"is_deleted": True})
    found = graph_of(items, "dependencies")
    assert found.roots() == ["web"]
    assert drawn(found, "web")[1] == "└── db  deleted"


def test_a_long_chain_is_followed_to_its_end() -> None:
    names = [f"s{number:04}" for number in range(3_000)]
    chain = {name: names[place + 1 : place + 2] for place, name in enumerate(names)}
    found = graph_of(services(chain), "dependencies")
    assert found.roots() == ["s0000"]
    assert len(found.reached(["s0000"])) == 3_000
    tree(found, "s0000")


def test_many_ways_through_are_drawn_once() -> None:
    layers = {f"s{layer}{side}": [f"s{layer + 1}a", f"s{layer + 1}b"] for layer in range(40) for side in "ab"}
    found = graph_of(services({**layers, "s40a": [], "s40b": []}), "dependencies")
    assert len(drawn(found, "s0a")) < 300


def test_mermaid_names_are_escaped_and_arrows_go_to_what_is_depended_on() -> None:
    items = services({"a": ["b"], "b": []}, b={"name": 'say "b" <c>', "status": "unknown"})
    assert list(mermaid(graph_of(items, "dependencies"), ["a"])) == [
        "flowchart LR",
        '  s0["a"]:::healthy',
        '  s1["say &quot;b&quot; &lt;c>"]',
        "  s0 --> s1",
        "  classDef healthy stroke:green",
    ]


def test_dot_names_are_escaped() -> None:
    items = services({"a": ["b"], "b": []}, b={"name": 'say "b" \\', "status": "unknown"})
    assert list(dot(graph_of(items, "dependencies"), ["a"])) == [
        "digraph registry {",
        "  rankdir=LR;",
        '  "a" [label="a", color=green];',
        '  "b" [label="say \\"b\\" \\\\"];',
        '  "a" -> "b";',
        "}",
    ]


@pytest.mark.parametrize("draw", [mermaid, dot])
def test_arrows_go_the_same_way_when_dependents_are_followed(draw: Any) -> None:
    forwards = services({"a": ["b"], "b": []})
    backwards = [{**item, "dependents": ["a"] if item["id"] == "b" else []} for item in forwards]
    arrows = [line for line in draw(graph_of(backwards, "dependents"), ["b"], backwards=True) if "-" in line]
    assert arrows == (["  s1 --> s0"] if draw is mermaid else ['  "a" -> "b";'])
