"""The directory of tenants, teams, users and keys: each change is one transaction, with its entry in the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, cast

from hx_gateway.access import grants
from hx_gateway.access.audit import MASK, AuditChain, recorded
from hx_gateway.access.budget_lists import replace_budgets
from hx_gateway.access.cursors import Position, decode_cursor, encode_cursor, mark_of
from hx_gateway.access.drafts import (
    IMPORT_FIELDS,
    checked,
    draft,
    draft_imported_key,
    draft_key,
    new_tenant_id,
    offer_of,
    set_fields,
    settled,
)
from hx_gateway.access.errors import Conflict, InvalidField, no_such
from hx_gateway.access.idempotency import Repetition, fingerprint
from hx_gateway.access.invalidation import Kind
from hx_gateway.access.lists import AUDIT_FILTERS, check_filters, check_query
from hx_gateway.access.minting import KeyMinter
from hx_gateway.access.principal import DEFAULT_TENANT, Role
from hx_gateway.access.repository import Repository, position_of
from hx_gateway.access.resources import Actor, ListQuery, Page, ResourceKind
from hx_gateway.access.showing import WindowOf, show, tenant_of
from hx_gateway.access.transactions import Transaction
from hx_gateway.access.views import Row, shown_entry, shown_member
from hx_gateway.db.models.keys import ApiKey
from hx_gateway.db.models.teams import Membership
from hx_gateway.db.models.users import User
from hx_gateway.db.row_security import EVERY_TENANT
from hx_gateway.errors import Forbidden
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.services.database import DatabaseManager

__all__ = ["Actor", "Announce", "AuditState", "Directory", "ListQuery", "Page", "ResourceKind"]

Announce = Callable[[Kind, str, str], Awaitable[None]]
# Takes the kind of an object and what is shown of it.
Gone = Callable[[ResourceKind, Mapping[str, Any]], Awaitable[None]]
Objects: TypeAlias = list[dict[str, Any]]
_OFFERED = frozenset({"scopes", "models", "allowed_routes", "expires_at", "limits", "budgets"})
_IMPORTED = "imported_sha256"
_KEY, _TEAM, _TENANT, _USER = ResourceKind.KEY, ResourceKind.TEAM, ResourceKind.TENANT, ResourceKind.USER


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditState:
    """What a look at a tenant's audit log found: the entries up to the first broken one, and that one's id."""

    entries: int
    broken_at: int | None


class Directory:
    """Everything is asked in an actor's name and answered as JSON (:mod:`~hx_gateway.access.views`).

    Values come checked for their form; here they are checked against what is there and against the actor's rights.
    Raises ``NotFound`` for what is not there or is another tenant's, ``Forbidden``, ``ExceedsGrantor``, ``Conflict``,
    ``InvalidField``, and ``DependencyError`` while the database is away: then nothing was changed, but for a commit
    whose answer was lost. ``announce`` is called after each commit with kind, id and tenant of what changed;
    PostgreSQL tells the same on the channel ``hx_access``. ``window_of`` tells which window of a budget a moment is in.
    """

    def __init__(
        self,
        database: DatabaseManager,
        *,
        mint: KeyMinter,
        audit_key: bytes,
        announce: Announce,
        window_of: WindowOf,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._mint = mint
        self._chain = AuditChain(audit_key)
        self._announce = announce
        self._window_of = window_of
        self._clock = clock or SystemClock()
        self._gone: list[Gone] = []

    def on_gone(self, act: Gone) -> None:
        """Have ``act`` called after the commit for what is let in no more: what is deleted, and a blocked tenant.

        A new tenant too: what is kept elsewhere under its id is not its own. ``act`` never raises.
        """
        self._gone.append(act)

    async def create(
        self, actor: Actor, kind: ResourceKind, fields: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """Make an object; return it, a key with its secret (``key``).

        With an ``idempotency_key`` that the same actor gave in the last 24 hours for the same fields, the first answer
        comes again, without the secret and with ``replayed``. A key with ``imported_sha256`` has no secret to return:
        its clients know it. Only an admin of the platform takes keys over.
        """
        grants.check_create(actor.principal, kind)
        checked(kind, fields, first=True)
        _check_import(actor, fields)
        again = None if idempotency_key is None else Repetition(actor, idempotency_key, fingerprint(kind, fields))
        async with self._transaction(actor) as change:
            first = None if again is None else await again.first_answer(change.repository, change.now)
            if first is not None:
                return first
            answer = await self._create(change, kind, settled(fields, change.now))
            if again is not None:
                await again.keep(change.repository, answer, change.now)
        if kind is _TENANT:
            await self._tell_gone(kind, answer)
        return answer

    async def get(
        self, actor: Actor, kind: ResourceKind, object_id: str, *, include_deleted: bool = False
    ) -> dict[str, Any]:
        """Return an object; with ``include_deleted`` also one that is deleted, or belongs to one that is."""
        async with self._transaction(actor) as look:
            row = await look.read(kind, object_id, deleted=include_deleted)
            grants.check_read(actor.principal, await look.target(kind, row))
            return await look.shown(kind, row)

    async def list(self, actor: Actor, kind: ResourceKind, query: ListQuery) -> Page:
        """Return a page of the objects that the actor administers."""
        sight = grants.sight_of(actor.principal, kind)
        check_query(kind, query)
        _check_tenant(sight, query)
        mark = mark_of(kind.value, query.sort, sorted(query.filters.items()), query.include_deleted)
        after = decode_cursor(query.cursor, mark, str if query.sort.removeprefix("-") == "name" else int)
        async with self._transaction(actor) as look:
            rows = await look.repository.page(
                kind,
                sight,
                query.filters,
                sort=query.sort,
                after=after,
                limit=query.limit + 1,
                include_deleted=query.include_deleted,
            )
            more, rows = len(rows) > query.limit, rows[: query.limit]
            items = await show(look.repository, kind, rows, window_of=self._window_of, now=look.now)
        return Page(items=items, next_cursor=encode_cursor(position_of(rows[-1], query.sort), mark) if more else None)

    async def update(
        self, actor: Actor, kind: ResourceKind, object_id: str, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change the fields that are given; ``budgets`` replaces the list."""
        async with self._transaction(actor) as change:
            row = await change.open(kind, object_id)
            grants.check_write(actor.principal, await change.target(kind, row), changes.keys())
            checked(kind, changes)
            fields = settled(changes, change.now)
            if "role" in fields:
                grants.check_power(actor.principal, Role(fields["role"]), frozenset(), param="role")
            if isinstance(row, ApiKey):
                grants.check_offer(actor.principal, await change.offer(row, fields), fields.keys())
            before = await change.shown(kind, row)
            set_fields(row, fields)
            if "budgets" in fields:
                await replace_budgets(change.repository, kind, row, fields["budgets"], now=change.now)
            shown = await change.finish("updated", kind, row, before)
        if kind is _TENANT and shown["blocked"] and not before["blocked"]:
            await self._tell_gone(kind, shown)
        return shown

    async def delete(self, actor: Actor, kind: ResourceKind, object_id: str) -> dict[str, Any]:
        """Delete an object, so that it can be restored. Keys of a deleted team, user or tenant are refused."""
        async with self._transaction(actor) as change:
            row = await change.open(kind, object_id)
            grants.check_write(actor.principal, await change.target(kind, row))
            if kind is _TENANT and row.id == DEFAULT_TENANT:
                raise Conflict("The tenant 'default' cannot be deleted.", code="default_tenant", param="id")
            before = await change.shown(kind, row)
            row.deleted_at = change.now
            shown = await change.finish("deleted", kind, row, before)
        await self._tell_gone(kind, shown)
        return shown

    async def restore(self, actor: Actor, kind: ResourceKind, object_id: str) -> dict[str, Any]:
        """Undo a deletion. Raises ``Conflict`` where the name was taken meanwhile."""
        async with self._transaction(actor) as change:
            row = await change.open(kind, object_id, deleted=True)
            grants.check_write(actor.principal, await change.target(kind, row))
            before = await change.shown(kind, row)
            row.deleted_at = None
            return await change.finish("restored", kind, row, before)

    async def rotate(self, actor: Actor, key_id: str, grace_seconds: int) -> dict[str, Any]:
        """Give a key a new secret, and return it (``key``); the former works for ``grace_seconds`` more.

        An imported key that was never used has no digest yet that could work on: its former secret ends at once. From
        then on the key is held to the one that rotated it, whose bearer knows its secret.
        """
        async with self._transaction(actor) as change:
            key = cast(ApiKey, await change.open(_KEY, key_id))
            grants.check_write(actor.principal, await change.target(_KEY, key))
            if key.id != actor.principal.key_id:
                grants.check_offer(actor.principal, await change.offer(key, {}), _OFFERED)
            before = await change.shown(_KEY, key)
            await change.hand_over(key)
            minted = self._mint.mint(key.id)
            graced = grace_seconds > 0 and key.digest is not None
            key.previous_digest = key.digest if graced else None
            key.previous_pepper_id = key.pepper_id if graced else None
            key.previous_expires_at = change.now + timedelta(seconds=grace_seconds) if graced else None
            # The text of an imported key is found by this as long as it works.
            key.imported_sha256 = key.imported_sha256 if graced else None
            key.pepper_id, key.digest = self._mint.digest(minted.text)
            key.prefix, key.last_four = minted.prefix, minted.last_four
            return {**await change.finish("rotated", _KEY, key, before, always=True), "key": minted.text}

    async def block(self, actor: Actor, key_id: str) -> dict[str, Any]:
        """Refuse a key from now on."""
        return await self._set_blocked(actor, key_id, "blocked", blocked=True)

    async def unblock(self, actor: Actor, key_id: str) -> dict[str, Any]:
        """Accept a key again."""
        return await self._set_blocked(actor, key_id, "unblocked", blocked=False)

    async def set_member(self, actor: Actor, team_id: str, user_id: str, role: str) -> dict[str, Any]:
        """Make a user ``admin``, ``member`` or ``read_only`` of a team."""
        async with self._transaction(actor) as change:
            team = await change.open(_TEAM, team_id)
            tenant_id = tenant_of(team)
            here = await change.repository.membership(tenant_id, team_id, user_id)
            former = None if here is None else here.role
            grants.check_member(actor.principal, team_id, before=former, after=role)
            user = cast(User, await change.owner(_USER, tenant_id, user_id, param="user_id"))
            if here is None:
                here = Membership(team_id=team_id, user_id=user_id, tenant_id=tenant_id, created_at=change.now)
                change.repository.add(here)
            here.role = role
            if role != former:
                await _record_member(change, team, user_id, former, role)
            return shown_member(here, user)

    async def remove_member(self, actor: Actor, team_id: str, user_id: str) -> dict[str, Any]:
        """Take a user out of a team; return what it was. Keys that are both the team's and the user's are refused."""
        async with self._transaction(actor) as change:
            team = await change.open(_TEAM, team_id)
            tenant_id = tenant_of(team)
            here = await change.repository.membership(tenant_id, team_id, user_id)
            grants.check_member(actor.principal, team_id, before=None if here is None else here.role, after=None)
            user = await change.repository.find(_USER, tenant_id, user_id, deleted=True)
            if here is None or user is None:
                raise no_such("member", user_id, param="user_id")
            await change.repository.remove(here)
            await _record_member(change, team, user_id, here.role, None)
            return shown_member(here, cast(User, user))

    async def members(self, actor: Actor, team_id: str) -> Objects:
        """Return the users of a team, by name."""
        async with self._transaction(actor) as look:
            team = await look.read(_TEAM, team_id)
            grants.check_read(actor.principal, await look.target(_TEAM, team))
            found = await look.repository.members(tenant_of(team), team_id)
            return [shown_member(membership, user) for membership, user in found]

    async def audit(self, actor: Actor, query: ListQuery) -> Page:
        """Return entries of the audit log, newest first: of the actor's tenant, or of all to the platform's admin."""
        sight = grants.sight_of(actor.principal, _TENANT)
        check_filters(query, AUDIT_FILTERS)
        _check_tenant(sight, query)
        mark = mark_of("audit", sorted(query.filters.items()))
        after = decode_cursor(query.cursor, mark, int)
        before_id = None if after is None else cast(int, after.value or 0)
        async with self._transaction(actor) as look:
            found = await look.repository.entries(
                sight.tenant_id, query.filters, before_id=before_id, limit=query.limit + 1
            )
        shown = found[: query.limit]
        more = len(found) > query.limit
        cursor = encode_cursor(Position(shown[-1].id, ""), mark) if more else None
        return Page(items=[shown_entry(entry) for entry in shown], next_cursor=cursor)

    async def check_purge(self, actor: Actor, tenant_id: str) -> None:
        """Raise ``NotFound`` for a tenant that the actor does not administer; one that is deleted is there."""
        await self.get(actor, _TENANT, tenant_id, include_deleted=True)

    async def record_purge(self, actor: Actor, tenant_id: str, told: Mapping[str, Any]) -> None:
        """Write into the audit log that answers of a tenant were forgotten; ``told`` says which, and how many."""
        async with self._transaction(actor) as change:
            await change.open(_TENANT, tenant_id, deleted=True)
            await change.write("purged", "cache", tenant_id, None, told, tenant_id=tenant_id)

    async def check_audit(self, actor: Actor, tenant_id: str) -> AuditState:
        """Go through the audit log of a tenant and look for entries that were changed or taken out."""
        sight = grants.sight_of(actor.principal, _TENANT)
        _check_tenant(sight, ListQuery(filters={"tenant_id": tenant_id}))
        seen, last, previous = 0, 0, None
        while True:
            async with self._transaction(actor) as look:
                entries = await look.repository.chained(tenant_id, last)
            if not entries:
                return AuditState(entries=seen, broken_at=None)
            broken = self._chain.broken_at(entries, previous)
            if broken is not None:
                return AuditState(entries=seen + sum(entry.id < broken for entry in entries), broken_at=broken)
            seen, last, previous = seen + len(entries), entries[-1].id, entries[-1].hash

    async def _tell_gone(self, kind: ResourceKind, shown: Mapping[str, Any]) -> None:
        for act in self._gone:
            await act(kind, shown)

    @asynccontextmanager
    async def _transaction(self, actor: Actor) -> AsyncIterator[Transaction]:
        async with self._database.session(_rows_of(actor)) as session:
            repository = Repository(session)
            now = self._clock.now()
            change = Transaction(repository, actor, now, chain=self._chain, window_of=self._window_of)
            yield change
        for kind, object_id, tenant_id in change.told:
            await self._announce(kind, object_id, tenant_id)

    async def _create(self, change: Transaction, kind: ResourceKind, fields: dict[str, Any]) -> dict[str, Any]:
        secret: dict[str, str] = {}
        row: Row
        if kind is _KEY:
            fields = {**grants.defaults(change.actor.principal, fields.get("admin_role")), **fields}
            row, secret = await self._new_key(change, fields)
            row.granted_by = await change.grantor()
        else:
            tenant_id = new_tenant_id(fields)
            if kind is not _TENANT:
                tenant_id = (await change.tenant_for(fields.get("tenant_id"))).id
            if "role" in fields:
                grants.check_power(change.actor.principal, Role(fields["role"]), frozenset(), param="role")
            row = draft(kind, tenant_id, fields, author=change.author, now=change.now)
        change.repository.add(row)
        await change.repository.flush()
        await replace_budgets(change.repository, kind, row, fields.get("budgets") or (), now=change.now)
        await change.repository.flush()
        shown = await change.shown(kind, row)
        # That it was taken over is told; the hash is nearly a credential.
        imported = {_IMPORTED: MASK} if _IMPORTED in fields else {}
        await change.record("created", kind, row, None, {**recorded(shown), **imported})
        return {**shown, **secret}

    async def _new_key(self, change: Transaction, fields: Mapping[str, Any]) -> tuple[ApiKey, dict[str, str]]:
        tenant = await change.tenant_for(fields.get("tenant_id"))
        team_id, user_id = fields.get("team_id"), fields.get("user_id")
        team = await change.owner(_TEAM, tenant.id, team_id, param="team_id")
        user = await change.owner(_USER, tenant.id, user_id, param="user_id")
        target = await change.key_target("", tenant.id, team_id, user_id, fields.get("admin_role"))
        grants.check_write(change.actor.principal, target)
        if team_id and user_id and await change.repository.membership(tenant.id, team_id, user_id) is None:
            raise InvalidField("user_id: is not a member of the team that team_id names.", param="user_id")
        grants.check_offer(change.actor.principal, offer_of(fields, (user, team, tenant)), _OFFERED)
        minted = self._mint.mint()
        if _IMPORTED in fields:
            await _check_unknown(change, fields[_IMPORTED])
            return draft_imported_key(tenant.id, fields, minted.id, author=change.author, now=change.now), {}
        digest = self._mint.digest(minted.text)
        row = draft_key(tenant.id, fields, minted, digest, author=change.author, now=change.now)
        return row, {"key": minted.text}

    async def _set_blocked(self, actor: Actor, key_id: str, action: str, *, blocked: bool) -> dict[str, Any]:
        async with self._transaction(actor) as change:
            key = await change.open(_KEY, key_id)
            grants.check_write(actor.principal, await change.target(_KEY, key))
            before = await change.shown(_KEY, key)
            key.blocked = blocked
            return await change.finish(action, _KEY, key, before)


