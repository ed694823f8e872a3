"""From the fields of a request to rows: which fields an object has, and what they are where nobody says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from hx_gateway.access.budget_lists import amounts
from hx_gateway.access.errors import InvalidField
from hx_gateway.access.grants import Offer
from hx_gateway.access.key_format import MintedKey
from hx_gateway.access.object_ids import new_id
from hx_gateway.access.resources import ResourceKind
from hx_gateway.access.views import Row
from hx_gateway.db.models.keys import ApiKey
from hx_gateway.db.models.teams import Team
from hx_gateway.db.models.tenants import Tenant
from hx_gateway.db.models.users import User

_COMMON = frozenset({"name", "models", "limits", "metadata", "tags", "budgets"})
FIELDS: Mapping[ResourceKind, frozenset[str]] = {
    ResourceKind.TENANT: _COMMON | {"blocked", "time_zone", "model_limits"},
    ResourceKind.TEAM: _COMMON | {"blocked"},
    ResourceKind.USER: _COMMON | {"blocked", "email", "role"},
    ResourceKind.KEY: _COMMON | {"aliases", "allowed_routes", "scopes", "expires_at", "expires_in", "cache"},
}
FIRST_FIELDS: Mapping[ResourceKind, frozenset[str]] = {
    ResourceKind.TENANT: frozenset({"id"}),
    ResourceKind.TEAM: frozenset({"tenant_id"}),
    ResourceKind.USER: frozenset({"tenant_id"}),
    ResourceKind.KEY: frozenset({"tenant_id", "team_id", "user_id", "admin_role", "imported_sha256", "last_four"}),
}
# What only a key has that is taken over from elsewhere.
IMPORT_FIELDS = frozenset({"imported_sha256", "last_four"})
# How every key of LiteLLM's begins.
IMPORTED_PREFIX = "sk-"
_PREFIXES = {ResourceKind.TENANT: "tn", ResourceKind.TEAM: "tm", ResourceKind.USER: "us"}
# What is kept elsewhere, or under another name.
_NOT_COLUMNS = IMPORT_FIELDS | {"budgets", "expires_in", "metadata", "tenant_id", "id"}


def checked(kind: ResourceKind, fields: Mapping[str, Any], *, first: bool = False) -> None:
    """Raise :class:`InvalidField` for a field that an object of ``kind`` does not have, or that cannot change."""
    allowed = FIELDS[kind] | FIRST_FIELDS[kind] if first else FIELDS[kind]
    for name in fields:
        if name not in allowed:
            raise InvalidField(f"{name}: not a field that can be set here.", param=name)


def settled(fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return ``fields`` with ``expires_in`` (seconds) as ``expires_at``."""
    given = dict(fields)
    seconds = given.pop("expires_in", None)
    return given if seconds is None else {**given, "expires_at": now + timedelta(seconds=seconds)}


def set_fields(row: Row, fields: Mapping[str, Any]) -> None:
    """Put what was sent into the row."""
    for name, value in fields.items():
        if name not in _NOT_COLUMNS:
            setattr(row, name, value)
    if "metadata" in fields:
        row.details = fields["metadata"]


def draft(kind: ResourceKind, tenant_id: str, fields: Mapping[str, Any], *, author: str, now: datetime) -> Row:
    """Return the row of a new tenant, team or user."""
    kept = {"created_at": now, "updated_at": now, "created_by": author, "updated_by": author}
    row: Row
    match kind:
        case ResourceKind.TENANT:
            row = Tenant(id=tenant_id, **kept)
        case ResourceKind.TEAM:
            row = Team(id=new_id(_PREFIXES[kind]), tenant_id=tenant_id, **kept)
        case _:
            row = User(id=new_id(_PREFIXES[kind]), tenant_id=tenant_id, **kept)
    set_fields(row, fields)
    return row


def draft_key(
    tenant_id: str,
    fields: Mapping[str, Any],
    minted: MintedKey,
    digest: tuple[str, bytes],
    *,
    author: str,
    now: datetime,
) -> ApiKey:
    """Return the row of a new key."""
    kept = {"created_at": now, "updated_at": now, "created_by": author, "updated_by": author}
    row = ApiKey(id=minted.id, tenant_id=tenant_id, prefix=minted.prefix, last_four=minted.last_four, **kept)
    row.pepper_id, row.digest = digest
    set_fields(row, fields)
    return row


def draft_imported_key(tenant_id: str, fields: Mapping[str, Any], key_id: str, *, author: str, now: datetime) -> ApiKey:
    """Return the row of a key whose text nobody here knows: the first use of it makes its digest."""
    kept = {"created_at": now, "updated_at": now, "created_by": author, "updated_by": author}
    shown = {"prefix": IMPORTED_PREFIX, "last_four": fields.get("last_four", "")}
    row = ApiKey(id=key_id, tenant_id=tenant_id, **shown, **kept)
    row.imported_sha256 = bytes.fromhex(fields["imported_sha256"])
    set_fields(row, fields)
    return row


def new_tenant_id(fields: Mapping[str, Any]) -> str:
    """Return the id that was asked for, or a new one."""
    return str(fields.get("id") or new_id(_PREFIXES[ResourceKind.TENANT]))


def offer_of(fields: Mapping[str, Any], owners: Iterable[Row | None]) -> Offer:
    """Return what a key with these fields would allow, as one of ``owners``: its user, team and tenant."""
    lists = [fields.get("models"), *(owner.models for owner in owners if owner is not None)]
    return Offer(
        scopes=fields.get("scopes") or (),
        models=[globs for globs in lists if globs is not None],
        allowed_routes=fields.get("allowed_routes"),
        expires_at=fields.get("expires_at"),
        limits=fields.get("limits") or {},
        budgets=amounts(fields.get("budgets") or ()),
    )
