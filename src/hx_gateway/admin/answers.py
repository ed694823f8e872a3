"""What the admin API shows: only these fields ever leave it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from hx_gateway.admin.fields import AdminRole, BudgetPeriod, MemberRole, UserRole

T = TypeVar("T")

_MADE_UP = "made up"
_BOOKKEEPING: dict[str, Any] = {
    "created_at": "2026-11-24T09:00:00Z",
    "updated_at": "2026-11-24T09:00:00Z",
    "created_by": "admin",
    "updated_by": "admin",
    "deleted_at": None,
    "version": 1,
}
_BUDGET: dict[str, Any] = {
    "id": "bg-madeupmadeup2222",
    "limit_usd": 100,
    "soft_usd": 80,
    "period": "month",
    "spent_usd": 12.345678,
    "reserved_usd": 0.002,
    "resets_at": "2026-12-01T00:00:00Z",
}
_COMMON: dict[str, Any] = {
    "models": ["gpt-4o*"],
    "limits": {"rpm": 60, "tpm": 100000},
    "budgets": [_BUDGET],
    "blocked": False,
    "metadata": {"note": "every value here is made up"},
    "tags": [_MADE_UP],
    **_BOOKKEEPING,
}
TENANT_EXAMPLE = {
    "id": "acme",
    "name": "Acme",
    "time_zone": "Europe/Berlin",
    "model_limits": {"gpt-4o": {"rpm": 600}},
    **_COMMON,
}
TEAM_EXAMPLE = {"id": "tm-madeupmadeup2222", "tenant_id": "acme", "name": "Checkout", **_COMMON}
USER_EXAMPLE = {
    "id": "us-madeupmadeup2222",
    "tenant_id": "acme",
    "email": "ada@example.org",
    "name": "Ada",
    "role": "member",
    "teams": [{"team_id": "tm-madeupmadeup2222", "role": "admin"}],
    **_COMMON,
}
KEY_EXAMPLE = {
    "id": "madeUpKeyId1",
    "tenant_id": "acme",
    "team_id": "tm-madeupmadeup2222",
    "user_id": None,
    "granted_by": "madeUpKeyId0",
    "name": "Checkout, production",
    "prefix": "sk-hx-madeUpKeyId1",
    "last_four": "0000",
    "aliases": {"fast": "gpt-4o-mini"},
    "allowed_routes": None,
    "scopes": ["models"],
    "admin_role": None,
    "cache": {"mode": "exact", "ttl_seconds": 600, "scope": "team"},
    "expires_at": "2027-11-24T09:00:00Z",
    "rotates_until": None,
    **_COMMON,
}
SECRET_EXAMPLE = {**KEY_EXAMPLE, "key": "<shown here, once>"}
AUDIT_EXAMPLE = {
    "id": 17,
    "tenant_id": "acme",
    "at": "2026-11-24T09:00:00Z",
    "actor_key": "admin",
    "actor_user": None,
    "action": "updated",
    "object_kind": "key",
    "object_id": "madeUpKeyId1",
    "before": {"name": "Checkout"},
    "after": {"name": "Checkout, production"},
    "request_id": "req_made_up",
    "hash": "00" * 32,
}


def _example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class ShownLimits(TypedDict, total=False):
    """Limits; what is absent is not limited."""

    rpm: int
    tpm: int
    max_parallel: int
    burst: int


class ShownCache(TypedDict, total=False):
    """What a key says of the response cache; of what is absent it says nothing."""

    mode: Literal["off", "ask", "exact", "meaning"]
    ttl_seconds: int
    scope: Literal["tenant", "team", "user", "key"]


class ShownBudget(BaseModel):
    """A budget and how it stands, in dollars. ``resets_at``: when its period ends."""

    id: str
    limit_usd: float
    soft_usd: float | None = None
    period: BudgetPeriod
    model: str | None = None
    spent_usd: float = 0
    reserved_usd: float = 0
    resets_at: datetime | None = None


class Shown(BaseModel):
    """What every object has."""

    id: str
    name: str
    models: list[str] | None = None
    limits: ShownLimits = {}
    budgets: list[ShownBudget] = []
    blocked: bool = False
    metadata: dict[str, Any] = {}
    tags: list[str] = []
    created_at: datetime
    updated_at: datetime
    created_by: str | None = None
    updated_by: str | None = None
    deleted_at: datetime | None = None
    version: int


class Tenant(Shown):
    """A tenant."""

    model_config = _example(TENANT_EXAMPLE)

    time_zone: str
    model_limits: dict[str, ShownLimits] = {}


class Team(Shown):
    """A team of a tenant."""

    model_config = _example(TEAM_EXAMPLE)

    tenant_id: str


class TeamOfUser(BaseModel):
    """A team that a user is in."""

    team_id: str
    role: MemberRole


class User(Shown):
    """A user of a tenant."""

    model_config = _example(USER_EXAMPLE)

    tenant_id: str
    email: str | None = None
    role: UserRole
    teams: list[TeamOfUser] = []


class Key(Shown):
    """A key without its secret.

    ``granted_by``: the key that it was made with, and is held to. ``rotates_until``: until when the secret before the
    last rotation works too.
    """

    model_config = _example(KEY_EXAMPLE)

    tenant_id: str
    team_id: str | None = None
    user_id: str | None = None
    granted_by: str | None = None
    prefix: str
    last_four: str
    aliases: dict[str, str] = {}
    allowed_routes: list[str] | None = None
    scopes: list[str] = []
    admin_role: AdminRole | None = None
    cache: ShownCache | None = None
    expires_at: datetime | None = None
    rotates_until: datetime | None = None


class KeyWithSecret(Key):
    """A key with its secret, which is shown in this answer only."""

    model_config = _example(SECRET_EXAMPLE)

    key: str | None = Field(None, description="The secret. `null` where a creation is replayed or a key is taken over.")


class Member(BaseModel):
    """A user of a team."""

    model_config = _example(
        {
            "team_id": "tm-madeupmadeup2222",
            "user_id": "us-madeupmadeup2222",
            "role": "member",
            "name": "Ada",
            "email": "ada@example.org",
            "created_at": "2026-11-24T09:00:00Z",
        }
    )

    team_id: str
    user_id: str
    role: MemberRole
    name: str | None = None
    email: str | None = None
    created_at: datetime | None = None


class AuditEntry(BaseModel):
    """A change: who made it, and what was there before and after. Never a secret. ``hash`` links it to those before."""

    model_config = _example(AUDIT_EXAMPLE)

    id: int
    tenant_id: str
    at: datetime
    actor_key: str
    actor_user: str | None = None
    action: str
    object_kind: str
    object_id: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    request_id: str | None = None
    hash: str


class AuditCheck(BaseModel):
    """How many entries of a tenant's log follow from each other, and the first that does not (``null``: all do)."""

    tenant_id: str
    entries: int
    broken_at: int | None


class ListOf(BaseModel, Generic[T]):
    """A page of a list. ``next_cursor`` is ``null`` on the last."""

    object: Literal["list"] = "list"
    data: list[T]
    next_cursor: str | None = None
