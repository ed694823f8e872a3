"""Objects as they are shown: JSON without anything that could be used as a key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hx_gateway.db.models.audit import AuditEntry
from hx_gateway.db.models.budgets import BudgetRow
from hx_gateway.db.models.keys import ApiKey
from hx_gateway.db.models.teams import Membership, Team
from hx_gateway.db.models.tenants import Tenant
from hx_gateway.db.models.users import User
from hx_gateway.kit.money import nano_to_usd

Row = Tenant | Team | User | ApiKey


@dataclass(frozen=True, slots=True)
class Spent:
    """How a budget stands in its current window, in nano-dollars, and when that ends (``None``: never)."""

    posted_nano: int = 0
    reserved_nano: int = 0
    ends: datetime | None = None


def moment(value: datetime | None) -> str | None:
    """Return a time as it is written in answers: ISO 8601 in UTC."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def shown_budget(row: BudgetRow, spent: Spent) -> dict[str, Any]:
    """Return a budget, with the model that it is for where there is one."""
    shown = {
        "id": row.id,
        "limit_usd": nano_to_usd(row.limit_nano),
        "soft_usd": None if row.soft_nano is None else nano_to_usd(row.soft_nano),
        "period": row.period,
        "spent_usd": nano_to_usd(spent.posted_nano),
        "reserved_usd": nano_to_usd(spent.reserved_nano),
        "resets_at": moment(spent.ends),
    }
    return shown if row.model is None else {**shown, "model": row.model}


def shown(
    row: Row,
    budgets: Iterable[tuple[BudgetRow, Spent]],
    *,
    teams: Mapping[str, str] | None = None,
    granted_by: str | None = None,
    now: datetime,
) -> dict[str, Any]:
    """Return an object. ``teams``: a user's roles by team; ``granted_by``: a key's grantor, where it may be known."""
    common = {
        "id": row.id,
        "name": row.name,
        "models": row.models,
        "limits": row.limits,
        "budgets": [shown_budget(budget, spent) for budget, spent in budgets],
        "blocked": row.blocked,
        "metadata": row.details,
        "tags": row.tags,
        "created_at": moment(row.created_at),
        "updated_at": moment(row.updated_at),
        "created_by": row.created_by,
        "updated_by": row.updated_by,
        "deleted_at": moment(row.deleted_at),
        "version": row.version,
    }
    match row:
        case Tenant():
            return {**common, "time_zone": row.time_zone, "model_limits": row.model_limits}
        case Team():
            return {**common, "tenant_id": row.tenant_id}
        case User():
            return {**common, **_of_user(row, teams or {})}
        case ApiKey():
            return {**common, **_of_key(row, now), "granted_by": granted_by}


def _of_user(user: User, teams: Mapping[str, str]) -> dict[str, Any]:
    memberships = [{"team_id": team_id, "role": role} for team_id, role in sorted(teams.items())]
    return {"tenant_id": user.tenant_id, "email": user.email, "role": user.role, "teams": memberships}


def _of_key(key: ApiKey, now: datetime) -> dict[str, Any]:
    until = key.previous_expires_at
    return {
        "tenant_id": key.tenant_id,
        "team_id": key.team_id,
        "user_id": key.user_id,
        "prefix": key.prefix,
        "last_four": key.last_four,
        "aliases": key.aliases,
        "allowed_routes": key.allowed_routes,
        "scopes": key.scopes,
        "admin_role": key.admin_role,
        "expires_at": moment(key.expires_at),
        "cache": key.cache,
        "rotates_until": moment(until) if until is not None and until > now else None,
    }


def shown_member(membership: Membership, user: User) -> dict[str, Any]:
    """Return a user of a team."""
    return {
        "team_id": membership.team_id,
        "user_id": membership.user_id,
        "role": membership.role,
        "name": user.name,
        "email": user.email,
        "created_at": moment(membership.created_at),
    }


def shown_entry(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry of the audit log."""
    names = ("id", "tenant_id", "actor_key", "actor_user", "action", "object_kind", "object_id", "before", "after")
    plain = {name: getattr(entry, name) for name in names}
    return {**plain, "at": moment(entry.at), "request_id": entry.request_id, "hash": entry.hash.hex()}
