"""Paths through dependencies."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.registry.graph import path_between

IDS = [UUID(int=number) for number in range(8)]
PAIRS = st.sets(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)))


def test_the_shortest_path_is_found_with_both_ends() -> None:
    a, b, c, d = IDS[:4]
    edges = {a: [b, c], b: [d], c: [b], d: []}
    assert path_between(edges, a, d) == [a, b, d]
    assert path_between(edges, d, a) is None
    assert path_between(edges, a, a) == [a]


@given(PAIRS)
def test_a_path_is_found_where_there_is_one_and_leads_over_edges(pairs: set[tuple[UUID, UUID]]) -> None:
    edges: dict[UUID, list[UUID]] = {}
    for here, there in pairs:
        edges.setdefault(here, []).append(there)
    reached = {IDS[0]}
    for _ in IDS:
        reached |= {there for here, there in pairs if here in reached}
    for end in IDS:
        path = path_between(edges, IDS[0], end)
        assert (path is not None) == (end in reached)
        assert set(pairwise(path or [])) <= pairs
