"""The routes of what services depend on: one by one, and as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from hx_gateway.db.models.registry_items import DependencyKind, ServicePriority, ServiceStatus
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.strict_models import Strict, optional
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import Ask, Asks, answer, encoded, shown
from hx_gateway.registry.api.parameters import Name
from hx_gateway.registry.api.schemas import Ref, Related, Service
from hx_gateway.registry.api.services import InTenant
from hx_gateway.registry.api.standing import Where
from hx_gateway.registry.dependencies import shown_node, start_order, tree
from hx_gateway.registry.graph import ServiceGraph
from hx_gateway.registry.graph_text import dot, mermaid
from hx_gateway.registry.item_graph import Direction

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)
MAX_DEPTH = 100
MAX_EDGES = 200
# Within this many services nothing is too deep to be shown as a tree.
MAX_TREE_DEPTH = 50
_MEDIA = {"dot": "text/vnd.graphviz", "mermaid": "text/plain"}


class EndsQuery(InTenant):
    """How far, and how it is shown: those next to it unless given."""

    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] = 1
    format: Literal["flat", "tree"] = "flat"


class GraphQuery(InTenant):
    """Which part of the graph: all of it unless ``root`` is given."""

    root: Name | None = Field(None, description="An id, or a name.")
    direction: Direction = "both"
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | None = None
    format: Literal["json", "dot", "mermaid"] = "json"


class DependencyBody(Strict):
    """What a service is to depend on, and what for."""

    depends_on: Ref
    kind: DependencyKind = optional(description="`runtime` unless given; what there is already stays.")


class PutDependency(Strict):
    """What a service needs the other one for."""

    kind: DependencyKind = optional()


class EdgeBody(Strict):
    """That one service would depend on another one."""

    service: Ref
    depends_on: Ref


class Edges(Strict):
    """Dependencies that there are not yet."""

    edges: Annotated[list[EdgeBody], Field(min_length=1, max_length=MAX_EDGES)]


class GraphNode(BaseModel):
    """A service as a graph shows it."""

    id: str
    name: str
    status: ServiceStatus
    priority: ServicePriority
    is_required: bool


class GraphEdge(BaseModel):
    """That a service depends on another one: their ids."""

    service: str
    depends_on: str
    kind: DependencyKind


class Graph(BaseModel):
    """Living services by name, and what they depend on."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]


class StartOrder(BaseModel):
    """The order to start in: each layer needs those before it only."""

    layers: list[list[GraphNode]]


class Cycles(BaseModel):
    """Cycles, the first service of each at both ends. There are none unless somebody wrote one by hand."""

    cycles: list[list[GraphNode]]


class Impacted(GraphNode):
    """A service that depends on another one, near (``direct``) or far."""

    effective_status: ServiceStatus
    direct: bool


class ImpactAnswer(BaseModel):
    """What a failure of a service would reach: the first 200, required ones first."""

    effective_status: ServiceStatus
    total: int
    required: int
    services: list[Impacted]


class Verdict(BaseModel):
    """Whether dependencies could be added, and the names along the cycle that they would close."""

    valid: bool
    path: list[str] | None


_NO_BODY = PutDependency()


@router.get("/services/{ref}/dependencies", response_model=Related)
async def list_dependencies(ref: str, parameters: Annotated[EndsQuery, Query()], ask: Asks) -> Response:
    """List the living services that one depends on, by name; with a depth also those further on, or as a tree."""
    if parameters.depth == 1 and parameters.format == "flat":
        items = await ask.registry.dependencies.of(ask.actor, ref, tenant_id=parameters.tenant_id)
        return answer({"items": items})
    return await _far(ask, ref, parameters, "dependencies")


@router.get("/services/{ref}/dependents", response_model=Related)
async def list_dependents(ref: str, parameters: Annotated[EndsQuery, Query()], ask: Asks) -> Response:
    """List the living services that depend on one, by name; with a depth also those further on, or as a tree."""
    if parameters.depth == 1 and parameters.format == "flat":
        items = await ask.registry.dependencies.dependents_of(ask.actor, ref, tenant_id=parameters.tenant_id)
        return answer({"items": items})
    return await _far(ask, ref, parameters, "dependents")


@router.post("/services/{ref}/dependencies", response_model=Service)
async def add_dependency(ref: str, body: DependencyBody, ask: Asks, where: Where) -> Response:
    """Let a service depend on another one. What would close a cycle is refused, with its path."""
    return await _add(ask, ref, body.depends_on, body, where)


