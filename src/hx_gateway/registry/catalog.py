"""The catalogue of services: what may be asked of the registry, in an actor's name, and answered as JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from hx_gateway.access.audit import AuditChain
from hx_gateway.access.errors import Conflict, no_such
from hx_gateway.access.principal import Role
from hx_gateway.access.resources import Actor
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_items import RegistryItem, ServiceStatus
from hx_gateway.db.models.validation import identifier, unstorable
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.registry.audit_trail import AuditTrail, Author
from hx_gateway.registry.errors import MAX_SHOWN_NAMES
from hx_gateway.registry.item_repository import RegistryItemRepository, ServiceSearch
from hx_gateway.registry.repository import BulkRefused, BulkResult
from hx_gateway.services.database import DatabaseManager

OnConflict = Literal["error", "update", "restore"]
Dependents = Literal["restrict", "detach", "force"]
Values = Mapping[str, Any]
SERVICE = "service"


class HasDependents(Conflict):
    """A service that others depend on is to be deleted. ``dependents`` are their names."""

    code = "has_dependents"

    def __init__(self, name: str, dependents: Sequence[str]) -> None:
        shown = ", ".join(dependents[:MAX_SHOWN_NAMES]) + (", …" if len(dependents) > MAX_SHOWN_NAMES else "")
        super().__init__(
            f"{name!r} is needed by {shown}: delete those first, or say what is to become of them (dependents=detach "
            "takes their dependency away, dependents=force leaves it).",
            param="dependents",
        )
        self.dependents = tuple(dependents)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePage:
    """Services as they are shown. ``next_cursor`` is ``None`` on the last page."""

    items: list[dict[str, Any]]
    next_cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOutcome:
    """What became of each of many, in their order: ``index``, and ``item`` or ``error`` with ``param`` and ``code``.

    ``dry_run``: nothing of it was kept.
    """

    created: int
    failed: int
    dry_run: bool
    results: list[dict[str, Any]]


class _DryRun(Exception):
    """Undoes what was tried."""


class Catalog:
    """The services of tenants. A service is named by its id, or by its name in whatever case.

    An actor asks for its own tenant; an admin of the platform names any (``tenant_id``). Rights to the registry are
    the caller's to check. Raises what :class:`~hx_gateway.registry.repository.BaseRepository` does, and
    ``DependencyError`` while the database is away: then nothing was changed, but for a commit whose answer was lost.
    """

    def __init__(self, database: DatabaseManager, *, audit_key: bytes, clock: Clock | None = None) -> None:
        self._database = database
        self._chain = AuditChain(audit_key)
        self._clock = clock or SystemClock()

    # Services

    async def create(
        self, actor: Actor, fields: Values, *, tenant_id: str | None = None, on_conflict: OnConflict = "error"
    ) -> tuple[dict[str, Any], bool]:
        """Make a service; return it, and whether it is new.

        Where a living one has its name, ``update`` and ``restore`` set its fields instead; where only a deleted one
        has, ``restore`` brings the last of those back and sets its fields.
        """
        async with self._open(actor, tenant_id) as items:
            known = await self._known(items, fields, on_conflict)
            if known is None:
                return (await items.create(fields)).to_dict(), True
            if known.is_deleted:
                await items.restore(known.id)
            return (await items.update(known.id, fields)).to_dict(), False

    async def get(
        self, actor: Actor, ref: str, *, tenant_id: str | None = None, include_deleted: bool = False
    ) -> dict[str, Any]:
        """Return a service; with ``include_deleted`` also one that was deleted."""
        async with self._open(actor, tenant_id) as items:
            return (await _found(items, ref, include_deleted=include_deleted)).to_dict()

    async def find(
        self,
        actor: Actor,
        search: ServiceSearch,
        *,
        tenant_id: str | None = None,
        sort: str = "created_at",
        limit: int = 50,
        cursor: str | None = None,
    ) -> ServicePage:
        """Return a page of the services that pass ``search``."""
        async with self._open(actor, tenant_id) as items:
            page = await items.find(search, sort=sort, limit=limit, cursor=cursor)
            return ServicePage(items=[item.to_dict() for item in page.items], next_cursor=page.next_cursor)

    async def update(
        self,
        actor: Actor,
        ref: str,
        changes: Values,
        *,
        tenant_id: str | None = None,
        expected_version: int | None = None,
    ) -> dict[str, Any]:
        """Set fields of a service; return it as it is now."""
        async with self._open(actor, tenant_id) as items:
            item = await _found(items, ref)
            return (await items.update(item.id, changes, expected_version=expected_version)).to_dict()

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
        async with self._open(actor, tenant_id) as items:
            item = await _found(items, ref)
            # Locked before its dependents are looked at: none comes to it then.
            await items.lock()
            needed_by = await items.get_dependents(item.id)
            if needed_by and dependents == "restrict":
                raise HasDependents(item.name, [other.name for other in needed_by])
            if dependents == "detach":
                for other in needed_by:
                    await items.remove_dependency(other.id, item.id)
            return (await items.delete(item.id, expected_version=expected_version)).to_dict()

    async def restore(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Take a deletion back. Of several that had the name, the one that was deleted last comes back."""
        async with self._open(actor, tenant_id) as items:
            item = await _found(items, ref, include_deleted=True)
            return (await items.restore(item.id)).to_dict()

    async def create_all(
        self,
        actor: Actor,
        several: Sequence[Values],
        *,
        tenant_id: str | None = None,
        atomic: bool = False,
        dry_run: bool = False,
    ) -> BulkOutcome:
        """Make many services and tell of each; with ``atomic`` all of them or none.

        ``dry_run`` tries it for real, so that every rule of the database speaks, and undoes it.
        """
        outcome: BulkOutcome | None = None
        try:
            async with self._open(actor, tenant_id) as items:
                try:
                    result = await items.bulk_create(several, atomic=atomic)
                except BulkRefused as refused:
                    result = BulkResult([], list(refused.failures))
                outcome = _outcome(len(several), result, dry_run=dry_run)
                if dry_run:
                    raise _DryRun
        except _DryRun:
            pass
        assert outcome is not None
        return outcome

    # How they are

    async def note_health(
        self,
        actor: Actor,
        ref: str,
        status: ServiceStatus,
        *,
        tenant_id: str | None = None,
        response_time_ms: float | None = None,
    ) -> dict[str, Any]:
        """Note what somebody found out about a service, or decided; return it as it is now."""
        async with self._open(actor, tenant_id) as items:
            item = await _found(items, ref)
            return (await items.update_health_status(item.id, status, response_time_ms=response_time_ms)).to_dict()

    async def heartbeats(self, actor: Actor, refs: Sequence[str], *, tenant_id: str | None = None) -> list[str]:
        """Note that services were seen just now, at most 500; return those of ``refs`` that there are not."""
        ids = {ref: item_id for ref in refs if isinstance(item_id := identifier(ref), UUID)}
        async with self._open(actor, tenant_id) as items:
            ids |= await items.ids_of([ref for ref in refs if ref not in ids])
            seen = await items.bulk_update_last_seen(set(ids.values()))
            return [ref for ref in refs if ids.get(ref) not in seen]

    async def statistics(self, actor: Actor, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Return numbers of the tenant's services."""
        async with self._open(actor, tenant_id) as items:
            return asdict(await items.get_service_statistics())

    # What they depend on

    async def dependencies(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Return the living services that one depends on, by name."""
        async with self._open(actor, tenant_id) as items:
            item = await _found(items, ref)
            return [other.to_dict() for other in await items.get_dependencies(item.id)]

    async def dependents(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Return the living services that depend on one, by name."""
        async with self._open(actor, tenant_id) as items:
            item = await _found(items, ref)
            return [other.to_dict() for other in await items.get_dependents(item.id)]

    async def add_dependency(
        self, actor: Actor, ref: str, depends_on: str, *, tenant_id: str | None = None
    ) -> dict[str, Any]:
        """Let a service depend on another one; return it as it is now."""
        async with self._open(actor, tenant_id) as items:
            item, other = await _found(items, ref), await _found(items, depends_on, param="depends_on")
            return (await items.add_dependency(item.id, other.id)).to_dict()

    async def remove_dependency(
        self, actor: Actor, ref: str, depends_on: str, *, tenant_id: str | None = None
    ) -> dict[str, Any]:
        """Let a service no longer depend on another one; return it as it is now."""
        async with self._open(actor, tenant_id) as items:
            item, other = await _found(items, ref), await _found(items, depends_on, param="depends_on")
            return (await items.remove_dependency(item.id, other.id)).to_dict()

    # How

    @asynccontextmanager
    async def _open(self, actor: Actor, tenant_id: str | None) -> AsyncIterator[RegistryItemRepository]:
        principal, own = actor.principal, str(actor.principal.tenant_id)
        tenant = tenant_id or own
        if tenant != own and principal.role is not Role.PLATFORM_ADMIN:
            raise no_such("tenant", tenant, param="tenant_id")
        author = Author(key=str(principal.key_id), user=principal.user_id, request_id=actor.request_id)
        now: datetime = self._clock.now()
        async with self._database.session(tenant) as session:
            trail = AuditTrail(session, self._chain, tenant_id=tenant, author=author, now=now)
            yield RegistryItemRepository(session, trail)

    @staticmethod
    async def _known(items: RegistryItemRepository, fields: Values, on_conflict: OnConflict) -> RegistryItem | None:
        """Return the service that is meant by the name of a new one."""
        name = fields.get("name")
        if on_conflict == "error" or not isinstance(name, str):
            return None
        await items.lock()
        known = await _by_name(items, name)
        return known or (await _by_name(items, name, include_deleted=True) if on_conflict == "restore" else None)


async def _found(
    items: RegistryItemRepository, ref: str, *, include_deleted: bool = False, param: str = "ref"
) -> RegistryItem:
    item = await _perhaps(items, ref, include_deleted=include_deleted)
    if item is None:
        raise no_such(SERVICE, ref, param=param)
    return item


async def _perhaps(items: RegistryItemRepository, ref: str, *, include_deleted: bool = False) -> RegistryItem | None:
    """Return the service of that id, else of that name: the living one first."""
    item_id = identifier(ref)
    found = await items.get(item_id, include_deleted=include_deleted) if isinstance(item_id, UUID) else None
    found = found or await _by_name(items, ref)
    return found or (await _by_name(items, ref, include_deleted=True) if include_deleted else None)


async def _by_name(items: RegistryItemRepository, name: str, *, include_deleted: bool = False) -> RegistryItem | None:
    if not 0 < len(name) <= NAME_CHARS or unstorable(name) is not None:
        return None
    if not include_deleted:
        return await items.get_by_name(name)
    search = ServiceSearch(filters={"name": name}, deleted="only")
    page = await items.find(search, sort="-updated_at", limit=1)
    return page.items[0] if page.items else None


def _outcome(count: int, result: BulkResult[RegistryItem], *, dry_run: bool) -> BulkOutcome:
    failures = {failure.index: failure.error for failure in result.failures}
    made = iter(result.items)
    results: list[dict[str, Any]] = []
    for index in range(count):
        error = failures.get(index)
        if error is not None:
            results.append({"index": index, "error": error.message, "code": error.code, "param": error.param})
        elif result.items:
            results.append({"index": index, "item": next(made).to_dict()})
        else:
            results.append({"index": index, "error": "Not kept: another one cannot be.", "code": "not_kept"})
    return BulkOutcome(created=len(result.items), failed=count - len(result.items), dry_run=dry_run, results=results)
