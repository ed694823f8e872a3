"""The services that the registry is measured with, and what is asked of it: the common, the rare and the absent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from hx_gateway.db.models.registry_items import (
    BuildType,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.repository import Listing, ServerRepository
from hx_gateway.registry.searches import ServiceSearch

TENANTS = {"acme": 100_000, "rival": 20_000}
OWN = "acme"
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
VOCABULARY = 5_000
WORDS = 12
# A service that others depend on, directly; each of these has a chain of its own behind it.
HUB_DEPENDENTS = 3_000
CHAIN = 20

Row = tuple[object, ...]
Ask = Callable[[RegistryItemRepository, Random], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Services:
    """Rows of a tenant for each table, in the order of the columns below."""

    items: list[Row]
    health: list[Row]
    edges: list[Row]


ITEM_COLUMNS = [
    *("id", "tenant_id", "name", "display_name", "description", "build_type", "protocol", "priority", "endpoint"),
    *("tags", "service_metadata", "config", "is_required", "is_enabled", "created_at", "updated_at"),
]
HEALTH_COLUMNS = [
    *("tenant_id", "item_id", "status", "success_count", "failure_count"),
    *("last_health_check", "response_time_ms", "last_seen"),
]
EDGE_COLUMNS = ["tenant_id", "item_id", "depends_on_id"]


def services_of(tenant: str, count: int, seed: int) -> Services:
    """Return services as they are met: words by Zipf's law, protocols in stretches, few in trouble, few forgotten."""
    random = Random(f"{tenant} {seed}")
    ids = [UUID(int=random.getrandbits(128), version=4) for _ in range(count)]
    made = Services([], [], [])
    for number, item_id in enumerate(ids):
        made.items.append(_item(tenant, item_id, number, count, random))
        made.health.append(_health(tenant, item_id, number, random))
        made.edges.extend((tenant, item_id, end) for end in _ends(ids, number))
    return made


