"""What services depend on: the edges, the graph of all of them, and what a failure would reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from hx_gateway.access.resources import Actor
from hx_gateway.db.models.registry_items import DependencyKind, RegistryItem
from hx_gateway.registry.errors import DependencyCycle
from hx_gateway.registry.graph import Edge, Node, ServiceGraph
from hx_gateway.registry.item_graph import Direction
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.references import found
from hx_gateway.registry.transactions import Transactions


class Dependencies:
    """Named and confined as in :class:`~hx_gateway.registry.catalog.Catalog`; raises what that raises."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def of(
        self, actor: Actor, ref: str, *, tenant_id: str | None = None, include_deleted: bool = False
    ) -> list[dict[str, Any]]:
        """Return the living services that one depends on, by name, each with the ``kind`` of dependency.

        With ``include_deleted`` also those of one that was deleted.
        """
        async with self._transactions.open(actor, tenant_id, "dependencies.of") as transaction:
            items = transaction.items
            item = await found(items, ref, include_deleted=include_deleted)
            kinds = await items.get_dependency_kinds(item.id)
            return [
                {**other.to_dict(), "kind": kinds[other.id].value} for other in await items.get_dependencies(item.id)
            ]

    async def dependents_of(
        self, actor: Actor, ref: str, *, tenant_id: str | None = None, include_deleted: bool = False
    ) -> list[dict[str, Any]]:
        """Return the living services that depend on one, by name; with ``include_deleted`` also on a deleted one."""
        async with self._transactions.open(actor, tenant_id, "dependencies.dependents_of") as transaction:
            item = await found(transaction.items, ref, include_deleted=include_deleted)
            return [other.to_dict() for other in await transaction.items.get_dependents(item.id)]

    async def add(
        self,
        actor: Actor,
        ref: str,
        depends_on: str,
        *,
        kind: DependencyKind | None = None,
        tenant_id: str | None = None,
    ) -> dict[str, Any]:
        """Let a service depend on another one; return it as it is now."""
        async with self._transactions.open(actor, tenant_id, "dependencies.add") as transaction:
            item, other = await _both(transaction.items, ref, depends_on)
            return (await transaction.items.add_dependency(item.id, other.id, kind=kind)).to_dict()

    async def remove(self, actor: Actor, ref: str, depends_on: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Let a service no longer depend on another one; return it as it is now."""
        async with self._transactions.open(actor, tenant_id, "dependencies.remove") as transaction:
            item, other = await _both(transaction.items, ref, depends_on)
            return (await transaction.items.remove_dependency(item.id, other.id)).to_dict()

    async def graph(
        self,
        actor: Actor,
        root: str | None = None,
        *,
        direction: Direction = "both",
        depth: int | None = None,
        tenant_id: str | None = None,
    ) -> ServiceGraph:
        """Return the living services and what they depend on: all, or those around ``root``, ``depth`` steps off."""
        async with self._transactions.open(actor, tenant_id, "dependencies.graph") as transaction:
            root_id = None if root is None else (await found(transaction.items, root, param="root")).id
            return await transaction.items.get_graph(root_id, direction=direction, depth=depth)

    async def impact(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Return what a failure of a service would reach, the required ones first."""
        async with self._transactions.open(actor, tenant_id, "dependencies.impact") as transaction:
            item = await found(transaction.items, ref)
            return asdict(await transaction.items.get_impact(item.id))

    async def cycle_with(
        self, actor: Actor, edges: Sequence[tuple[str, str]], *, tenant_id: str | None = None
    ) -> list[str] | None:
        """Return the names along a cycle that more dependencies would close, ``None`` where they would close none.

        ``edges`` are pairs of services, the first of which would depend on the second. Nothing is changed.
        """
        async with self._transactions.open(actor, tenant_id, "dependencies.cycle_with") as transaction:
            items = transaction.items
            graph = await items.get_graph()
            more = [
                Edge(near.id, far.id, DependencyKind.RUNTIME)
                for near, far in [await _both(items, *edge) for edge in edges]
            ]
        itself = next((edge for edge in more if edge.item_id == edge.depends_on_id), None)
        whole = ServiceGraph(graph.nodes, [*graph.edges, *(edge for edge in more if edge is not itself)])
        if itself is not None:
            name = next(node.name for node in graph.nodes if node.id == itself.item_id)
            return [name, name]
        cycles = whole.cycles()
        return [node.name for node in cycles[0]] if cycles else None


def shown_node(node: Node) -> dict[str, Any]:
    """Return a service as a graph shows it."""
    return {**asdict(node), "id": str(node.id)}


def start_order(graph: ServiceGraph) -> list[list[Node]]:
    """Return the order to start in. Raises :class:`DependencyCycle` where somebody wrote one by hand."""
    cycles = graph.cycles()
    if cycles:
        raise DependencyCycle([node.name for node in cycles[0]])
    return graph.layers()


def tree(graph: ServiceGraph, root: UUID, *, down: bool, depth: int) -> dict[str, Any]:
    """Return a service with those that it depends on below it (``down``), or those that depend on it.

    What is there in several places is unfolded in the first one only, and ``repeated`` in the others.
    """
    nodes = {node.id: node for node in graph.nodes}
    ends: dict[UUID, list[UUID]] = {}
    for edge in graph.edges:
        near, far = (edge.item_id, edge.depends_on_id) if down else (edge.depends_on_id, edge.item_id)
        ends.setdefault(near, []).append(far)
    seen: set[UUID] = set()

    def below(node_id: UUID, left: int) -> dict[str, Any]:
        shown = shown_node(nodes[node_id])
        if node_id in seen and ends.get(node_id):
            return {**shown, "repeated": True, "services": []}
        seen.add(node_id)
        further = sorted((end for end in ends.get(node_id, ()) if end in nodes), key=lambda end: nodes[end].name)
        return {**shown, "repeated": False, "services": [below(end, left - 1) for end in further] if left else []}

    return below(root, depth)


async def _both(items: RegistryItemRepository, ref: str, depends_on: str) -> tuple[RegistryItem, RegistryItem]:
    return await found(items, ref), await found(items, depends_on, param="depends_on")
