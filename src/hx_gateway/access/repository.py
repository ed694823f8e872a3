"""The SQL of the directory. Every statement about a tenant's objects starts from the tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    and_,
    column,
    delete,
    exists,
    func,
    literal,
    literal_column,
    null,
    select,
    table,
    text,
    tuple_,
)
from sqlalchemy import (
    cast as sql_cast,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from hx_gateway.access.audit import Chained, Change
from hx_gateway.access.cursors import Position
from hx_gateway.access.errors import Conflict
from hx_gateway.access.grants import Sight
from hx_gateway.access.resources import ResourceKind
from hx_gateway.access.views import Row
from hx_gateway.db.models.audit import AuditEntry, IdempotencyKey
from hx_gateway.db.models.base import JSON_OBJECT
from hx_gateway.db.models.budgets import BudgetRow
from hx_gateway.db.models.keys import ApiKey
from hx_gateway.db.models.teams import Membership, Team
from hx_gateway.db.models.tenants import Tenant
from hx_gateway.db.models.users import User
from hx_gateway.db.schemas import GATEWAY_SCHEMA
from hx_gateway.kit.epochs import from_unix_us, unix_us

CHECK_ROWS = 1000
FORGOTTEN_AT_ONCE = 100
_MODELS: Mapping[ResourceKind, type[Row]] = {
    ResourceKind.TENANT: Tenant,
    ResourceKind.TEAM: Team,
    ResourceKind.USER: User,
    ResourceKind.KEY: ApiKey,
}
_WINDOWS = table(
    "budget_windows",
    column("budget_id"),
    column("window_id"),
    column("posted_nano"),
    column("reserved_nano"),
    schema=GATEWAY_SCHEMA,
)
# What is taken already, by the index that says so.
_TAKEN = {
    "tenants_pkey": ("id", "A tenant with this id exists already, or did: choose another."),
    "teams_by_name": ("name", "A team with this name exists already: choose another."),
    "users_by_email": ("email", "A user with this address exists already."),
}
_TIMES = ("created_at", "updated_at", "expires_at")
_FOREVER: ColumnElement[Any] = literal_column("'infinity'::timestamptz")
_NOTIFY = text("SELECT pg_notify(:channel, :payload)")
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))")


class Repository:
    """The directory's rows in one transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def tenant_of(self, kind: ResourceKind, object_id: str) -> str | None:
        """Return whose an object is, for those who may ask about every tenant's."""
        model = _MODELS[kind]
        tenant = model.id if model is Tenant else cast(Any, model).tenant_id
        found: str | None = await self._session.scalar(select(tenant).where(model.id == object_id))
        return found

    async def has_tenant(self, tenant_id: str) -> bool:
        """Return whether there is a tenant, deleted or not."""
        return await self._session.scalar(select(Tenant.id).where(Tenant.id == tenant_id)) is not None

    async def lock_tenant(self, tenant_id: str) -> Tenant | None:
        """Return a tenant, also a deleted one, and let nobody else change anything of it until the end."""
        query = select(Tenant).where(Tenant.id == tenant_id).with_for_update(key_share=True)
        found: Tenant | None = await self._session.scalar(query)
        return found

    async def find(
        self, kind: ResourceKind, tenant_id: str, object_id: str, *, deleted: bool = False, lock: bool = False
    ) -> Row | None:
        """Return an object of a tenant; with ``deleted`` also one that is, or that belongs to one that is."""
        model = _MODELS[kind]
        query = select(model).where(_of_tenant(model, tenant_id), model.id == object_id)
        if not deleted:
            query = query.where(_living(model))
        if lock:
            query = query.with_for_update(key_share=True)
        found: Row | None = await self._session.scalar(query.execution_options(populate_existing=True))
        return found

    async def page(
        self,
        kind: ResourceKind,
        sight: Sight,
        filters: Mapping[str, str],
        *,
        sort: str,
        after: Position | None,
        limit: int,
        include_deleted: bool,
    ) -> list[Row]:
        """Return objects in order. ``filters`` and ``sort`` are those that :mod:`~hx_gateway.access.lists` knows."""
        model = _MODELS[kind]
        query: Select[Any] = select(model)
        if sight.tenant_id is not None:
            query = query.where(_of_tenant(model, sight.tenant_id))
        if sight.teams is not None:
            query = query.where(_in_teams(model, sight.teams))
        if not include_deleted:
            query = query.where(_living(model))
        query = query.where(*(_filter(model, name, value) for name, value in filters.items()))
        return list((await self._session.scalars(_ordered(query, model, sort, after).limit(limit))).all())

    def add(self, row: object) -> None:
        """Add a row with the next :meth:`flush`."""
        self._session.add(row)

    async def flush(self) -> None:
        """Write what was changed. Raises :class:`Conflict` for what is taken already."""
        try:
            await self._session.flush()
        except IntegrityError as error:
            cause = error.orig.__cause__ if error.orig is not None else None
            taken = _TAKEN.get(getattr(cause, "constraint_name", None) or "")
            if taken is None:
                raise
            raise Conflict(taken[1], param=taken[0]) from error

    async def time_zones(self, tenant_ids: Collection[str]) -> dict[str, str]:
        """Return the time zones of tenants."""
        rows = await self._session.execute(select(Tenant.id, Tenant.time_zone).where(Tenant.id.in_(tenant_ids)))
        return {row.id: row.time_zone for row in rows}

    async def budgets(
        self, tenant_ids: Collection[str], kinds: Collection[str], owner_ids: Collection[str]
    ) -> list[BudgetRow]:
        """Return the living budgets of owners, in a stable order."""
        query = select(BudgetRow).where(
            BudgetRow.tenant_id.in_(tenant_ids),
            BudgetRow.owner_kind.in_(kinds),
            BudgetRow.owner_id.in_(owner_ids),
            BudgetRow.deleted_at.is_(None),
        )
        return list((await self._session.scalars(query.order_by(BudgetRow.created_at, BudgetRow.id))).all())

    async def spent(self, windows: Collection[tuple[str, str]]) -> dict[str, tuple[int, int]]:
        """Return what is posted and reserved in windows (a budget's id, a window's), by budget, where anything is."""
        if not windows:
            return {}
        query = select(_WINDOWS.c.budget_id, _WINDOWS.c.posted_nano, _WINDOWS.c.reserved_nano)
        query = query.where(tuple_(_WINDOWS.c.budget_id, _WINDOWS.c.window_id).in_(list(windows)))
        return {budget_id: (posted, reserved) for budget_id, posted, reserved in await self._session.execute(query)}

    async def teams_of(self, tenant_ids: Collection[str], user_ids: Collection[str]) -> dict[str, dict[str, str]]:
        """Return what users are in living teams: roles by team, by user."""
        query = (
            select(Membership.user_id, Membership.team_id, Membership.role)
            .join(Team, and_(Team.tenant_id == Membership.tenant_id, Team.id == Membership.team_id))
            .where(Membership.tenant_id.in_(tenant_ids), Membership.user_id.in_(user_ids), Team.deleted_at.is_(None))
        )
        found: dict[str, dict[str, str]] = {}
        for user_id, team_id, role in await self._session.execute(query):
            found.setdefault(user_id, {})[team_id] = role
        return found

    async def line(self, key_id: str) -> list[str]:
        """Return a key and those above it, as far as this transaction may see their rows."""
        columns = (ApiKey.id, ApiKey.granted_by)
        line = select(*columns).where(ApiKey.id == key_id).cte("line", recursive=True)
        line = line.union(select(*columns).join(line, ApiKey.id == line.c.granted_by))
        return list(await self._session.scalars(select(line.c.id)))

    async def grantors(self, tenant_ids: Collection[str], key_ids: Collection[str]) -> dict[str, str]:
        """Return which key each of keys was made with, where that one is of the same tenant."""
        if not key_ids:
            return {}
        grantor = aliased(ApiKey)
        same = and_(grantor.tenant_id == ApiKey.tenant_id, grantor.id == ApiKey.granted_by)
        query = select(ApiKey.id, grantor.id.label("grantor")).join(grantor, same)
        found = await self._session.execute(query.where(ApiKey.tenant_id.in_(tenant_ids), ApiKey.id.in_(key_ids)))
        return {row.id: row.grantor for row in found}

    async def members(self, tenant_id: str, team_id: str) -> Sequence[tuple[Membership, User]]:
        """Return the living users of a team, by name."""
        query = (
            select(Membership, User)
            .join(User, and_(User.tenant_id == Membership.tenant_id, User.id == Membership.user_id))
            .where(Membership.tenant_id == tenant_id, Membership.team_id == team_id, User.deleted_at.is_(None))
            .order_by(User.name, User.id)
        )
        return [(membership, user) for membership, user in await self._session.execute(query)]

    async def membership(self, tenant_id: str, team_id: str, user_id: str) -> Membership | None:
        """Return what a user is in a team."""
        query = select(Membership).where(
            Membership.tenant_id == tenant_id, Membership.team_id == team_id, Membership.user_id == user_id
        )
        found: Membership | None = await self._session.scalar(query)
        return found

    async def remove(self, membership: Membership) -> None:
        """Take a user out of a team."""
        await self._session.delete(membership)

    async def notify(self, channel: str, payload: str) -> None:
        """Tell whoever listens, when and if all this is committed."""
        await self._session.execute(_NOTIFY, {"channel": channel, "payload": payload})

    async def as_written(
        self, tenant_id: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
    ) -> tuple[str | None, str | None, bytes | None]:
        """Return two JSON objects as the database writes them, and the hash of the tenant's newest audit entry."""
        newest = select(AuditEntry.hash).where(AuditEntry.tenant_id == tenant_id).order_by(AuditEntry.id.desc())
        columns = [_as_text(before), _as_text(after), newest.limit(1).scalar_subquery()]
        row = (await self._session.execute(select(*columns))).one()
        return row[0], row[1], row[2]

    async def entries(
        self, tenant_id: str | None, filters: Mapping[str, str], *, before_id: int | None, limit: int
    ) -> list[AuditEntry]:
        """Return entries of the audit log, newest first."""
        query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        if tenant_id is not None:
            query = query.where(AuditEntry.tenant_id == tenant_id)
        if before_id is not None:
            query = query.where(AuditEntry.id < before_id)
        query = query.where(*(getattr(AuditEntry, name) == value for name, value in filters.items()))
        return list((await self._session.scalars(query)).all())

    async def chained(self, tenant_id: str, after_id: int) -> list[Chained]:
        """Return entries of a tenant, oldest first, :data:`CHECK_ROWS` at most, as they were hashed."""
        columns = [_as_hashed(field.name) for field in fields(Change)]
        query = select(AuditEntry.id, AuditEntry.previous_hash, AuditEntry.hash, *columns)
        query = query.where(AuditEntry.tenant_id == tenant_id, AuditEntry.id > after_id)
        found = await self._session.execute(query.order_by(AuditEntry.id).limit(CHECK_ROWS))
        names = [field.name for field in fields(Change)]
        return [
            Chained(row[0], Change(**dict(zip(names, row[3:], strict=True))), row[1], row[2]) for row in found.all()
        ]

    async def claim(self, name: str) -> bool:
        """Return whether nobody else is at work on ``name``, and keep others from it until the end."""
        return bool(await self._session.scalar(_TRY_LOCK, {"name": name}))

    async def answer(self, tenant_id: str, actor: str, key: str, since: datetime) -> IdempotencyKey | None:
        """Return what a request was answered, if that is not older than ``since``."""
        query = select(IdempotencyKey).where(
            IdempotencyKey.tenant_id == tenant_id,
            IdempotencyKey.actor == actor,
            IdempotencyKey.key == key,
            IdempotencyKey.created_at >= since,
        )
        found: IdempotencyKey | None = await self._session.scalar(query)
        return found

    async def keep_answer(self, values: Mapping[str, Any]) -> None:
        """Keep an answer, in place of one that is too old."""
        statement = insert(IdempotencyKey).values(**values)
        changed = {name: statement.excluded[name] for name in ("fingerprint", "status", "response", "created_at")}
        await self._session.execute(
            statement.on_conflict_do_update(index_elements=["tenant_id", "actor", "key"], set_=changed)
        )

    async def forget_answers(self, before: datetime) -> None:
        """Delete some answers of before ``before``, of those tenants whose rows this transaction may see."""
        key = (IdempotencyKey.tenant_id, IdempotencyKey.actor, IdempotencyKey.key)
        old = select(*key).where(IdempotencyKey.created_at < before).limit(FORGOTTEN_AT_ONCE)
        await self._session.execute(
            delete(IdempotencyKey)
            .where(tuple_(*key).in_(old.with_for_update(skip_locked=True)))
            .execution_options(synchronize_session=False)
        )