def _item(tenant: str, item_id: UUID, number: int, count: int, random: Random) -> Row:
    words = " ".join(f"w{min(int(random.paretovariate(0.7)), VOCABULARY)}" for _ in range(WORDS))
    # Of "left" and "right" each service has one.
    side = "left" if number % 2 else "right"
    created = FIRST_DAY + timedelta(minutes=number)
    return (
        item_id,
        tenant,
        f"com.example/{random.getrandbits(32):08x}-{number}",
        f"Service {number}",
        f"The {side} service that {words}. See http://docs.example.com/{number}",
        random.choices([*BuildType][:5], [50, 25, 15, 9.9, 0.1])[0].value,
        [*ServiceProtocol][number * len(ServiceProtocol) // count].value,
        random.choice([*ServicePriority]).value,
        f"http://10.0.{number // 250 % 250}.{number % 250}:8080/mcp",
        ["prod"] * (number % 20_000 != 7)
        + [f"zone-{number % 2}", f"team-{number % 50}"]
        + ["rare"] * (number % 2_000 == 9),
        f'{{"owner": "team-{number % 50}", "cost_centre": {number}}}',
        '{"transport": "streamable-http", "timeout_seconds": 30}',
        number % 20 == 0,
        number % 100 != 0,
        created,
        created + timedelta(minutes=random.randrange(count)),
    )


def _tags(number: int) -> list[str]:
    often, seldom = ["prod"] * (number % 20_000 != 7), ["rare"] * (number % 2_000 == 9)
    return [*often, f"zone-{number % 2}", f"team-{number % 50}", *seldom]


def _health(tenant: str, item_id: UUID, number: int, random: Random) -> Row:
    status = random.choices([*ServiceStatus], [90, 8, 1.9, 0.05, 0.05])[0].value
    seen = NOW - timedelta(seconds=random.randrange(60)) if number % 2_500 else None
    return (tenant, item_id, status, random.randrange(10_000), random.randrange(100), NOW, random.random() * 100, seen)


def _ends(ids: list[UUID], number: int) -> Iterator[UUID]:
    """Yield what a service depends on: the one before it in its chain, and the hub where it is near."""
    if number % CHAIN > 1:
        yield ids[number - 1]
    if 0 < number <= HUB_DEPENDENTS:
        yield ids[0]


@dataclass(frozen=True, slots=True)
class Case:
    """Something that is asked, with values that are drawn anew each time."""

    name: str
    ask: Ask = field(repr=False)


# There is no index for these: they look at all services, or at all that pass, and are measured without a promise.
READ_ALL = frozenset(
    {
        "page 100 of a word",
        "facets: a status",
        "facets: a tag",
        "facets: a common word",
        "metadata: a member",
        "metadata: absent",
        "tags",
        "servers: search, rare",
        "servers: search, absent",
        "servers: version, absent",
    }
)


@dataclass(frozen=True, slots=True)
class Known:
    """What cases need to know of the services: the hub, some ids and names, and where deep pages begin."""

    hub: UUID
    ids: list[UUID]
    names: list[str]
    deep: dict[str, str]


async def deep_cursor(items: RegistryItemRepository, search: ServiceSearch, sort: str, pages: int) -> str:
    """Return where the page after ``pages`` of 200 begins."""
    cursor: str | None = None
    for _ in range(pages):
        page = await items.find(search, sort=sort, limit=200, cursor=cursor)
        cursor = page.next_cursor
    assert cursor is not None
    return cursor


# Orders by several fields. The last one has no index.
SEVERAL = (
    "priority,name",
    "-priority,name",
    "status,name",
    "-status,name",
    "priority,-updated_at",
    "protocol,status,name",
    "updated_at,name",
)
DEEP = {
    "created_at": (ServiceSearch(), "created_at"),
    "priority": (ServiceSearch(), "priority"),
    "name": (ServiceSearch(), "name"),
    "service": (ServiceSearch(text="service"), "created_at"),
    "priority,name": (ServiceSearch(), "priority,name"),
    "-status,name": (ServiceSearch(), "-status,name"),
}


def cases(known: Known) -> Iterator[Case]:
    """Yield all cases."""
    yield Case("get by id", lambda items, random: items.get(random.choice(known.ids)))
    yield Case("get by name", lambda items, random: items.get_by_name(random.choice(known.names).upper()))
    for sort in ("created_at", "-updated_at", "name", "priority", "-status"):
        yield _find(f"list by {sort}", ServiceSearch(), sort)
    for sort in SEVERAL:
        yield _find(f"list by {sort}", ServiceSearch(), sort)
    for name, (search, sort) in DEEP.items():
        yield _find(f"deep page: {name}", search, sort, known.deep[name])
    for name, search in _SEARCHES.items():
        yield _find(name, search)
    yield _find("common word by priority", ServiceSearch(text="service"), "priority")
    yield _find("uncommon word by name", ServiceSearch(text="w77"), "name")
    yield _find("last protocol by name", ServiceSearch(filters={"protocol": "unix_socket"}), "name")
    yield from _official(known)
    yield _find("common word by priority,name", ServiceSearch(text="service"), "priority,name")
    yield _find("uncommon word by status,name", ServiceSearch(text="w77"), "status,name")
    yield Case("page 100 by number", lambda items, _: items.find(ServiceSearch(), skip=4_950))
    yield Case(
        "page 100 of a word", lambda items, _: items.find(ServiceSearch(text="service"), sort="name", skip=4_950)
    )
    for name, search in _FACETS.items():
        yield Case(f"facets: {name}", lambda items, _, search=search: items.get_facets(search, tags=50))  # type: ignore[misc]
    for name, search in _MEMBERS.items():
        yield _find(name, search)
    yield Case("count estimated", lambda items, _: items.estimate_found(ServiceSearch(text="w77")))
    yield Case("count of a status", lambda items, _: items.count_found(ServiceSearch(filters={"status": "healthy"})))
    yield Case("tags", lambda items, _: items.tag_counts(limit=1_000))
    yield Case("statistics", lambda items, _: items.get_service_statistics())
    yield Case(f"impact, {HUB_DEPENDENTS} dependents", lambda items, _: items.get_impact(known.hub))


def _official(known: Known) -> Iterator[Case]:
    """Yield what is asked over the official registry's API."""
    for name, listing in _LISTINGS.items():
        yield _listed(name, listing)
    for name, listing in {"page": Listing(), "page, latest": Listing(version="latest")}.items():
        yield _listed(name, listing, known.names)
    yield Case(
        "server: latest",
        lambda items, random: _servers(items).one(random.choice(known.names), "latest", include_deleted=False),
    )
    yield Case(
        "server: versions",
        lambda items, random: _servers(items).versions(random.choice(known.names), include_deleted=True),
    )


def _listed(name: str, listing: Listing, names: list[str] | None = None) -> Case:
    """Return a list of servers, from the beginning or from behind one of ``names``."""

    async def ask(items: RegistryItemRepository, random: Random) -> Any:
        after = (random.choice(names), "") if names is not None else None
        return await _servers(items).page(listing, after, 31)

    return Case(f"servers: {name}", ask)


def _servers(items: RegistryItemRepository) -> ServerRepository:
    return ServerRepository(items._session, OWN, Naming())  # noqa: SLF001 - the transaction is the same


def _find(name: str, search: ServiceSearch, sort: str = "created_at", cursor: str | None = None) -> Case:
    return Case(name, lambda items, _: items.find(search, sort=sort, cursor=cursor))


def _tagged(match: Any, *tags: str) -> ServiceSearch:
    return ServiceSearch(tags=frozenset(tags), tags_match=match)


_LISTINGS = {
    "first page": Listing(),
    "first page, latest": Listing(version="latest"),
    "with the deleted": Listing(include_deleted=True),
    "search, common": Listing(search="service"),
    "search, rare": Listing(search="w4321"),
    "search, absent": Listing(search="nothing"),
    "changed lately": Listing(updated_since=NOW - timedelta(days=1), include_deleted=True),
    "changed, many": Listing(updated_since=FIRST_DAY, include_deleted=True),
    "version, absent": Listing(version="9.9.9"),
}
_SEARCHES = {
    "word: all have it": ServiceSearch(text="service"),
    "word: rare": ServiceSearch(text="w4321"),
    "word: absent": ServiceSearch(text="nothing"),
    "beginning of a word": ServiceSearch(text="W43"),
    "two words: common": ServiceSearch(text="service w2"),
    "two words: common and rare": ServiceSearch(text="service w4321"),
    "two words: never together": ServiceSearch(text="left right"),
    "word and filters": ServiceSearch(text="w50", filters={"is_required": True, "status": "healthy"}),
    "tags: any, common": _tagged("any", "zone-1", "rare"),
    "tags: any, rare": _tagged("any", "rare"),
    "tags: all": _tagged("all", "prod", "zone-1", "team-7"),
    "tags: all, never together": _tagged("all", "zone-0", "zone-1"),
    "tags: none, half": _tagged("none", "zone-1"),
    "tags: none, nearly all": _tagged("none", "prod"),
    "status: common": ServiceSearch(filters={"status": ServiceStatus.HEALTHY, "is_enabled": True}),
    "status: rare": ServiceSearch(filters={"status": [ServiceStatus.MAINTENANCE, ServiceStatus.DISABLED]}),
    "protocol: first": ServiceSearch(filters={"protocol": "stdio"}),
    "protocol: last": ServiceSearch(filters={"protocol": "unix_socket"}),
    "build type: rare": ServiceSearch(filters={"build_type": BuildType.CUSTOM}),
    "build type: absent": ServiceSearch(filters={"build_type": BuildType.DOCKER}),
    "priority": ServiceSearch(filters={"priority": ["critical", "high"]}),
    "required": ServiceSearch(filters={"is_required": True}),
    "required and not healthy": ServiceSearch(filters={"is_required": True, "status": ["unhealthy", "maintenance"]}),
    "stale: few": ServiceSearch(stale_for=timedelta(hours=1)),
    "stale: all": ServiceSearch(stale_for=timedelta(0)),
}
_FACETS = {
    "all": ServiceSearch(),
    "a status": ServiceSearch(filters={"status": ServiceStatus.HEALTHY}),
    "a rare word": ServiceSearch(text="w4321"),
    "a tag": _tagged("any", "team-7"),
    "a common word": ServiceSearch(text="service"),
}
_MEMBERS = {
    "metadata: a member": ServiceSearch(members=((("owner",), "team-7"),)),
    "metadata: absent": ServiceSearch(members=((("cost_centre",), "nothing"),)),
}