def _rows_of(actor: Actor) -> str:
    """Return whose rows a transaction in the actor's name is confined to."""
    principal = actor.principal
    return EVERY_TENANT if principal.role is Role.PLATFORM_ADMIN else str(principal.tenant_id)


def _check_tenant(sight: grants.Sight, query: ListQuery) -> None:
    """Answer to the name of another tenant as to one that there is not."""
    wanted = query.filters.get("tenant_id")
    if wanted is not None and sight.tenant_id not in (None, wanted):
        raise no_such("tenant", wanted, param="tenant_id")


def _check_import(actor: Actor, fields: Mapping[str, Any]) -> None:
    """Raise ``Forbidden`` for whoever may not take over keys: it would be told of another tenant's by their hashes."""
    if IMPORT_FIELDS & fields.keys() and actor.principal.role is not Role.PLATFORM_ADMIN:
        raise Forbidden("Only an administrator of the platform takes keys over from elsewhere.", param=_IMPORTED)


async def _check_unknown(change: Transaction, sha256: str) -> None:
    """Raise ``Conflict`` where a key with that hash is there, in any tenant, or was and is deleted."""
    everywhere = grants.Sight(tenant_id=None)
    same: Mapping[str, Any] = {_IMPORTED: bytes.fromhex(sha256)}
    # Two at once: the later one is refused, and asks again to hear what came of the first.
    found = not await change.repository.claim(f"imported {sha256}") or await change.repository.page(
        _KEY, everywhere, same, sort="-created_at", after=None, limit=1, include_deleted=True
    )
    if found:
        raise Conflict("This key was taken over already; it may have been deleted since.", param=_IMPORTED)


async def _record_member(change: Transaction, team: Row, user_id: str, before: str | None, after: str | None) -> None:
    await change.repository.flush()
    former, now = {"members": {user_id: before}}, {"members": {user_id: after}}
    await change.record("updated", _TEAM, team, former, now, concerns=("user", user_id))
