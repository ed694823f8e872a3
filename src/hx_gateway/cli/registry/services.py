"""``hx-gateway registry list, show, add, set, delete, restore, stats``: services one by one, and in lists."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from hx_gateway.cli.access_options import object_of
from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, KeyOption, UrlOption
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.columns import LISTED, print_numbers, print_service
from hx_gateway.cli.registry.requests import PREFIX, SERVICES, Registry, Service, say, where
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import print_json, print_list
from hx_gateway.registry.api.schemas import ServicePatch

FIELDS = tuple(ServicePatch.model_fields)
NUMBERS = frozenset({"port"})
FLAGS = frozenset({"is_required", "is_enabled", "auto_start"})
LISTS = frozenset({"tags", "dependencies", "pending_dependencies"})
OBJECTS = frozenset({"service_metadata", "config"})
_BOTH_ENDS = {"expand": "dependencies,dependents"}


def list_services(
    query: options.QueryOption = None,
    status: options.StatusFilter = None,
    tag: options.TagFilter = None,
    tags_match: options.TagsMatchOption = None,
    protocol: options.ProtocolFilter = None,
    priority: options.PriorityFilter = None,
    build_type: options.BuildTypeFilter = None,
    healthy: options.HealthyOption = None,
    required: options.RequiredFilter = None,
    stale_after: options.StaleOption = None,
    deleted: options.DeletedOption = False,
    sort: options.SortOption = None,
    limit: options.LimitOption = 50,
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print services, by name."""
    filters = options.filters_of(
        status=status,
        healthy=healthy,
        tag=tag,
        required=required,
        deleted=deleted,
        q=query,
        tags_match=tags_match,
        protocol=protocol,
        priority=priority,
        build_type=build_type,
        stale_after=stale_after,
        sort=sort or ["name"],
    )
    items, more = Registry(url, key, tenant).list(filters, limit)
    if not as_json:
        print_list(items, LISTED, more=more)
        return
    for item in items:
        print_json(item)


def show(
    ref: options.RefArgument,
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print a service with everything that is known of it, also if it was deleted."""
    _print(_found(Registry(url, key, tenant), ref, include_deleted="true"), as_json=as_json)


def add(
    name: Annotated[str, typer.Argument(help="What it is called: once in a tenant.")],
    display_name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    description: Annotated[str | None, typer.Option(help="What it does.")] = None,
    build_type: Annotated[
        str | None, typer.Option(help="fastmcp (unless given), stub, external, official, custom or docker.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="stdio (unless given), http, websocket, tcp or unix_socket.")
    ] = None,
    priority: Annotated[str | None, typer.Option(help="critical, high, medium (unless given) or low.")] = None,
    location: Annotated[str | None, typer.Option(help="Where it is.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Where it is spoken to.")] = None,
    port: Annotated[int | None, typer.Option(help="1 to 65535.")] = None,
    version: Annotated[str | None, typer.Option(help="Its own version.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeatable.")] = None,
    metadata: Annotated[str | None, typer.Option(help="Anything, as a JSON object.")] = None,
    config: Annotated[str | None, typer.Option(help="Its configuration, as a JSON object.")] = None,
    health_check_url: Annotated[str | None, typer.Option(help="Where its health is asked for.")] = None,
    required: Annotated[bool, typer.Option("--required", help="Others cannot do without it.")] = False,
    auto_start: Annotated[bool, typer.Option("--auto-start", help="Start it with the gateway.")] = False,
    depends_on: Annotated[
        list[str] | None, typer.Option("--depends-on", help="A service that it depends on: name or id; repeatable.")
    ] = None,
    pending: Annotated[
        list[str] | None, typer.Option("--pending", help="A name that it depends on once a service has it; repeatable.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where the entry comes from.")] = None,
    registry_url: Annotated[str | None, typer.Option(help="The registry that it comes from.")] = None,
    on_conflict: options.OnConflictOption = None,
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Register a service."""
    given: dict[str, Any] = {
        "name": name,
        "display_name": display_name,
        "description": description,
        "build_type": build_type,
        "protocol": protocol,
        "priority": priority,
        "location": location,
        "endpoint": endpoint,
        "port": port,
        "version": version,
        "tags": tag or None,
        "service_metadata": object_of("--metadata", metadata),
        "config": object_of("--config", config),
        "health_check_url": health_check_url,
        "is_required": required or None,
        "auto_start": auto_start or None,
        "dependencies": depends_on or None,
        "pending_dependencies": pending or None,
        "source": source,
        "registry_url": registry_url,
    }
    body = {field: value for field, value in given.items() if value is not None}
    registry = Registry(url, key, tenant)
    made = registry.ask("POST", SERVICES, {"on_conflict": on_conflict}, body)
    _print(made if as_json else _found(registry, made["id"]), as_json=as_json)


def set_fields(
    ref: options.RefArgument,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="FIELD=VALUE", help="As priority=high, tags=a,b, service_metadata.team=search, port="),
    ],
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Set fields of a service; without a value a field is emptied, and a member of an object is taken out."""
    registry = Registry(url, key, tenant)
    changed = registry.ask("PATCH", where(ref), None, patch_of(changes))
    _print(changed if as_json else _found(registry, changed["id"]), as_json=as_json)


def delete(
    ref: options.RefArgument,
    dependents: options.DependentsOption = None,
    hard: Annotated[
        bool,
        typer.Option("--hard", help="Remove for good one that was deleted: only for admins, and for ever."),
    ] = False,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Delete a service. ``restore`` undoes it."""
    how = {"dependents": dependents, "hard": "true" if hard else None}
    deleted = Registry(url, key, tenant).ask("DELETE", where(ref), how)
    undone = f"deleted; 'hx-gateway registry restore {deleted['id']}' undoes it"
    say(deleted, "removed for good" if hard else undone)


