"""One change of the directory: what it looks at, its entry in the audit log, and who is told when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from hx_gateway.access.admin_key import ADMIN_PRINCIPAL
from hx_gateway.access.audit import AuditChain, Change, difference, recorded
from hx_gateway.access.drafts import offer_of
from hx_gateway.access.errors import ExceedsGrantor, no_such
from hx_gateway.access.grants import MAX_GRANTORS, Offer, Target
from hx_gateway.access.invalidation import POSTGRES_CHANNEL, Kind
from hx_gateway.access.principal import Role
from hx_gateway.access.repository import Repository, notice
from hx_gateway.access.resources import Actor, ResourceKind
from hx_gateway.access.showing import WindowOf, show, tenant_of
from hx_gateway.access.views import Row, moment
from hx_gateway.db.models.audit import AuditEntry
from hx_gateway.db.models.keys import ApiKey
from hx_gateway.db.models.tenants import Tenant
from hx_gateway.db.models.users import User

_FROM_THE_TOP = tuple(Role)


class Transaction:
    """Rows are found here in the actor's name: what it must not know of is not there. ``told``: what was changed."""

    def __init__(
        self, repository: Repository, actor: Actor, now: datetime, *, chain: AuditChain, window_of: WindowOf
    ) -> None:
        self.repository = repository
        self.actor = actor
        self.now = now
        self.told: list[tuple[Kind, str, str]] = []
        self._chain = chain
        self._window_of = window_of

    @property
    def author(self) -> str:
        """Who is named in the rows: the user, where the key has one."""
        principal = self.actor.principal
        return principal.user_id or str(principal.key_id)

    async def tenant_for(self, wanted: str | None) -> Tenant:
        """Return the tenant that something is to be made in, and keep it from changing."""
        own = str(self.actor.principal.tenant_id)
        tenant_id = wanted or own
        tenant = await self.repository.lock_tenant(tenant_id) if self._may_know(tenant_id) else None
        if tenant is None or tenant.deleted_at is not None:
            raise no_such("tenant", tenant_id, param="tenant_id")
        return tenant

    async def read(self, kind: ResourceKind, object_id: str, *, deleted: bool = False) -> Row:
        """Return an object as it is. Raises ``NotFound``."""
        tenant_id = await self._tenant_of(kind, object_id)
        row = await self.repository.find(kind, tenant_id, object_id, deleted=deleted)
        if row is None:
            raise no_such(kind.value, object_id)
        return row

    async def open(self, kind: ResourceKind, object_id: str, *, deleted: bool = False) -> Row:
        """Return an object, and keep its whole tenant from changing until this is done. Raises ``NotFound``."""
        tenant_id = await self._tenant_of(kind, object_id)
        await self.repository.lock_tenant(tenant_id)
        row = await self.repository.find(kind, tenant_id, object_id, deleted=deleted, lock=True)
        if row is None:
            raise no_such(kind.value, object_id)
        return row

    async def owner(self, kind: ResourceKind, tenant_id: str, object_id: str | None, *, param: str) -> Row | None:
        """Return the living object that a field names, ``None`` where it names none. Raises ``NotFound``."""
        if object_id is None:
            return None
        row = await self.repository.find(kind, tenant_id, object_id)
        if row is None:
            raise no_such(kind.value, object_id, param=param)
        return row

    async def target(self, kind: ResourceKind, row: Row) -> Target:
        """Return what the rights to ``row`` depend on."""
        if isinstance(row, User):
            teams = (await self.repository.teams_of([row.tenant_id], [row.id])).get(row.id, {})
            return Target(kind=kind, id=row.id, teams=frozenset(teams), role=Role(row.role))
        if isinstance(row, ApiKey):
            return await self.key_target(row.id, row.tenant_id, row.team_id, row.user_id, row.admin_role)
        return Target(kind=kind, id=row.id)

    async def key_target(
        self, key_id: str, tenant_id: str, team_id: str | None, user_id: str | None, admin_role: str | None
    ) -> Target:
        """Return what the rights to a key depend on: above all what its bearer may do."""
        roles, teams = [Role(admin_role or Role.MEMBER)], dict[str, str]()
        if user_id is not None:
            user = await self.repository.find(ResourceKind.USER, tenant_id, user_id, deleted=True)
            roles.append(Role(cast(User, user).role))
            teams = (await self.repository.teams_of([tenant_id], [user_id])).get(user_id, {})
        return Target(
            kind=ResourceKind.KEY,
            id=key_id,
            team_id=team_id,
            user_id=user_id,
            role=min(roles, key=_FROM_THE_TOP.index),
            admin_teams=frozenset(team for team, role in teams.items() if role == "admin"),
        )

    async def offer(self, key: ApiKey, changes: Mapping[str, Any]) -> Offer:
        """Return what a key would allow with ``changes``."""
        budgets = await self.repository.budgets([key.tenant_id], [ResourceKind.KEY.value], [key.id])
        fields = {name: getattr(key, name) for name in ("models", "allowed_routes", "scopes", "expires_at", "limits")}
        fields["budgets"] = [{"period": budget.period, "limit_nano": budget.limit_nano} for budget in budgets]
        owners = [
            await self.repository.find(kind, key.tenant_id, owner_id, deleted=True)
            for kind, owner_id in (
                (ResourceKind.USER, key.user_id),
                (ResourceKind.TEAM, key.team_id),
                (ResourceKind.TENANT, key.tenant_id),
            )
            if owner_id is not None
        ]
        return offer_of({**fields, **changes}, owners)

    async def grantor(self) -> str | None:
        """Return the key that a new one is made with; ``None`` for the admin key, which is no row.

        Raises :class:`ExceedsGrantor` where too many keys stand above it.
        """
        key_id = self.actor.principal.key_id
        if key_id == ADMIN_PRINCIPAL.key_id:
            return None
        if len(await self.repository.line(str(key_id))) > MAX_GRANTORS:
            raise ExceedsGrantor(f"At most {MAX_GRANTORS} keys may stand above a key: make it with one further up.")
        return str(key_id)

    async def hand_over(self, key: ApiKey) -> None:
        """Let a key stand under the one whose bearer learns its secret now, unless it does already.

        Raises :class:`ExceedsGrantor` for one that stands above that: what it is held to would have no end.
        """
        own = self.actor.principal.key_id
        if own == ADMIN_PRINCIPAL.key_id or str(own) in await self.repository.line(key.id):
            return
        if key.id in await self.repository.line(str(own)):
            raise ExceedsGrantor("A key does not rotate one that stands above it: rotate it with one further up.")
        key.granted_by = await self.grantor()

    async def shown(self, kind: ResourceKind, row: Row) -> dict[str, Any]:
        """Return an object as it is shown."""
        return (await show(self.repository, kind, [row], window_of=self._window_of, now=self.now))[0]

    async def finish(
        self, action: str, kind: ResourceKind, row: Row, before: dict[str, Any], *, always: bool = False
    ) -> dict[str, Any]:
        """Write a changed object down; return it as it is shown. Without a difference nothing happened."""
        await self.repository.flush()
        after = await self.shown(kind, row)
        old, new = recorded(before), recorded(after)
        if old == new and not always:
            return before
        row.version += 1
        row.updated_at, row.updated_by = self.now, self.author
        await self.repository.flush()
        if action == "deleted":
            await self.record(action, kind, row, old, None)
        else:
            await self.record(action, kind, row, *difference(old, new))
        bookkeeping = {"version": row.version, "updated_at": moment(self.now), "updated_by": self.author}
        return {**after, **bookkeeping}

    async def record(
        self,
        action: str,
        kind: ResourceKind,
        row: Row,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        *,
        concerns: tuple[Kind, str] | None = None,
    ) -> None:
        """Add an entry to the audit log, and tell of the change: of another object where it ``concerns`` that."""
        await self.write(action, kind.value, row.id, before, after, tenant_id=tenant_of(row))
        await self._tell(*(concerns or (kind.value, row.id)), tenant_of(row))

    async def write(
        self,
        action: str,
        object_kind: str,
        object_id: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        *,
        tenant_id: str,
    ) -> None:
        """Add an entry to the audit log of a tenant, whose lock this holds."""
        principal = self.actor.principal
        before_text, after_text, previous = await self.repository.as_written(tenant_id, before, after)
        change = Change(
            tenant_id=tenant_id,
            at=self.now,
            actor_key=str(principal.key_id),
            actor_user=principal.user_id,
            action=action,
            object_kind=object_kind,
            object_id=object_id,
            before=before_text,
            after=after_text,
            request_id=self.actor.request_id,
        )
        plain = {name: getattr(change, name) for name in ("tenant_id", "at", "actor_key", "actor_user", "action")}
        entry = AuditEntry(**plain, object_kind=object_kind, object_id=object_id, request_id=change.request_id)
        entry.before, entry.after = cast(Any, before), cast(Any, after)
        entry.previous_hash, entry.hash = previous, self._chain.link(change, previous)
        self.repository.add(entry)
        await self.repository.flush()

    async def _tell(self, kind: Kind, object_id: str, tenant_id: str) -> None:
        await self.repository.notify(POSTGRES_CHANNEL, notice(kind, object_id, tenant_id))
        self.told.append((kind, object_id, tenant_id))

    async def _tenant_of(self, kind: ResourceKind, object_id: str) -> str:
        principal = self.actor.principal
        if principal.role is Role.PLATFORM_ADMIN:
            tenant_id = await self.repository.tenant_of(kind, object_id)
        else:
            tenant_id = str(principal.tenant_id)
        if tenant_id is None or (kind is ResourceKind.TENANT and object_id != tenant_id):
            raise no_such(kind.value, object_id)
        return tenant_id

    def _may_know(self, tenant_id: str) -> bool:
        principal = self.actor.principal
        return principal.role is Role.PLATFORM_ADMIN or tenant_id == principal.tenant_id
