"""How lists may be filtered and sorted, by what is listed."""

from __future__ import annotations

from collections.abc import Mapping

from hx_gateway.access.errors import InvalidField
from hx_gateway.access.resources import MAX_PAGE, ListQuery, ResourceKind

_COMMON = frozenset({"tenant_id", "name", "blocked", "tag", "model"})
FILTERS: Mapping[ResourceKind, frozenset[str]] = {
    ResourceKind.TENANT: _COMMON,
    ResourceKind.TEAM: _COMMON,
    ResourceKind.USER: _COMMON | {"email", "role", "team_id"},
    ResourceKind.KEY: _COMMON | {"role", "team_id", "user_id"},
}
AUDIT_FILTERS = frozenset({"tenant_id", "action", "object_kind", "object_id", "actor_key"})
_SORTS = frozenset({"created_at", "updated_at", "name"})
SORTS: Mapping[ResourceKind, frozenset[str]] = {
    **dict.fromkeys(ResourceKind, _SORTS),
    ResourceKind.KEY: _SORTS | {"expires_at"},
}


def check_query(kind: ResourceKind, query: ListQuery) -> None:
    """Raise :class:`InvalidField` for a filter, an order or a limit that lists of ``kind`` do not have."""
    check_filters(query, FILTERS[kind])
    if query.sort.removeprefix("-") not in SORTS[kind]:
        allowed = ", ".join(sorted(SORTS[kind]))
        raise InvalidField(f"sort must be one of {allowed}, with '-' before it from the greatest down.", param="sort")


def check_filters(query: ListQuery, allowed: frozenset[str]) -> None:
    """Raise :class:`InvalidField` for a filter that is not ``allowed``, or a limit out of bounds."""
    for name, value in query.filters.items():
        if name not in allowed or "\0" in value:
            raise InvalidField(f"{name!r} is not a filter of this list, or has a value that nothing has.", param=name)
    if query.filters.get("blocked") not in (None, "true", "false"):
        raise InvalidField("blocked must be true or false.", param="blocked")
    if not 1 <= query.limit <= MAX_PAGE:
        raise InvalidField(f"limit must be between 1 and {MAX_PAGE}.", param="limit")
