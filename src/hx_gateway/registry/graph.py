"""Dependencies as a graph: paths, cycles, the order to start in, and what a status does to those above."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from uuid import UUID

from hx_gateway.db.models.registry_items import DependencyKind, ServicePriority, ServiceStatus

Edges = Mapping[UUID, Collection[UUID]]
# From what is best to what is worst.
_SEVERITY = (
    ServiceStatus.HEALTHY,
    ServiceStatus.UNKNOWN,
    ServiceStatus.MAINTENANCE,
    ServiceStatus.UNHEALTHY,
    ServiceStatus.DISABLED,
)


@dataclass(frozen=True, slots=True)
class Edge:
    """That a service depends on another one."""

    item_id: UUID
    depends_on_id: UUID
    kind: DependencyKind


@dataclass(frozen=True, slots=True)
class Node:
    """A service as a graph shows it."""

    id: UUID
    name: str
    status: ServiceStatus
    priority: ServicePriority
    is_required: bool


@dataclass(frozen=True, slots=True)
class ServiceGraph:
    """Living services by name, and the dependencies between them."""

    nodes: Sequence[Node]
    edges: Sequence[Edge]

    def layers(self) -> list[list[Node]]:
        """Return the order to start in: each layer needs those before it only, its services by name.

        Those in cycles, and those that need one of them, are in no layer.
        """
        nodes = {node.id: node for node in self.nodes}
        return [[nodes[node_id] for node_id in layer] for layer in layers(nodes, needs(self.edges))]

    def cycles(self) -> list[list[Node]]:
        """Return a cycle for each group of services that are in any together, the first of it at both ends."""
        nodes = {node.id: node for node in self.nodes}
        return [[nodes[node_id] for node_id in cycle] for cycle in cycles(needs(self.edges))]


def needs(edges: Iterable[Edge]) -> dict[UUID, list[UUID]]:
    """Return for each id those that it depends on."""
    found: dict[UUID, list[UUID]] = {}
    for edge in edges:
        found.setdefault(edge.item_id, []).append(edge.depends_on_id)
    return found


def path_between(edges: Mapping[UUID, Iterable[UUID]], start: UUID, end: UUID) -> list[UUID] | None:
    """Return a shortest path from ``start`` to ``end`` with both of them, ``None`` where there is none.

    ``edges`` holds for each id those that it depends on.
    """
    reached_from: dict[UUID, UUID | None] = {start: None}
    waiting = deque([start])
    while waiting and end not in reached_from:
        here = waiting.popleft()
        for there in edges.get(here, ()):
            if there not in reached_from:
                reached_from[there] = here
                waiting.append(there)
    if end not in reached_from:
        return None
    path, step = [end], reached_from[end]
    while step is not None:
        path.append(step)
        step = reached_from[step]
    return path[::-1]


def distances(edges: Edges, start: UUID, *, depth: int | None = None) -> dict[UUID, int]:
    """Return how many steps it is from ``start`` to each that can be reached, itself too, in at most ``depth``."""
    found = {start: 0}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        if found[here] == depth:
            continue
        for there in edges.get(here, ()):
            if there not in found:
                found[there] = found[here] + 1
                waiting.append(there)
    return found


def layers(ids: Iterable[UUID], edges: Edges) -> list[list[UUID]]:
    """Return ``ids`` so that each depends on those of the layers before it only, in each layer in the order given.

    Those in cycles, and those that depend on one of them, are left out. Edges to others than ``ids`` count for nothing.
    """
    place = {node_id: number for number, node_id in enumerate(ids)}
    open_ends = {node_id: sum(end in place for end in edges.get(node_id, ())) for node_id in place}
    dependents: dict[UUID, list[UUID]] = {}
    for node_id in place:
        for end in edges.get(node_id, ()):
            dependents.setdefault(end, []).append(node_id)
    layer = [node_id for node_id, count in open_ends.items() if count == 0]
    found: list[list[UUID]] = []
    while layer:
        found.append(layer)
        following = []
        for end in layer:
            for node_id in dependents.get(end, ()):
                open_ends[node_id] -= 1
                if open_ends[node_id] == 0:
                    following.append(node_id)
        layer = sorted(following, key=place.__getitem__)
    return found


def cycles(edges: Edges) -> list[list[UUID]]:
    """Return a shortest cycle through the first of each group that can reach each other, that one at both ends."""
    found = []
    for group in _groups(edges):
        start = min(group)
        ways = [path_between(edges, end, start) for end in sorted(edges[start]) if end in group]
        found.append([start, *min((way for way in ways if way is not None), key=len)])
    return sorted(found)


def _groups(edges: Edges) -> Iterator[set[UUID]]:
    """Yield those that can reach each other, a group at a time, none of one alone."""
    back: dict[UUID, list[UUID]] = {}
    for node_id, ends in edges.items():
        for end in ends:
            back.setdefault(end, []).append(node_id)
    ids = edges.keys() | back.keys()
    # The database refuses cycles: nearly always nothing is left here, and what is left is on a cycle or between two.
    left = {*ids} - {*chain(*layers(ids, edges))} - {*chain(*layers(ids, back))}
    while left:
        start = min(left)
        group = distances(edges, start).keys() & distances(back, start).keys()
        left -= group
        if len(group) > 1 or start in edges.get(start, ()):
            yield group


def worst(statuses: Iterable[ServiceStatus]) -> ServiceStatus:
    """Return the worst of ``statuses``; from best to worst: healthy, unknown, maintenance, unhealthy, disabled."""
    return max(statuses, key=_SEVERITY.index)


def effective(statuses: Mapping[UUID, ServiceStatus], edges: Edges) -> dict[UUID, ServiceStatus]:
    """Return for each of ``statuses`` the worst of its own and of all that it reaches by ``edges``, near or far."""
    found: dict[UUID, ServiceStatus] = {}
    for layer in layers(statuses, edges):
        for node_id in layer:
            below = [found[end] for end in edges.get(node_id, ()) if end in found]
            found[node_id] = worst([statuses[node_id], *below])
    for node_id in statuses.keys() - found.keys():
        found[node_id] = worst(statuses[end] for end in distances(edges, node_id) if end in statuses)
    return found
