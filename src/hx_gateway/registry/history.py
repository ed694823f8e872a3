"""What became of services: who changed what, what a service was before, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from hx_gateway.access.audit import MASK
from hx_gateway.access.cursors import Position, decode_cursor, encode_cursor, mark_of
from hx_gateway.access.errors import InvalidField
from hx_gateway.access.resources import MAX_PAGE, Actor
from hx_gateway.db.models.audit import AuditEntry
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.models.validation import identifier
from hx_gateway.errors import NotFound
from hx_gateway.registry.history_repository import HistoryRepository
from hx_gateway.registry.references import found
from hx_gateway.registry.transactions import Transaction, Transactions

_MISSING = object()


class History:
    """Named and confined as in :class:`~hx_gateway.registry.catalog.Catalog`; raises what that raises.

    A service's version is the number of its changes, the first of which made it.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def entries(
        self,
        actor: Actor,
        filters: Mapping[str, str],
        *,
        tenant_id: str | None = None,
        ref: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of changes, the newest first: of one service, or of all."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidField(f"limit: must be between 1 and {MAX_PAGE}.", param="limit")
        mark = mark_of("history", ref, sorted(filters.items()), since, until)
        after = decode_cursor(cursor, mark, int)
        async with self._transactions.open(actor, tenant_id, "history.entries") as transaction:
            wanted = dict(filters)
            if ref is not None:
                wanted["object_id"] = await _object_id(transaction, ref)
            read = await transaction.history.newest_first(
                wanted,
                since=since,
                until=until,
                below=None if after is None else int(after.value or 0),
                limit=limit + 1,
            )
        more = len(read) > limit
        next_cursor = encode_cursor(Position(read[limit - 1].id, ""), mark) if more else None
        return {"items": [shown(entry) for entry in read[:limit]], "next_cursor": next_cursor, "has_more": more}

    async def versions(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Return the versions of a service, the first one first, with what each changed."""
        async with self._transactions.open(actor, tenant_id, "history.versions") as transaction:
            item = await found(transaction.items, ref, include_deleted=True)
            entries = await transaction.history.of_service(str(item.id))
        return [{"version": number, **shown(entry)} for number, entry in enumerate(entries, 1)]

    async def version(self, actor: Actor, ref: str, version: int, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Return the fields that a service had in one version; values named like secrets are masked."""
        async with self._transactions.open(actor, tenant_id, "history.version") as transaction:
            item = await found(transaction.items, ref, include_deleted=True)
            return {"version": version, "fields": await _as_it_was(transaction.history, item, version)}

    async def revert(self, actor: Actor, ref: str, version: int, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Set a living service's fields to what they were in one version; return it as it is now.

        Its status stays, and so does what is masked in the log: what nobody kept cannot come back. What it depended on
        then and was deleted since, or removed for good, it waits for by its name.
        """
        async with self._transactions.open(actor, tenant_id, "history.revert") as transaction:
            items = transaction.items
            await items.lock()
            item = await found(items, ref)
            fields = await _as_it_was(transaction.history, item, version)
            now = item.to_dict()
            changes = {name: _unmasked(fields[name], now[name]) for name in _SETTABLE & fields.keys()}
            names = await transaction.history.names_of_gone({*changes.get("dependencies", ())} - {*now["dependencies"]})
            if names:
                changes |= _waiting(changes, now, names)
            return (await items.update(item.id, changes)).to_dict()


_SETTABLE = (RegistryItem.field_names() - RegistryItem.protected) - {"status"}


def shown(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as it is shown: ``changes`` has each member that differs, by its path."""
    return {
        "seq": entry.id,
        "at": entry.at,
        "action": entry.action,
        "service_id": entry.object_id,
        "actor_key": entry.actor_key,
        "actor_user": entry.actor_user,
        "request_id": entry.request_id,
        "changes": list(differences(entry.before or {}, entry.after or {})),
    }


def differences(before: object, after: object, path: str = "") -> Iterator[dict[str, Any]]:
    """Yield ``path``, ``old`` and ``new`` of each member that differs; one that is not there is ``None``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            yield from differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif before != after:
        yield {"path": path, "old": before, "new": after}


async def _object_id(transaction: Transaction, ref: str) -> str:
    """Return the id of a service, also of one that is gone for good where it is named by that."""
    try:
        return str((await found(transaction.items, ref, include_deleted=True)).id)
    except NotFound:
        item_id = identifier(ref)
        if not isinstance(item_id, UUID) or not await transaction.history.was_purged(str(item_id)):
            raise
        return str(item_id)


async def _as_it_was(history: HistoryRepository, item: RegistryItem, version: int) -> dict[str, Any]:
    entries = await history.of_service(str(item.id))
    if not 1 <= version <= len(entries):
        raise NotFound(f"There is no version {version} of it: it has 1 to {len(entries)}.", param="version")
    return _replayed(entries[:version])


def _replayed(entries: Sequence[AuditEntry]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for entry in entries:
        # A deletion tells what was deleted, everything else what it is from then on.
        told = entry.before if entry.after is None else entry.after
        fields |= told or {}
    # Entries also tell of what belongs to a service and is no field of it, as its tools.
    return {name: value for name, value in fields.items() if name in RegistryItem.field_names()}


def _waiting(changes: Mapping[str, Any], now: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return dependencies without those that are gone, and whose names are waited for: ``names``, by their ids."""
    waits_for = changes.get("pending_dependencies", now["pending_dependencies"])
    known = {name.lower(): name for name in (*names.values(), *waits_for)}
    # One of the same name would wait for itself.
    known.pop(changes.get("name", now["name"]).lower(), None)
    ends = [end for end in changes["dependencies"] if end not in names]
    return {"dependencies": ends, "pending_dependencies": sorted(known.values())}


def _unmasked(value: Any, now: Any) -> Any:
    """Return a value of the log with what is there now in place of masks, and without those where nothing is."""
    if isinstance(value, dict):
        kept = {
            name: _unmasked(member, now.get(name, _MISSING) if isinstance(now, dict) else _MISSING)
            for name, member in value.items()
        }
        return {name: member for name, member in kept.items() if member is not _MISSING}
    return now if value == MASK else value
