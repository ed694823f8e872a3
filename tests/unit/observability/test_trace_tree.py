"""The tree of a trace's spans, from sound traces and from broken ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.observability.trace_tree import MAX_DEPTH, build_tree

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
FLAGS = ("parent_missing", "cycle", "duplicate", "depth_cut")


def event(number: int, span: str | None = None, parent: str | None = None) -> dict[str, Any]:
    """Return the event of second ``number``."""
    return {
        "timestamp": BEGAN + timedelta(seconds=number),
        "event_id": str(UUID(int=number)),
        "span_id": span,
        "parent_span_id": parent,
    }


def spans_of(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = list(reversed(tree["roots"]))
    while waiting:
        span = waiting.pop()
        yield span
        waiting += reversed(span["children"])


def outline(span: dict[str, Any]) -> Any:
    """Return ids only: ``(id, [children])``."""
    return span["span_id"], [outline(child) for child in span["children"]]


def flags(tree: dict[str, Any]) -> dict[str, list[str]]:
    return {span["span_id"]: found for span in spans_of(tree) if (found := [name for name in FLAGS if span[name]])}


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [UUID(event["event_id"]).int for event in events]


def test_spans_hang_below_their_parents_in_the_order_they_began() -> None:
    tree = build_tree([event(4, "c", "a"), event(2, "b", "a"), event(1, "a"), event(3, "d", "b")])
    assert [outline(root) for root in tree["roots"]] == [("a", [("b", [("d", [])]), ("c", [])])]
    assert flags(tree) == {}
    assert (tree["span_count"], tree["event_count"], tree["truncated"]) == (4, 4, False)


def test_nothing_gives_an_empty_tree() -> None:
    assert build_tree([]) == {"roots": [], "events": [], "span_count": 0, "event_count": 0, "truncated": False}


def test_events_of_one_span_stay_together() -> None:
    tree = build_tree([event(1, "a"), event(2, "b", "a"), event(3, "b"), event(4, "b", "a"), event(5, "a", "")])
    (root,) = tree["roots"]
    assert numbers(root["events"]) == [1, 5]
    assert numbers(root["children"][0]["events"]) == [2, 3, 4]
    assert flags(tree) == {}


def test_a_parent_that_is_named_late_counts_for_the_whole_span() -> None:
    tree = build_tree([event(1, "a"), event(2, "b"), event(3, "b", "a")])
    assert [outline(root) for root in tree["roots"]] == [("a", [("b", [])])]
    assert tree["roots"][0]["children"][0]["parent_span_id"] == "a"


def test_events_without_a_span_stand_beside_the_roots() -> None:
    tree = build_tree([event(3), event(1, None, "a"), event(2, "a"), event(4, "")])
    assert numbers(tree["events"]) == [1, 3, 4]
    assert [outline(root) for root in tree["roots"]] == [("a", [])]


def test_a_span_whose_parent_is_not_there_is_a_root_that_says_so() -> None:
    tree = build_tree([event(1, "b", "lost"), event(2, "c", "b")], truncated=True)
    assert [outline(root) for root in tree["roots"]] == [("b", [("c", [])])]
    assert flags(tree) == {"b": ["parent_missing"]}
    assert tree["truncated"] is True


def test_a_cycle_is_cut_at_its_earliest_span() -> None:
    tree = build_tree([event(1, "x", "b"), event(2, "b", "d"), event(3, "c", "b"), event(4, "d", "c")])
    assert [outline(root) for root in tree["roots"]] == [("b", [("x", []), ("c", [("d", [])])])]
    assert flags(tree) == {"b": ["cycle"]}


def test_a_span_that_is_its_own_parent_is_a_root() -> None:
    tree = build_tree([event(1, "a", "a"), event(2, "b", "a")])
    assert [outline(root) for root in tree["roots"]] == [("a", [("b", [])])]
    assert flags(tree) == {"a": ["cycle"]}


def test_an_id_below_two_parents_is_kept_as_two_spans() -> None:
    tree = build_tree(
        [event(1, "a"), event(2, "b"), event(3, "s", "a"), event(4, "s", "b"), event(5, "t", "s"), event(6, "s", "b")]
    )
    assert [outline(root) for root in tree["roots"]] == [("a", [("s", [("t", [])])]), ("b", [("s", [])])]
    assert numbers(tree["roots"][1]["children"][0]["events"]) == [4, 6]
    assert flags(tree) == {"s": ["duplicate"]}


def test_a_chain_of_any_length_can_be_written_as_json() -> None:
    length = 10_000
    chain = [event(number, f"s{number}", f"s{number - 1}" if number else None) for number in range(length)]
    tree = build_tree(chain)
    assert len(json.dumps(tree, default=str)) > length
    spans = list(spans_of(tree))
    assert [span["span_id"] for span in spans] == [f"s{number}" for number in range(length)]
    cut = [span for span in spans if span["depth_cut"]]
    assert [span["span_id"] for span in cut] == [f"s{number}" for number in range(MAX_DEPTH, length, MAX_DEPTH)]
    assert len(tree["roots"]) == length // MAX_DEPTH


ids = st.sampled_from([None, "", "a", "b", "c", "d", "e"])


@given(st.lists(st.tuples(st.integers(0, 3), ids, ids), max_size=25), st.randoms(use_true_random=False))
def test_whatever_spans_name_each_event_is_found_once_and_order_does_not_matter(
    drawn: list[tuple[int, str | None, str | None]], random: Random
) -> None:
    events = [
        {**event(second, span, parent), "event_id": str(UUID(int=place))}
        for place, (second, span, parent) in enumerate(drawn)
    ]
    tree = build_tree(events)
    found = [*tree["events"], *(one for span in spans_of(tree) for one in span["events"])]
    assert Counter(numbers(found)) == Counter(range(len(events)))
    assert len(list(spans_of(tree))) == tree["span_count"]
    for span in spans_of(tree):
        assert span["events"] == sorted(span["events"], key=lambda one: (one["timestamp"], one["event_id"]))
        assert all(child["parent_span_id"] == span["span_id"] for child in span["children"])
        began = [(child["events"][0]["timestamp"], child["events"][0]["event_id"]) for child in span["children"]]
        assert began == sorted(began)
    for root in tree["roots"]:
        assert (root["parent_span_id"] is None) != (root["parent_missing"] or root["cycle"] or root["depth_cut"])
    random.shuffle(events)
    assert build_tree(events) == tree
