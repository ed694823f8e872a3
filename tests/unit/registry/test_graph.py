"""Dependencies as a graph: paths, distances, layers, cycles, and what a status does to those above."""

from __future__ import annotations

from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.models.registry_items import DependencyKind, ServicePriority, ServiceStatus
from hx_gateway.registry.graph import (
    Edge,
    Node,
    ServiceGraph,
    cycles,
    distances,
    effective,
    layers,
    path_between,
    worst,
)

IDS = [UUID(int=number) for number in range(8)]
HEALTHY, UNHEALTHY, UNKNOWN = ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY, ServiceStatus.UNKNOWN
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


def ends_of(pairs: set[tuple[UUID, UUID]]) -> dict[UUID, list[UUID]]:
    edges: dict[UUID, list[UUID]] = {}
    for here, there in sorted(pairs):
        edges.setdefault(here, []).append(there)
    return edges


def reached_by(pairs: set[tuple[UUID, UUID]], start: UUID) -> set[UUID]:
    """Return what is one step or more away."""
    reached: set[UUID] = set()
    for _ in IDS:
        reached |= {there for here, there in pairs if here == start or here in reached}
    return reached


def test_distances_end_where_the_depth_does() -> None:
    a, b, c, d = IDS[:4]
    edges = {a: [b, c], b: [d], c: [b]}
    assert distances(edges, a) == {a: 0, b: 1, c: 1, d: 2}
    assert distances(edges, a, depth=1) == {a: 0, b: 1, c: 1}
    assert distances(edges, a, depth=0) == {a: 0}


def test_a_layer_needs_those_before_it_only() -> None:
    a, b, c, d, e = IDS[:5]
    edges = {a: [b, c], b: [c], d: [e, IDS[7]]}
    assert layers([a, b, c, d, e], edges) == [[c, e], [b, d], [a]]


def test_what_is_in_a_cycle_or_behind_one_is_in_no_layer() -> None:
    a, b, c, d = IDS[:4]
    assert layers([a, b, c, d], {a: [b], b: [c], c: [b]}) == [[d]]


@given(PAIRS)
def test_layers_hold_all_but_what_leads_into_a_cycle_each_after_what_it_needs(pairs: set[tuple[UUID, UUID]]) -> None:
    found = layers(IDS, ends_of(pairs))
    place = {node_id: number for number, layer in enumerate(found) for node_id in layer}
    assert len(place) == sum(map(len, found))
    circling = {node_id for node_id in IDS if node_id in reached_by(pairs, node_id)}
    assert place.keys() == {node_id for node_id in IDS if not ({node_id} | reached_by(pairs, node_id)) & circling}
    assert all(place[there] < place[here] for here, there in pairs if here in place)


@given(PAIRS)
def test_each_group_in_a_circle_is_told_by_a_cycle_of_edges(pairs: set[tuple[UUID, UUID]]) -> None:
    found = cycles(ends_of(pairs))
    for cycle in found:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert set(pairwise(cycle)) <= pairs
    circling = {node_id for node_id in IDS if node_id in reached_by(pairs, node_id)}
    groups = {frozenset(reached_by(pairs, node_id) & circling & behind(pairs, node_id)) for node_id in circling}
    assert sorted(min(group) for group in groups) == [cycle[0] for cycle in found]


def behind(pairs: set[tuple[UUID, UUID]], end: UUID) -> set[UUID]:
    return {node_id for node_id in IDS if end in reached_by(pairs, node_id)}


def test_a_chain_of_any_length_is_followed() -> None:
    chain = [UUID(int=number) for number in range(20_000)]
    edges = {here: [there] for here, there in pairwise(chain)}
    assert [layer[0] for layer in layers(chain, edges)] == chain[::-1]
    assert cycles(edges) == []
    assert cycles({**edges, chain[-1]: [chain[0]]}) == [[*chain, chain[0]]]


def test_the_worst_status_is_the_one_that_counts() -> None:
    order = [HEALTHY, UNKNOWN, ServiceStatus.MAINTENANCE, UNHEALTHY, ServiceStatus.DISABLED]
    for number, status in enumerate(order):
        assert worst(order[: number + 1]) is status


def test_a_status_reaches_whoever_needs_it_near_or_far_also_around_a_cycle() -> None:
    a, b, c, d, e = IDS[:5]
    statuses = {a: HEALTHY, b: UNKNOWN, c: UNHEALTHY, d: HEALTHY, e: HEALTHY}
    edges = {a: [b], b: [c], d: [e], e: [d]}
    assert effective(statuses, edges) == {a: UNHEALTHY, b: UNHEALTHY, c: UNHEALTHY, d: HEALTHY, e: HEALTHY}
    assert effective({**statuses, e: UNHEALTHY}, edges)[d] is UNHEALTHY


@given(PAIRS, st.lists(st.sampled_from(ServiceStatus), min_size=len(IDS), max_size=len(IDS)))
def test_an_effective_status_is_the_worst_of_all_that_is_reached(
    pairs: set[tuple[UUID, UUID]], own: list[ServiceStatus]
) -> None:
    statuses = dict(zip(IDS, own, strict=True))
    found = effective(statuses, ends_of(pairs))
    for node_id in IDS:
        assert found[node_id] is worst(statuses[end] for end in {node_id} | reached_by(pairs, node_id))


def test_a_graph_tells_its_layers_and_cycles_by_its_services() -> None:
    nodes = [Node(node_id, f"s{node_id.int}", HEALTHY, ServicePriority.LOW, False) for node_id in IDS[:4]]
    pairs = [(0, 1), (2, 3), (3, 2)]
    edges = [Edge(IDS[here], IDS[there], DependencyKind.RUNTIME) for here, there in pairs]
    graph = ServiceGraph(nodes, edges)
    assert [[node.name for node in layer] for layer in graph.layers()] == [["s1"], ["s0"]]
    assert [[node.name for node in cycle] for cycle in graph.cycles()] == [["s2", "s3", "s2"]]
