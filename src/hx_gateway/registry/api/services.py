"""The routes of services: one by one, in lists, and many at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import Field

from hx_gateway.access.errors import InvalidField
from hx_gateway.access.idempotency import REPLAYED
from hx_gateway.db.models.registry_items import ServiceStatus
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.request_headers import REPLAY_HEADER, IdempotencyKey
from hx_gateway.http.strict_models import Strict
from hx_gateway.registry.api import operations
from hx_gateway.registry.api.asking import (
    Ask,
    Asks,
    IfMatch,
    NamingAsks,
    answer,
    ask_of,
    encoded,
    etag,
    is_known,
    shown,
)
from hx_gateway.registry.api.durations import Duration
from hx_gateway.registry.api.parameters import FacetQuery, Paging, ServiceQuery, Several, TenantId
from hx_gateway.registry.api.schemas import (
    BODY_EXAMPLE,
    BulkAnswer,
    BulkCreate,
    BulkDeletion,
    BulkPatch,
    BulkSelection,
    FacetCounts,
    RegisteredService,
    Restoration,
    Service,
    ServiceChange,
    ServiceCreate,
    ServiceList,
    ServiceReplacement,
)
from hx_gateway.registry.bulk import BulkOptions
from hx_gateway.registry.catalog import Dependents, OnConflict
from hx_gateway.registry.item_numbers import STALE_AFTER
from hx_gateway.registry.item_repository import ServiceSearch

router = APIRouter(tags=["registry"], route_class=StrictJsonRoute, responses=operations.RESPONSES)
_PATCH_EXAMPLE = {"priority": "critical", "service_metadata": {"team": None}}
_NOW = Restoration()


Expansion = Literal["dependencies", "dependents", "health", "tools"]


class InTenant(Strict):
    """The tenant that is meant: one's own unless given."""

    tenant_id: TenantId | None = None


class CreateQuery(InTenant):
    """How a service is made. With `restore` the last deleted one of its name comes back, if no living one has it."""

    on_conflict: OnConflict = "error"
    probe: bool = Field(False, description="Probe it at once, and show how it is.")


class ChangeQuery(InTenant):
    """How a service is changed. ``strict`` refuses fields that only the gateway sets, which are left out without."""

    strict: bool = False


class ReplaceQuery(ChangeQuery):
    """How the fields of a service are set."""

    register_: bool = Field(
        False, alias="register", description="Make it where there is none of the name, which is in the path too."
    )


class ReadQuery(InTenant):
    """How a service is shown. ``expand`` adds, under ``expanded``, those at the other ends, how it is, its tools."""

    include_deleted: bool = False
    expand: Several[Expansion] | None = None


class DeleteQuery(InTenant):
    """What becomes of services that depend on one that is deleted. ``hard``: one that was deleted, for good."""

    dependents: Dependents = "restrict"
    hard: bool = Field(False, description="Remove for good what was deleted: only for admins of the tenant.")


class StaleQuery(Paging):
    """Services that were not seen for so long, or never."""

    older_than: Duration = STALE_AFTER


# Lists. Their paths come before those of one service: what they are named, no service is.


@router.get("/services", response_model=ServiceList, responses=operations.A_LIST)
async def list_services(parameters: Annotated[ServiceQuery, Query()], ask: Asks, request: Request) -> Response:
    """List services."""
    return await _page(ask, request, await _depending(ask, parameters, parameters.search()), parameters)


@router.get("/services/facets", response_model=FacetCounts)
async def count_facets(parameters: Annotated[FacetQuery, Query()], ask: Asks) -> Response:
    """Count the services that pass by status, build type, protocol, priority and tag."""
    search = await _depending(ask, parameters, parameters.search())

    async def load() -> bytes:
        return encoded(await ask.registry.catalog.facets(ask.actor, search, tenant_id=parameters.tenant_id))

    return answer(await ask.kept(parameters.tenant_id, ("facets", search.key()), load))


@router.get("/services/healthy", response_model=ServiceList, responses=operations.A_LIST)
async def list_healthy(parameters: Annotated[Paging, Query()], ask: Asks, request: Request) -> Response:
    """List the healthy services that are enabled."""
    search = ServiceSearch(filters={"status": ServiceStatus.HEALTHY, "is_enabled": True})
    return await _page(ask, request, search, parameters)