@router.put("/services/{ref}/dependencies/{dependency}", response_model=Service)
async def put_dependency(
    ref: str, dependency: str, ask: Asks, where: Where, body: PutDependency = _NO_BODY
) -> Response:
    """Let a service depend on another one; one that does already stays as it is, but for a ``kind`` that is sent."""
    return await _add(ask, ref, dependency, body, where)


@router.delete("/services/{ref}/dependencies/{dependency}", response_model=Service)
async def remove_dependency(ref: str, dependency: str, ask: Asks, where: Where) -> Response:
    """Let a service no longer depend on another one."""
    return shown(await ask.registry.dependencies.remove(ask.actor, ref, dependency, tenant_id=where.tenant_id))


@router.get("/services/{ref}/impact", response_model=ImpactAnswer)
async def show_impact(ref: str, ask: Asks, where: Where) -> Response:
    """Show what a failure of a service would reach."""
    return answer(await ask.registry.dependencies.impact(ask.actor, ref, tenant_id=where.tenant_id))


@router.get("/graph", response_model=Graph, responses={200: {"content": {kind: {} for kind in _MEDIA.values()}}})
async def show_graph(parameters: Annotated[GraphQuery, Query()], ask: Asks) -> Response:
    """Show services and what they depend on: at most 10,000 of each."""
    graph = await ask.registry.dependencies.graph(
        ask.actor,
        parameters.root,
        direction=parameters.direction,
        depth=parameters.depth,
        tenant_id=parameters.tenant_id,
    )
    if parameters.format == "json":
        return answer(_graph(graph))
    text = dot(graph) if parameters.format == "dot" else mermaid(graph)
    return Response(text, media_type=_MEDIA[parameters.format])


@router.get("/graph/order", response_model=StartOrder)
async def show_order(ask: Asks, where: Where) -> Response:
    """Show the order to start services in."""
    graph = await ask.registry.dependencies.graph(ask.actor, tenant_id=where.tenant_id)
    return answer({"layers": [_nodes(layer) for layer in start_order(graph)]})


@router.get("/graph/cycles", response_model=Cycles)
async def list_cycles(ask: Asks, where: Where) -> Response:
    """List cycles, which nobody can make here."""
    graph = await ask.registry.dependencies.graph(ask.actor, tenant_id=where.tenant_id)
    return answer({"cycles": [_nodes(cycle) for cycle in graph.cycles()]})


@router.post("/graph/validate", response_model=Verdict)
async def validate_edges(body: Edges, ask: Asks, where: Where) -> Response:
    """Say whether dependencies could be added; nothing is changed."""
    edges = [(edge.service, edge.depends_on) for edge in body.edges]
    path = await ask.registry.dependencies.cycle_with(ask.actor, edges, tenant_id=where.tenant_id)
    return answer({"valid": path is None, "path": path})


async def _add(ask: Ask, ref: str, depends_on: str, body: Strict, where: InTenant) -> Response:
    kind = body.given().get("kind")
    item = await ask.registry.dependencies.add(ask.actor, ref, depends_on, kind=kind, tenant_id=where.tenant_id)
    return shown(item)


async def _far(ask: Ask, ref: str, parameters: EndsQuery, direction: Literal["dependencies", "dependents"]) -> Response:
    graph = await ask.registry.dependencies.graph(
        ask.actor, ref, direction=direction, depth=parameters.depth, tenant_id=parameters.tenant_id
    )
    root = (await ask.registry.catalog.get(ask.actor, ref, tenant_id=parameters.tenant_id))["id"]
    if parameters.format == "tree":
        depth = min(parameters.depth, MAX_TREE_DEPTH)
        return answer(tree(graph, UUID(root), down=direction == "dependencies", depth=depth))
    return answer({"items": [shown_node(node) for node in graph.nodes if str(node.id) != root]})


def _graph(graph: ServiceGraph) -> bytes:
    edges = [
        {"service": str(edge.item_id), "depends_on": str(edge.depends_on_id), "kind": edge.kind} for edge in graph.edges
    ]
    return encoded({"nodes": _nodes(graph.nodes), "edges": edges})


def _nodes(nodes: Sequence[Any]) -> list[dict[str, Any]]:
    return [shown_node(node) for node in nodes]