def notice(kind: str, object_id: str, tenant_id: str) -> str:
    """Return what is told of a change."""
    return msgspec.json.encode({"kind": kind, "id": object_id, "tenant_id": tenant_id}).decode()


def position_of(row: Row, sort: str) -> Position:
    """Return where ``row`` stands in a list that is sorted so."""
    value = getattr(row, sort.removeprefix("-"))
    return Position(unix_us(value.astimezone(UTC)) if isinstance(value, datetime) else value, row.id)


def _of_tenant(model: type[Row], tenant_id: str) -> ColumnElement[bool]:
    return (model.id if model is Tenant else cast(Any, model).tenant_id) == tenant_id


def _living(model: type[Row]) -> ColumnElement[bool]:
    """Neither deleted itself, nor anything that it belongs to."""
    own = model.deleted_at.is_(None)
    if model is Tenant:
        return own
    tenant = cast(Any, model).tenant_id
    parents = [exists().where(Tenant.id == tenant, Tenant.deleted_at.is_not(None))]
    if model is ApiKey:
        of_team, of_user = Team.id == ApiKey.team_id, User.id == ApiKey.user_id
        parents.append(exists().where(Team.tenant_id == tenant, of_team, Team.deleted_at.is_not(None)))
        parents.append(exists().where(User.tenant_id == tenant, of_user, User.deleted_at.is_not(None)))
    return and_(own, *(~dead for dead in parents))


