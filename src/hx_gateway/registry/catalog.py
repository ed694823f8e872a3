"""The catalogue of services: what may be asked of the registry, in an actor's name, and answered as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hx_gateway.access.errors import no_such
from hx_gateway.access.idempotency import Repetition, fingerprint
from hx_gateway.access.resources import Actor
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry.errors import HasDependents, NotDeleted
from hx_gateway.registry.item_repository import RegistryItemRepository, ServiceSearch
from hx_gateway.registry.merge_patch import merged
from hx_gateway.registry.references import SERVICE, found, last_deleted, perhaps, with_ids
from hx_gateway.registry.rights import check_may_purge
from hx_gateway.registry.transactions import Transactions

OnConflict = Literal["error", "update", "restore"]
Dependents = Literal["restrict", "detach", "force"]
Values = Mapping[str, Any]
MAX_TAG_COUNTS = 1000
MAX_FACET_TAGS = 50
_OBJECTS = frozenset({"service_metadata", "config"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePage:
    """Services as they are shown. ``next_cursor`` is ``None`` on the last page."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class Catalog:
    """The services of tenants. A service is named by its id, or by its name in whatever case.

    An actor asks for its own tenant; an admin of the platform names any (``tenant_id``). Rights to the registry are
    the caller's to check. Raises what :class:`~hx_gateway.registry.repository.BaseRepository` does, and
    ``DependencyError`` while the database is away: then nothing was changed, but for a commit whose answer was lost.
    """

    def __init__(self, transactions: Transactions) -> None:
        self.transactions = transactions

    # Services

    async def create(
        self,
        actor: Actor,
        fields: Values,
        *,
        tenant_id: str | None = None,
        on_conflict: OnConflict = "error",
        idempotency_key: str | None = None,
    ) -> tuple[dict[str, Any], bool]:
        """Make a service; return it, and whether it is new.

        Where a living one has its name, ``update`` and ``restore`` set its fields instead; where only a deleted one
        has, ``restore`` brings the last of those back and sets its fields. With an ``idempotency_key`` that the same
        actor gave in the last 24 hours for the same, the first answer comes again, marked (``REPLAYED``).
        """
        asked = {"fields": fields, "tenant_id": tenant_id, "on_conflict": on_conflict}
        async with self.transactions.open(actor, tenant_id, "services.create") as transaction:
            again = None
            if idempotency_key is not None:
                again = Repetition(actor, idempotency_key, fingerprint(SERVICE, asked), transaction.tenant_id)
            first = None if again is None else await again.first_answer(transaction.answers, transaction.now)
            if first is not None:
                return first, True
            item, new = await self._create(transaction.items, fields, on_conflict)
            if again is not None and new:
                await again.keep(transaction.answers, item, transaction.now)
            return item, new

    async def get(
        self, actor: Actor, ref: str, *, tenant_id: str | None = None, include_deleted: bool = False
    ) -> dict[str, Any]:
        """Return a service; with ``include_deleted`` also one that was deleted."""
        async with self._open(actor, tenant_id, "services.get") as items:
            return (await found(items, ref, include_deleted=include_deleted)).to_dict()

    async def find(
        self,
        actor: Actor,
        search: ServiceSearch,
        *,
        tenant_id: str | None = None,
        sort: str = "created_at",
        limit: int = 50,
        cursor: str | None = None,
        skip: int = 0,
    ) -> ServicePage:
        """Return a page of the services that pass ``search``, but for the first ``skip``."""
        async with self._open(actor, tenant_id, "services.find") as items:
            page = await items.find(search, sort=sort, limit=limit, cursor=cursor, skip=skip)
            return ServicePage(items=[item.to_dict() for item in page.items], next_cursor=page.next_cursor)

    async def update(
        self,
        actor: Actor,
        ref: str,
        changes: Values,
        *,
        tenant_id: str | None = None,
        expected_version: int | None = None,
        merge: bool = False,
    ) -> dict[str, Any]:
        """Set fields of a service; return it as it is now.

        ``merge`` sets the members that ``service_metadata`` and ``config`` have, and leaves their others as they are.
        """
        async with self._open(actor, tenant_id, "services.update") as items:
            await items.lock()
            item = await found(items, ref)
            if merge:
                changes = {
                    **changes,
                    **{name: merged(getattr(item, name), changes[name]) for name in _OBJECTS & changes.keys()},
                }
            return (await self._set(items, item, changes, expected_version)).to_dict()

    async def replace(
        self,
        actor: Actor,
        ref: str,
        fields: Values,
        *,
        tenant_id: str | None = None,
        expected_version: int | None = None,
    ) -> dict[str, Any]:
        """Set all fields of a service, those that are left out to their defaults; its status stays unless given."""
        async with self._open(actor, tenant_id, "services.replace") as items:
            await items.lock()
            item = await found(items, ref)
            return (await self._set(items, item, {**RegistryItem.defaults(), **fields}, expected_version)).to_dict()

    async def register(
        self, actor: Actor, fields: Values, *, tenant_id: str | None = None, expected_version: int | None = None
    ) -> tuple[dict[str, Any], bool]:
        """Make a service of that name, or set all fields of the one that has it; return it, and whether it is new.

        Sent again it changes nothing. An ``expected_version`` is of one that is there: without any, ``NotFound``.
        """
        async with self._open(actor, tenant_id, "services.register") as items:
            await items.lock()
            named = await items.get_by_name(fields["name"])
            if named is None and expected_version is not None:
                raise no_such(SERVICE, fields["name"])
            if named is None:
                return (await items.create(await with_ids(items, fields))).to_dict(), True
            # Whoever disabled it decides that it is used again.
            changes = {**RegistryItem.defaults(), "is_enabled": named.is_enabled, **fields}
            return (await self._set(items, named, changes, expected_version)).to_dict(), False

    async def delete(
        self,
        actor: Actor,
        ref: str,
        *,
        tenant_id: str | None = None,
        expected_version: int | None = None,
        dependents: Dependents = "restrict",
    ) -> dict[str, Any]:
        """Delete a service so that it may be restored; return it as it was left.

        Where living services depend on it, ``restrict`` raises :class:`HasDependents`, ``detach`` takes their
        dependency away, ``force`` leaves it.
        """
        async with self._open(actor, tenant_id, "services.delete") as items:
            item = await found(items, ref)
            # Locked before its dependents are looked at: none comes to it then.
            await items.lock()
            await self._settle_dependents(items, item, dependents)
            return (await items.delete(item.id, expected_version=expected_version)).to_dict()

    async def purge(
        self,
        actor: Actor,
        ref: str,
        *,
        tenant_id: str | None = None,
        expected_version: int | None = None,
        dependents: Dependents = "restrict",
    ) -> dict[str, Any]:
        """Remove a deleted service for good; return it as it was. Its history in the audit log stays.

        Raises ``Forbidden`` for who is no admin, :class:`NotDeleted` for a living one. ``dependents`` is as in
        :meth:`delete`; with ``force`` those depend on its name from then on, whoever gets it.
        """
        check_may_purge(actor.principal)
        async with self._open(actor, tenant_id, "services.purge") as items:
            await items.lock()
            item = await found(items, ref, include_deleted=True)
            if not item.is_deleted:
                raise NotDeleted(item.name)
            await self._settle_dependents(items, item, dependents)
            return (await items.purge(item.id, expected_version=expected_version)).to_dict()

    async def restore(
        self, actor: Actor, ref: str, *, tenant_id: str | None = None, new_name: str | None = None
    ) -> dict[str, Any]:
        """Take a deletion back. Of several that had the name, the one that was deleted last comes back.

        With ``new_name`` it comes back under that, so that it may have a name beside one that took its own.
        """
        async with self._open(actor, tenant_id, "services.restore") as items:
            item = await found(items, ref, include_deleted=True)
            changes = {} if new_name is None else {"name": new_name}
            return (await items.restore(item.id, **changes)).to_dict()

    async def depending_on(
        self, actor: Actor, search: ServiceSearch, ref: str, *, tenant_id: str | None = None
    ) -> ServiceSearch:
        """Return ``search`` for those among its services that depend on one."""
        async with self._open(actor, tenant_id, "services.depending_on") as items:
            return replace(search, depends_on=(await found(items, ref, param="has_dependency")).id)

    # What they are together

    async def count(self, actor: Actor, search: ServiceSearch, *, tenant_id: str | None = None) -> int:
        """Return how many services pass ``search``."""
        async with self._open(actor, tenant_id, "services.count") as items:
            return await items.count_found(search)

    async def estimate(self, actor: Actor, search: ServiceSearch, *, tenant_id: str | None = None) -> tuple[int, bool]:
        """Return about how many services pass ``search``, and whether that is an estimate."""
        async with self._open(actor, tenant_id, "services.estimate") as items:
            return await items.estimate_found(search)

    async def facets(self, actor: Actor, search: ServiceSearch, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Return how many of the services that pass ``search`` have each value, and the most frequent tags."""
        async with self._open(actor, tenant_id, "services.facets") as items:
            facets, tags, tags_counted_in = await items.get_facets(search, tags=MAX_FACET_TAGS)
        told = [{"tag": tag, "services": number} for tag, number in tags]
        return {**asdict(facets), "tags": told, "tags_counted_in": tags_counted_in}

    async def tags(self, actor: Actor, *, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Return the most frequent tags of the tenant's services, at most :data:`MAX_TAG_COUNTS`."""
        async with self._open(actor, tenant_id, "services.tags") as items:
            counts = await items.tag_counts(limit=MAX_TAG_COUNTS)
            return [{"tag": tag, "services": number} for tag, number in counts]

    async def statistics(self, actor: Actor, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Return numbers of the tenant's services."""
        async with self._open(actor, tenant_id, "services.statistics") as items:
            return asdict(await items.get_service_statistics())

    # How

    @asynccontextmanager
    async def _open(self, actor: Actor, tenant_id: str | None, operation: str) -> AsyncIterator[RegistryItemRepository]:
        async with self.transactions.open(actor, tenant_id, operation) as transaction:
            yield transaction.items

    async def _create(
        self, items: RegistryItemRepository, fields: Values, on_conflict: OnConflict
    ) -> tuple[dict[str, Any], bool]:
        known = await self._known(items, fields, on_conflict)
        fields = await with_ids(items, fields)
        if known is None:
            return (await items.create(fields)).to_dict(), True
        if known.is_deleted:
            await items.restore(known.id)
        return (await items.update(known.id, fields)).to_dict(), False

    @staticmethod
    async def _settle_dependents(items: RegistryItemRepository, item: RegistryItem, dependents: Dependents) -> None:
        """Do to those that depend on a service what is to become of them, or raise :class:`HasDependents`."""
        needed_by = await items.get_dependents(item.id)
        if needed_by and dependents == "restrict":
            raise HasDependents(item.name, [other.name for other in needed_by])
        if dependents == "detach":
            for other in needed_by:
                left = [end for end in other.dependencies if end != item.id]
                await items.update(other.id, {"dependencies": left})

    async def _set(
        self, items: RegistryItemRepository, item: RegistryItem, changes: Values, expected_version: int | None
    ) -> RegistryItem:
        return await items.update(item.id, await with_ids(items, changes), expected_version=expected_version)

    @staticmethod
    async def _known(items: RegistryItemRepository, fields: Values, on_conflict: OnConflict) -> RegistryItem | None:
        """Return the service that is meant by the name of a new one."""
        name = fields.get("name")
        if on_conflict == "error" or not isinstance(name, str):
            return None
        await items.lock()
        known = await perhaps(items, name)
        return known or (await last_deleted(items, name) if on_conflict == "restore" else None)