def restore(
    ref: options.RefArgument,
    new_name: Annotated[str | None, typer.Option(help="Where its own was taken since.")] = None,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Restore a service that was deleted."""
    body = {} if new_name is None else {"new_name": new_name}
    say(Registry(url, key, tenant).ask("POST", where(ref, "restore"), None, body), "restored")


def stats(
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print how many services there are, and how they are."""
    numbers = Registry(url, key, tenant).ask("GET", f"{PREFIX}/statistics")
    if as_json:
        print_json(numbers)
    else:
        print_numbers(numbers)


def patch_of(changes: list[str]) -> dict[str, Any]:
    """Return the patch that ``FIELD=VALUE``, each, means."""
    patch: dict[str, Any] = {}
    for change in changes:
        path, equals, text = change.partition("=")
        field, _, member = path.partition(".")
        if not equals:
            fail(f"{change!r}: write it as FIELD=VALUE.", code=EXIT_FAILED)
        if field not in FIELDS:
            fail(f"{field!r} is no field: {', '.join(FIELDS)}.", code=EXIT_FAILED)
        if member and field not in OBJECTS:
            fail(f"{path!r}: {field} has no members.", code=EXIT_FAILED)
        if member:
            _put(patch, path.split("."), _json_or_text(text) if text else None)
        else:
            patch[field] = _value(field, text)
    return patch


def _put(patch: dict[str, Any], path: list[str], value: object) -> None:
    below = patch
    for name in path[:-1]:
        found = below.setdefault(name, {})
        if not isinstance(found, dict):
            fail(f"{'.'.join(path)!r}: {name} is set to something else beside it.", code=EXIT_FAILED)
        below = found
    below[path[-1]] = value


def _value(field: str, text: str) -> object:
    if field in LISTS:
        return [part for part in text.split(",") if part]
    if field in OBJECTS:
        return object_of(field, text)
    if not text:
        return None
    if field in FLAGS:
        if text not in ("true", "false"):
            fail(f"{field}: write true or false, not {text!r}.", code=EXIT_FAILED)
        return text == "true"
    if field in NUMBERS:
        # What is no number is sent as it is: the gateway says what there may be.
        return int(text) if text.isascii() and text.isdigit() else text
    return text


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _found(registry: Registry, ref: str, **more: str) -> Service:
    found: Service = registry.ask("GET", where(ref), {**_BOTH_ENDS, **more})
    return found


def _print(service: Service, *, as_json: bool) -> None:
    if as_json:
        print_json(service)
    else:
        print_service(service)
