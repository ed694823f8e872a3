"""Changes of published versions and of the services that they are of, in one transaction and audited in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.models.registry_versions import STATUS_MESSAGE_CHARS, RegistryVersion
from hx_gateway.db.models.validation import unstorable
from hx_gateway.errors import InvalidRequest, NotFound
from hx_gateway.registry.audit_trail import AuditTrail, Recorded
from hx_gateway.registry.errors import HasDependents
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.official.mapping import (
    DEPRECATED,
    PUBLISHED_AS,
    STATUS_MESSAGE,
    Status,
    fields_of,
    version_of,
    with_config,
)
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.repository import ServerRepository

MAX_VERSIONS = 1_000
SERVER_VERSION = "server_version"


@dataclass(frozen=True, slots=True)
class StatusChange:
    """What a version becomes. Raises ``InvalidRequest`` for a message that does not fit."""

    status: Status
    message: str | None = None

    def __post_init__(self) -> None:
        """Check the message."""
        if self.message is None:
            return
        if self.status == "active":
            raise InvalidRequest("statusMessage does not go with the status 'active'.", param="statusMessage")
        if len(self.message) > STATUS_MESSAGE_CHARS or unstorable(self.message) is not None:
            raise InvalidRequest(
                f"statusMessage must have at most {STATUS_MESSAGE_CHARS} characters, none of them NUL.",
                param="statusMessage",
            )

    def changes(self, status: str, message: str | None) -> bool:
        """Return whether it is another one than this; a message that is not given stays."""
        return status != self.status or (self.message is not None and message != self.message)


class Publishing:
    """What may be done to a tenant's servers by whoever holds its lock: the transaction is the caller's."""

    def __init__(
        self, servers: ServerRepository, items: RegistryItemRepository, trail: AuditTrail, naming: Naming
    ) -> None:
        self.servers = servers
        self._items = items
        self._trail = trail
        self._naming = naming

    async def publish(self, document: dict[str, Any]) -> None:
        """Keep a new version, and make of its service what the latest one says."""
        name, version, now = document["name"], document["version"], self._trail.now
        rows = await self.servers.published(name)
        if any(row.version == version for row in rows):
            raise InvalidRequest(
                f"invalid version: cannot publish duplicate version: {version!r} of {name!r} was published before.",
                param="version",
            )
        if len(rows) >= MAX_VERSIONS:
            raise InvalidRequest(f"{name!r} has {MAX_VERSIONS:,} versions, which is all there may be.", param="version")
        item = await self._service_for(document)
        await self._settle(item, rows)
        if item.is_deleted:
            item = await self._items.restore(item.id)
        await self.servers.adopt(rows, item.id)
        row = RegistryVersion(
            tenant_id=self._trail.tenant_id,
            name=name,
            version=version,
            item_id=item.id,
            document=document,
            status="active",
            status_changed_at=now,
            published_at=now,
            published_by=self._trail.author.name,
            updated_at=now,
            is_latest=False,
        )
        await self.servers.add(row)
        created = Recorded("created", _object_id(row), None, {**_state(row), "document": document})
        await self._trail.record(SERVER_VERSION, [created])
        await self._follow_latest(item, [*rows, row])

    async def replace(self, document: dict[str, Any]) -> None:
        """Put another document in the place of a published version. Raises ``NotFound``."""
        item, rows = await self._found(document["name"])
        await self._settle(item, rows)
        row = next((row for row in rows if row.version == document["version"]), None)
        if row is None or row.status == "deleted":
            raise _not_found()
        before = await self.servers.document(row)
        if before == document:
            return
        await self.servers.replace(row, document, self._trail.now)
        changed = Recorded("updated", _object_id(row), {"document": before}, {"document": document})
        await self._trail.record(SERVER_VERSION, [changed])
        if row.is_latest:
            await self._follow(item, document)

    async def set_status(self, name: str, version: str | None, change: StatusChange) -> list[str]:
        """Set the status of a version, with ``None`` of all of them; return those that it is new for.

        The service goes with its last version, and comes back with the first. Raises ``NotFound``, ``InvalidRequest``
        where nothing is new, :class:`HasDependents` where others depend on a service that would be deleted.
        """
        item, rows = await self._found(name)
        if not rows:
            return [await self._set_own_status(item, version, change)]
        chosen = [row for row in rows if version in (None, row.version)]
        if not chosen:
            raise _not_found()
        await self._settle(item, rows)
        changed = [row for row in chosen if change.changes(row.status, row.status_message)]
        if not changed:
            raise _nothing_new(change.status)
        await self._set(changed, change)
        living = any(row.status != "deleted" for row in rows)
        if living and item.is_deleted:
            item = await self._items.restore(item.id)
        if not living:
            await self._drop(item)
            await self.servers.mark_latest(rows, self._trail.now)
        else:
            await self._follow_latest(item, rows)
        return [row.version for row in changed]

    # Services

    async def _service_for(self, document: Mapping[str, Any]) -> RegistryItem:
        """Return the service that a document is about; a new one where there is none of its name."""
        name = document["name"]
        item = await self.servers.item(name)
        if item is not None:
            return item
        ref = self._naming.item_of(name)
        other = await self._items.get_by_name(ref) if isinstance(ref, str) else None
        if other is not None or not isinstance(ref, str):
            raise InvalidRequest(
                f"name: {name!r} is no name that can be published here: a service has it in other letters, or it is an "
                "id of none.",
                param="name",
            )
        return await self._items.create(fields_of(document, self._naming))

    async def _follow_latest(self, item: RegistryItem, rows: Sequence[RegistryVersion]) -> None:
        latest = await self.servers.mark_latest(rows, self._trail.now)
        if latest is not None:
            await self._follow(item, await self.servers.document(latest))

    async def _follow(self, item: RegistryItem, document: Mapping[str, Any]) -> None:
        """Make of a service what its latest version says of it. Its name stays as it is written."""
        fields = fields_of(document, self._naming)
        fields.pop("name", None)
        fields["config"] = with_config(item.config, fields["config"])
        if item.build_type not in PUBLISHED_AS:
            del fields["build_type"]
        await self._items.update(item.id, fields)

    async def _drop(self, item: RegistryItem) -> None:
        needed_by = await self._items.get_dependents(item.id)
        if needed_by:
            raise HasDependents(item.name, [other.name for other in needed_by])
        await self._items.delete(item.id)

    async def _set_own_status(self, item: RegistryItem, version: str | None, change: StatusChange) -> str:
        """Set the status of a service that has published nothing: it is kept with the service."""
        own = version_of(item.version)
        if version not in (None, own):
            raise _not_found()
        metadata = item.service_metadata
        status = "deleted" if item.is_deleted else "deprecated" if metadata.get(DEPRECATED) is True else "active"
        again = item.is_deleted and change.status == "deleted"
        if again or not change.changes(status, metadata.get(STATUS_MESSAGE)):
            raise _nothing_new(change.status)
        if item.is_deleted:
            item = await self._items.restore(item.id)
        said = {name: value for name, value in metadata.items() if name not in (DEPRECATED, STATUS_MESSAGE)}
        if change.status == "deprecated":
            said[DEPRECATED] = True
        if change.message is not None:
            said[STATUS_MESSAGE] = change.message
        item = await self._items.update(item.id, {"service_metadata": said})
        if change.status == "deleted":
            await self._drop(item)
        return own

    # Versions

    async def _found(self, name: str) -> tuple[RegistryItem, list[RegistryVersion]]:
        """Return a service, and its versions."""
        item = await self.servers.item(name)
        if item is None:
            raise _not_found()
        return item, [row for row in await self.servers.published(name) if row.item_id == item.id]

    async def _settle(self, item: RegistryItem, rows: Sequence[RegistryVersion]) -> None:
        """Write down what is shown of versions since their service was deleted, or restored, in another way.

        All versions of a name are of one service. Where that is another than the one that has the name now, it is gone.
        """
        if item.is_deleted or any(row.item_id != item.id for row in rows):
            await self._set([row for row in rows if row.status != "deleted"], StatusChange("deleted"))
        else:
            back = [row for row in rows if row.is_latest and row.status == "deleted"]
            await self._set(back, StatusChange("active"))

    async def _set(self, rows: Sequence[RegistryVersion], change: StatusChange) -> None:
        now, changed = self._trail.now, []
        for row in rows:
            before = _state(row)
            if row.status != change.status:
                row.status, row.status_changed_at = change.status, now
                row.status_message = change.message
            elif change.message is not None:
                row.status_message = change.message
            row.updated_at = now
            changed.append(Recorded("updated", _object_id(row), before, _state(row)))
        await self.servers.flush()
        await self._trail.record(SERVER_VERSION, changed)


def _object_id(row: RegistryVersion) -> str:
    return f"{row.name}@{row.version}"


def _state(row: RegistryVersion) -> dict[str, Any]:
    return {"status": row.status, "status_message": row.status_message}


def _not_found() -> NotFound:
    return NotFound("Server version not found.", param="version")


def _nothing_new(status: str) -> InvalidRequest:
    return InvalidRequest(f"No changes to apply: status is already {status}.", param="status")