@router.get("/services/unhealthy", response_model=ServiceList, responses=operations.A_LIST)
async def list_unhealthy(parameters: Annotated[Paging, Query()], ask: Asks, request: Request) -> Response:
    """List the unhealthy services."""
    return await _page(ask, request, ServiceSearch(filters={"status": ServiceStatus.UNHEALTHY}), parameters)


@router.get("/services/required", response_model=ServiceList, responses=operations.A_LIST)
async def list_required(parameters: Annotated[Paging, Query()], ask: Asks, request: Request) -> Response:
    """List the required services."""
    return await _page(ask, request, ServiceSearch(filters={"is_required": True}), parameters)


@router.get("/services/stale", response_model=ServiceList, responses=operations.A_LIST)
async def list_stale(parameters: Annotated[StaleQuery, Query()], ask: Asks, request: Request) -> Response:
    """List services that were not seen for a while, or never."""
    return await _page(ask, request, ServiceSearch(stale_for=parameters.older_than), parameters)


@router.get("/services/by-tag/{tag}", response_model=ServiceList, responses=operations.A_LIST)
async def list_tagged(tag: str, parameters: Annotated[Paging, Query()], ask: Asks, request: Request) -> Response:
    """List the services that have a tag."""
    return await _page(ask, request, ServiceSearch(tags=frozenset({tag})), parameters)


# Many at once


@router.post("/services/bulk", response_model=BulkAnswer)
async def create_many(body: BulkCreate, ask: Asks, where: Annotated[InTenant, Query()]) -> Response:
    """Make up to 500 services, and tell of each."""
    options = BulkOptions(tenant_id=where.tenant_id, atomic=body.mode == "atomic", dry_run=body.dry_run)
    return answer(await ask.registry.bulk.create(ask.actor, body.items, options, on_conflict=body.on_conflict))


@router.patch("/services/bulk", response_model=BulkAnswer)
async def update_many(body: BulkPatch, ask: Asks, where: Annotated[InTenant, Query()]) -> Response:
    """Set the same fields of many services."""
    selection, options = body.selector.selection(), _options(body, where)
    return answer(await ask.registry.bulk.update(ask.actor, selection, body.patch.given(), options))


@router.delete("/services/bulk", response_model=BulkAnswer)
async def delete_many(body: BulkDeletion, ask: Asks, where: Annotated[InTenant, Query()]) -> Response:
    """Delete many services, so that they may be restored; what others depend on stays their dependency.

    With `hard`, remove for good what was deleted, which a filter needs `include_deleted` to find.
    """
    delete = ask.registry.bulk.purge if body.hard else ask.registry.bulk.delete
    return answer(await delete(ask.actor, body.selector.selection(), _options(body, where)))


@router.post("/services/bulk/restore", response_model=BulkAnswer)
async def restore_many(body: BulkSelection, ask: Asks, where: Annotated[InTenant, Query()]) -> Response:
    """Take the deletion of many services back. A filter needs `include_deleted` to find any."""
    return answer(await ask.registry.bulk.restore(ask.actor, body.selector.selection(), _options(body, where)))


# One


