"""Servers of another registry become services of a tenant: a page in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from hx_gateway.db.models.registry_items import RegistryItem, ServiceStatus
from hx_gateway.errors import HXError
from hx_gateway.kit.ids import new_request_id
from hx_gateway.registry.audit_trail import Author
from hx_gateway.registry.formats.server_json import OFFICIAL_SOURCE
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.official.versions import rank
from hx_gateway.registry.sync.followed import Followed, Tally
from hx_gateway.registry.sync.incoming import EPOCH, Incoming
from hx_gateway.registry.sync.managed import changes_for, digests_of, managed_values, values_of
from hx_gateway.registry.sync.repository import Claim, Synced, SyncedServers, SyncRepository
from hx_gateway.registry.transactions import Transactions

# Who is named in the audit log.
SYNC = "sync"
_log = structlog.get_logger()


class Taking:
    """Writes what was read of a registry. What somebody changed here since it was written stays as it is.

    A service that has a server's name and was not made of it is left alone, and so is one that was deleted here: what
    it misses is noted, to be made up for once it is restored. One whose server is gone is disabled, and enabled again
    with it unless somebody decided otherwise meanwhile.
    """

    def __init__(self, transactions: Transactions, repository: SyncRepository) -> None:
        self._transactions = transactions
        self._repository = repository

    async def known(self, followed: Followed, names: Sequence[str]) -> set[str]:
        """Return those of ``names`` of which there is a service."""
        async with self._transactions.database.session(followed.tenant_id) as session:
            return set(await SyncedServers(session, followed).find(names))

    async def missed(self, followed: Followed, *, after: str, limit: int) -> list[str]:
        """Return the names of servers after ``after`` that changed while their services, which live, were deleted."""
        async with self._transactions.database.session(followed.tenant_id) as session:
            return await SyncedServers(session, followed).missed(after=after, limit=limit)

    async def take(self, claim: Claim, incoming: Incoming, gone: Sequence[str]) -> Tally:
        """Write the servers that are present, and those that are gone; return what was done.

        Raises ``NotFound`` without the tenant, and ``LeaseLost``: nothing is written then.
        """
        author = Author(key=SYNC, request_id=new_request_id())
        async with self._transactions.of(claim.followed.tenant_id, author) as transaction:
            await transaction.items.lock()
            until = await self._repository.renew(claim, self._transactions.clock.now(), transaction.session)
            page = _Page(transaction.items, SyncedServers(transaction.session, claim.followed), claim.followed)
            present = incoming.present
            known = await page.servers.find([*present, *gone])
            await page.make({name: fields for name, fields in present.items() if name not in known})
            for name, synced in known.items():
                if name in present:
                    await page.change(name, synced, present[name], latest=name not in incoming.perhaps_older)
                else:
                    await page.disable(name, synced)
        claim.lease_until = until
        return page.tally


class _Page:
    def __init__(self, items: RegistryItemRepository, servers: SyncedServers, followed: Followed) -> None:
        self.servers = servers
        self.tally = Tally()
        self._items = items
        self._followed = followed

    async def make(self, several: Mapping[str, Mapping[str, Any]]) -> None:
        """Make services of new servers, unless their names are taken."""
        by_name = {fields["name"]: (name, fields) for name, fields in several.items()}
        taken = await self._items.ids_of(by_name)
        new = [each for item_name, each in by_name.items() if item_name not in taken]
        self.tally.skipped += len(several) - len(new)
        made = await self._items.bulk_create([self._made(fields) for _, fields in new])
        failed = {failure.index for failure in made.failures}
        for failure in made.failures:
            self._skip(new[failure.index][0], failure.error)
        kept = [name for index, (name, _) in enumerate(new) if index not in failed]
        for name, item in zip(kept, made.items, strict=True):
            await self.servers.put(name, Synced(item_id=item.id, managed=digests_of(values_of(item))))
        self.tally.created += len(made.items)

    async def change(self, name: str, synced: Synced, fields: Mapping[str, Any], *, latest: bool) -> None:
        """Bring a service to what its server says now: in its latest version, or in one that may be of before."""
        item = await self._items.get(synced.item_id)
        if item is None:
            await self._miss(name, synced)
            return
        # One that was gone has no later version than those that are told of.
        if not latest and not synced.gone and _is_older(fields, item, synced):
            return
        changes, managed = changes_for(item, synced.managed, fields)
        if synced.gone and _is_off(item):
            changes |= {"status": ServiceStatus.UNKNOWN, "is_enabled": True}
        try:
            if changes:
                await self._items.update(item.id, changes)
                self.tally.updated += 1
        except HXError as error:
            self._skip(name, error)
            return
        if managed != synced.managed or synced.gone or synced.missed:
            await self.servers.put(name, Synced(item_id=item.id, managed=managed))

    async def disable(self, name: str, synced: Synced) -> None:
        """Let a service not be used whose server is gone."""
        item = await self._items.get(synced.item_id)
        if item is None:
            await self._miss(name, synced)
            return
        if synced.gone or _is_off(item):
            if synced.missed:
                await self.servers.put(name, replace(synced, missed=False))
            return
        try:
            await self._items.update(item.id, {"status": ServiceStatus.DISABLED, "is_enabled": False})
        except HXError as error:
            self._skip(name, error)
            return
        await self.servers.put(name, Synced(item_id=item.id, managed=synced.managed, gone=True))
        self.tally.disabled += 1

    async def _miss(self, name: str, synced: Synced) -> None:
        """Note that a service that was deleted here does not learn of its server."""
        self.tally.skipped += 1
        if not synced.missed:
            await self.servers.put(name, replace(synced, missed=True))

    def _made(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        of_server = {name: fields[name] for name in fields if name in _TAKEN}
        return {**of_server, "source": OFFICIAL_SOURCE, "registry_url": self._followed.url}

    def _skip(self, name: str, error: HXError) -> None:
        self.tally.skipped += 1
        where = {"tenant": self._followed.tenant_id, "registry": self._followed.url}
        _log.warning("server_not_taken", **where, server=name, reason=error.message)


def _is_off(item: RegistryItem) -> bool:
    return item.status is ServiceStatus.DISABLED and not item.is_enabled


def _is_older(fields: Mapping[str, Any], item: RegistryItem, synced: Synced) -> bool:
    """Return whether a version comes before the one that was taken, as far as that is known."""
    said, taken = fields["version"], item.version
    if said is None or taken is None or digests_of({"version": taken})["version"] != synced.managed.get("version"):
        return False
    return rank(said, EPOCH) < rank(taken, EPOCH)


_TAKEN = frozenset({"name", *(path.partition(".")[0] for path in managed_values({}))})
