"""Finds the service that somebody means: by its id, or by its name in whatever case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from hx_gateway.access.errors import no_such
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.models.validation import identifier, unstorable
from hx_gateway.registry.errors import Deleted
from hx_gateway.registry.item_repository import RegistryItemRepository, ServiceSearch

SERVICE = "service"


async def found(
    items: RegistryItemRepository, ref: str, *, include_deleted: bool = False, param: str = "ref"
) -> RegistryItem:
    """Return the service. Raises ``NotFound``, and :class:`Deleted` for what ``include_deleted`` would find."""
    item = await perhaps(items, ref)
    if item is not None:
        return item
    deleted = await _deleted(items, ref)
    if deleted is None:
        raise no_such(SERVICE, ref, param=param)
    if not include_deleted:
        raise Deleted(SERVICE, ref, param=param)
    return deleted


async def perhaps(items: RegistryItemRepository, ref: str) -> RegistryItem | None:
    """Return the living service of that id, else of that name."""
    item_id = identifier(ref)
    item = await items.get(item_id) if isinstance(item_id, UUID) else None
    return item or (await items.get_by_name(ref) if _may_be_name(ref) else None)


async def last_deleted(items: RegistryItemRepository, name: str) -> RegistryItem | None:
    """Return the service that was the last to be deleted with that name."""
    if not _may_be_name(name):
        return None
    search = ServiceSearch(filters={"name": name}, deleted="only")
    page = await items.find(search, sort="-updated_at", limit=1)
    return page.items[0] if page.items else None


def named(fields: Mapping[str, Any]) -> list[str]:
    """Return what ``dependencies`` names by their names."""
    ends = fields.get("dependencies")
    if not isinstance(ends, list) or not all(isinstance(end, str) for end in ends):
        return []
    return [end for end in ends if not isinstance(identifier(end), UUID)]


def resolved(fields: Mapping[str, Any], ids: Mapping[str, UUID]) -> Mapping[str, Any]:
    """Return fields of a service with ``ids`` instead of names. Raises ``NotFound`` for one that is not among them."""
    names = named(fields)
    missing = next((name for name in names if name not in ids), None)
    if missing is not None:
        raise no_such(SERVICE, missing, param="dependencies")
    return {**fields, "dependencies": [ids.get(end, end) for end in fields["dependencies"]]} if names else fields


async def with_ids(items: RegistryItemRepository, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return fields of a service with the ids of those that ``dependencies`` names. Raises ``NotFound``."""
    names = named(fields)
    return resolved(fields, await items.ids_of(names)) if names else fields


async def _deleted(items: RegistryItemRepository, ref: str) -> RegistryItem | None:
    item_id = identifier(ref)
    item = await items.get(item_id, include_deleted=True) if isinstance(item_id, UUID) else None
    return item or await last_deleted(items, ref)


def _may_be_name(text: str) -> bool:
    return 0 < len(text) <= NAME_CHARS and unstorable(text) is None