def _in_teams(model: type[Row], teams: Iterable[str]) -> ColumnElement[bool]:
    if model is User:
        return _member_of(Membership.team_id.in_(sorted(teams)))
    return (ApiKey.team_id if model is ApiKey else model.id).in_(sorted(teams))


def _member_of(of_team: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(Membership.tenant_id == User.tenant_id, Membership.user_id == User.id, of_team)


def _filter(model: type[Row], name: str, value: str) -> ColumnElement[bool]:
    match name:
        case "tenant_id":
            return _of_tenant(model, value)
        case "name":
            return model.name.icontains(value, autoescape=True)
        case "blocked":
            return model.blocked.is_(value == "true")
        case "tag":
            return model.tags.contains([value])
        case "model":
            allowed: ColumnElement[bool] = cast(Any, model.models).contains([value])
            return allowed
        case "team_id" if model is User:
            return _member_of(Membership.team_id == value)
        case "role" if model is ApiKey:
            return ApiKey.admin_role == value
        case "email":
            return func.lower(User.email) == func.lower(value)
        case _:
            equal: ColumnElement[bool] = getattr(model, name) == value
            return equal


def _ordered(query: Select[Any], model: type[Row], sort: str, after: Position | None) -> Select[Any]:
    name = sort.removeprefix("-")
    by: ColumnElement[Any] = getattr(model, name)
    if name == "expires_at":
        by = func.coalesce(by, _FOREVER)
    down = sort.startswith("-")
    if after is not None:
        key = tuple_(by, model.id)
        last = tuple_(_sorted_value(model, name, after.value), literal(after.id))
        query = query.where(key < last if down else key > last)
    return query.order_by(*(part.desc() if down else part.asc() for part in (by, model.id)))


def _sorted_value(model: type[Row], name: str, value: str | int | None) -> ColumnElement[Any]:
    if value is None:
        return _FOREVER
    shown = from_unix_us(value) if isinstance(value, int) else value
    return literal(shown, getattr(model, name).type)


def _as_text(value: Mapping[str, Any] | None) -> ColumnElement[Any]:
    return null() if value is None else sql_cast(literal(value, JSON_OBJECT), Text)


def _as_hashed(name: str) -> ColumnElement[Any]:
    kept: ColumnElement[Any] = getattr(AuditEntry, name)
    return sql_cast(kept, Text) if name in ("before", "after") else kept