@router.post(
    "/services",
    status_code=201,
    response_model=RegisteredService,
    responses={
        **operations.headers(201, operations.ETAG, operations.LOCATION),
        200: {"model": RegisteredService, "description": "One that has the name was set."},
    },
)
async def create_service(
    body: Annotated[ServiceCreate, Body(examples=[BODY_EXAMPLE])],
    ask: Asks,
    request: Request,
    how: Annotated[CreateQuery, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Register a service."""
    if how.probe:
        # Before anything is registered.
        ask.registry.checks.must_probe()
    item, new = await ask.registry.catalog.create(
        ask.actor,
        body.given(),
        tenant_id=how.tenant_id,
        on_conflict=how.on_conflict,
        idempotency_key=idempotency_key,
    )
    headers = {"location": f"{request.scope['path']}/{item['id']}"}
    if item.pop(REPLAYED, False):
        headers[REPLAY_HEADER] = "true"
    headers["etag"] = etag(item)
    if how.probe:
        state = await ask.registry.standing.first_look(ask.actor, item["id"], tenant_id=how.tenant_id)
        item = {**item, "status": state.status, "health": state.to_dict()}
        ask.noted(how.tenant_id)
    return answer(item, status=201 if new else 200, headers=headers)


@router.get(
    "/services/{ref}",
    response_model=Service,
    responses={**operations.headers(200, operations.ETAG), **operations.NOT_MODIFIED},
)
async def get_service(ref: str, parameters: Annotated[ReadQuery, Query()], ask: Asks, request: Request) -> Response:
    """Show a service, by its id or its name."""

    async def load() -> bytes:
        item = await ask.registry.catalog.get(
            ask.actor, ref, tenant_id=parameters.tenant_id, include_deleted=parameters.include_deleted
        )
        for end in parameters.expand or ():
            item.setdefault("expanded", {})[end] = await _expanded(ask, item["id"], end, parameters)
        return etag(item).encode() + b"\n" + encoded(item)

    key = ("service", ref, parameters.include_deleted, parameters.expand)
    tag, _, body = (await ask.kept(parameters.tenant_id, key, load)).partition(b"\n")
    headers = {"etag": tag.decode()}
    if is_known(request, headers["etag"]):
        return Response(status_code=304, headers=headers)
    return answer(body, headers=headers)


@router.put(
    "/services/{ref}",
    response_model=Service,
    responses={
        **operations.headers(200, operations.ETAG),
        201: {"model": Service, "description": "With `register=true`: there was none of the name."},
    },
)
async def replace_service(
    ref: str,
    body: Annotated[ServiceReplacement, Body(examples=[BODY_EXAMPLE])],
    ask: NamingAsks,
    request: Request,
    how: Annotated[ReplaceQuery, Query()],
    if_match: IfMatch = None,
) -> Response:
    """Set all fields of a service: what is left out gets its default. Its status stays unless it is sent."""
    fields = body.settable(strict=how.strict)
    if how.register_:
        return await _registered(ref, fields, ask, how, if_match)
    # Only those who register themselves do so by a name of theirs.
    ask = ask_of(request)
    version = ask.version(if_match)
    item = await ask.registry.catalog.replace(ask.actor, ref, fields, tenant_id=how.tenant_id, expected_version=version)
    return shown(item)


@router.patch("/services/{ref}", response_model=Service, responses=operations.headers(200, operations.ETAG))
async def update_service(
    ref: str,
    body: Annotated[ServiceChange, Body(examples=[_PATCH_EXAMPLE])],
    ask: Asks,
    how: Annotated[ChangeQuery, Query()],
    if_match: IfMatch = None,
) -> Response:
    """Set the fields that are sent (RFC 7396): the two objects are merged, a member that is `null` is taken out."""
    version, fields = ask.version(if_match), body.settable(strict=how.strict)
    item = await ask.registry.catalog.update(
        ask.actor, ref, fields, tenant_id=how.tenant_id, expected_version=version, merge=True
    )
    return shown(item)


@router.delete("/services/{ref}", response_model=Service, responses=operations.headers(200, operations.ETAG))
async def delete_service(
    ref: str, parameters: Annotated[DeleteQuery, Query()], ask: Asks, if_match: IfMatch = None
) -> Response:
    """Delete a service so that it may be restored. One that others depend on needs a word about those.

    With `hard`, remove for good one that was deleted: no restoring then, only the audit log still has it.
    """
    version = ask.version(if_match)
    delete = ask.registry.catalog.purge if parameters.hard else ask.registry.catalog.delete
    item = await delete(
        ask.actor,
        ref,
        tenant_id=parameters.tenant_id,
        expected_version=version,
        dependents=parameters.dependents,
    )
    return shown(item)


@router.post("/services/{ref}/restore", response_model=Service, responses=operations.headers(200, operations.ETAG))
async def restore_service(
    ref: str, ask: Asks, where: Annotated[InTenant, Query()], body: Restoration = _NOW
) -> Response:
    """Take a deletion back."""
    new_name = body.given().get("new_name")
    return shown(await ask.registry.catalog.restore(ask.actor, ref, tenant_id=where.tenant_id, new_name=new_name))


async def _registered(name: str, fields: dict[str, Any], ask: Ask, how: ReplaceQuery, if_match: str | None) -> Response:
    ask.check_registers(name)
    if fields.get("name") != name:
        raise InvalidField("name: must be the one in the path, where a service registers itself.", param="name")
    version = None if if_match is None and ask.only_registers else ask.version(if_match)
    item, new = await ask.registry.catalog.register(
        ask.actor, fields, tenant_id=how.tenant_id, expected_version=version
    )
    return shown(item, status=201 if new else 200)


async def _page(ask: Ask, request: Request, search: ServiceSearch, paging: Paging) -> Response:
    part = paging.part()

    async def load() -> bytes:
        page = await ask.registry.catalog.find(
            ask.actor,
            search,
            tenant_id=paging.tenant_id,
            sort=part.sort,
            limit=part.limit,
            cursor=part.cursor,
            skip=part.skip,
        )
        shown_page: dict[str, Any] = {
            "items": [_projected(item, paging.fields) for item in page.items],
            "next_cursor": page.next_cursor,
            "has_more": page.next_cursor is not None,
            **await _total(ask, search, paging),
        }
        cursor = page.next_cursor or ""
        return cursor.encode() + b"\n" + encoded(shown_page)

    # Before the list is read: what is changed meanwhile comes after it.
    headers = {"x-registry-index": str(await ask.newest(paging.tenant_id))}
    key = ("services", search.key(), part, paging.count, paging.fields)
    cursor, _, body = (await ask.kept(paging.tenant_id, key, load)).partition(b"\n")
    if cursor:
        headers["link"] = _next(request, cursor.decode(), part.limit)
    return answer(body, headers=headers)


async def _total(ask: Ask, search: ServiceSearch, paging: Paging) -> dict[str, Any]:
    match paging.count:
        case "none":
            return {}
        case "exact":
            total = await ask.registry.catalog.count(ask.actor, search, tenant_id=paging.tenant_id)
            return {"total": total, "total_is_estimated": False}
        case "estimated":
            total, guessed = await ask.registry.catalog.estimate(ask.actor, search, tenant_id=paging.tenant_id)
            return {"total": total, "total_is_estimated": guessed}


def _next(request: Request, cursor: str, limit: int) -> str:
    """Return the link to what comes next, by its cursor: that leads on where numbers of pages end."""
    given = request.query_params.multi_items()
    others = [(name, value) for name, value in given if name not in {"cursor", "limit", "page", "page_size"}]
    further = urlencode([*others, ("limit", limit), ("cursor", cursor)])
    return f'<{quote(request.scope["path"])}?{further}>; rel="next"'


def _projected(item: Mapping[str, Any], fields: list[str] | None) -> Mapping[str, Any]:
    return item if fields is None else {name: item[name] for name in fields}


async def _depending(ask: Ask, parameters: ServiceQuery | FacetQuery, search: ServiceSearch) -> ServiceSearch:
    if parameters.has_dependency is None:
        return search
    return await ask.registry.catalog.depending_on(
        ask.actor, search, parameters.has_dependency, tenant_id=parameters.tenant_id
    )


async def _expanded(
    ask: Ask, item_id: str, end: Expansion, parameters: ReadQuery
) -> list[dict[str, Any]] | dict[str, Any]:
    if end == "health":
        state = await ask.registry.standing.health(
            ask.actor, item_id, tenant_id=parameters.tenant_id, include_deleted=parameters.include_deleted
        )
        return state.to_dict()
    if end == "tools":
        return await ask.registry.tools.all_of(ask.actor, item_id, tenant_id=parameters.tenant_id)
    dependencies = ask.registry.dependencies
    at_end = dependencies.of if end == "dependencies" else dependencies.dependents_of
    return await at_end(ask.actor, item_id, tenant_id=parameters.tenant_id, include_deleted=parameters.include_deleted)


def _options(body: BulkSelection, where: InTenant) -> BulkOptions:
    return BulkOptions(
        tenant_id=where.tenant_id,
        atomic=body.mode == "atomic",
        dry_run=body.dry_run,
        max_affected=body.max_affected,
    )
