"""The bodies and parameters of the admin API."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictInt, field_validator
from pydantic_core.core_schema import ValidationInfo

from hx_gateway.access.cursors import MAX_CURSOR_CHARS
from hx_gateway.access.resources import MAX_PAGE, ListQuery
from hx_gateway.admin.fields import (
    MAX_GRACE_SECONDS,
    AdminRole,
    Aliases,
    AuditAction,
    BudgetIn,
    Budgets,
    CacheIn,
    Email,
    Glob,
    LifeSeconds,
    Limits,
    MemberRole,
    Metadata,
    ModelLimits,
    Models,
    Moment,
    Name,
    ObjectId,
    Routes,
    Scopes,
    Tag,
    Tags,
    TenantBudgets,
    TenantSlug,
    TimeZone,
    UserRole,
)
from hx_gateway.http.strict_models import Strict, optional

DEFAULT_PAGE = 50


class Fields(Strict):
    """A body. ``null`` is a value; what is left out stays as it is, or takes the default of a new object."""

    name: Name = optional()
    models: Models | None = optional()
    limits: Limits = optional(description="All of them: what is left out is not limited.")
    metadata: Metadata = optional()
    tags: Tags = optional()

    def values(self) -> dict[str, Any]:
        """Return what was sent, as plain values: money in nano-dollars, times aware."""
        return {name: _plain(value) for name, value in self.given().items()}


class TenantPatch(Fields):
    """What of a tenant may change. ``budgets`` replaces the list; one of the same period and model goes on."""

    time_zone: TimeZone = optional()
    model_limits: ModelLimits = optional()
    budgets: TenantBudgets = optional()
    blocked: StrictBool = optional()


class TenantCreate(TenantPatch):
    """A new tenant. Without an ``id`` it is given one."""

    id: TenantSlug = optional()
    name: Name


class TeamPatch(Fields):
    """What of a team may change."""

    budgets: Budgets = optional()
    blocked: StrictBool = optional()


class TeamCreate(TeamPatch):
    """A new team. ``tenant_id``: of a platform admin only, else it is the caller's."""

    tenant_id: TenantSlug = optional()
    name: Name


class UserPatch(Fields):
    """What of a user may change."""

    email: Email | None = optional()
    role: UserRole = optional(description="`member` unless given.")
    budgets: Budgets = optional()
    blocked: StrictBool = optional()


class UserCreate(UserPatch):
    """A new user."""

    tenant_id: TenantSlug = optional()
    name: Name


class KeyPatch(Fields):
    """What of a key may change. Its secret changes by ``rotate``, whether it is blocked by ``block``."""

    budgets: Budgets = optional()
    aliases: Aliases = optional()
    allowed_routes: Routes | None = optional()
    scopes: Scopes = optional()
    cache: CacheIn | None = optional()
    expires_at: Moment | None = optional()
    expires_in: LifeSeconds = optional()

    @field_validator("expires_in")
    @classmethod
    def _one_end(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("expires_at") is not None:
            raise ValueError("must not stand beside expires_at")
        return value


Sha256 = Annotated[
    str,
    Field(
        pattern=r"^[0-9a-f]{64}$",
        description="Of a platform admin: takes over a key of which only the SHA-256 is known, in hexadecimal digits.",
    ),
]
LastFour = Annotated[
    str, Field(pattern=r"^[ -~]{0,4}$", description="The end of a key that is taken over, to recognise it by.")
]


class KeyCreate(KeyPatch):
    """A new key: of a team, of a user, or of the tenant itself."""

    tenant_id: TenantSlug = optional()
    team_id: ObjectId | None = optional(examples=["tm-madeupmadeup2222"])
    user_id: ObjectId | None = optional(examples=["us-madeupmadeup2222"])
    admin_role: AdminRole | None = optional(description="Makes it a key of an administrator.")
    imported_sha256: Sha256 = optional()
    last_four: LastFour = optional()
    name: Name

    @field_validator("last_four")
    @classmethod
    def _end_of_an_import(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("imported_sha256") is None:
            raise ValueError("needs imported_sha256 beside it")
        return value


class Rotation(Strict):
    """How a key's secret is replaced."""

    grace_seconds: Annotated[StrictInt, Field(ge=0, le=MAX_GRACE_SECONDS)] = Field(
        0, description="How long the former secret goes on working beside the new one."
    )


class Membership(Strict):
    """What a user is in a team."""

    role: MemberRole


Sort = Literal["created_at", "-created_at", "updated_at", "-updated_at", "name", "-name"]
KeySort = Literal[
    "created_at", "-created_at", "updated_at", "-updated_at", "name", "-name", "expires_at", "-expires_at"
]
Cursor = Annotated[str, Field(min_length=1, max_length=MAX_CURSOR_CHARS, pattern=r"^[A-Za-z0-9_=.-]+$")]


class PageParameters(Strict):
    """Which part of a list: ``cursor`` is the ``next_cursor`` of the page before."""

    cursor: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    tenant_id: TenantSlug | None = Field(None, description="One tenant's only. Others than one's own: platform admins.")

    def query(self) -> ListQuery:
        """Return what the directory is asked."""
        given = {name: getattr(self, name) for name in sorted(type(self).model_fields.keys() - _PAGING)}
        return ListQuery(
            filters={name: _filter(value) for name, value in given.items() if value is not None},
            sort=getattr(self, "sort", "-created_at"),
            cursor=self.cursor,
            limit=self.limit,
            include_deleted=getattr(self, "include_deleted", False),
        )


_PAGING = frozenset({"sort", "cursor", "limit", "include_deleted"})


class Filters(PageParameters):
    """Parameters of every list of objects."""

    include_deleted: bool = Field(False, description="Deleted ones too, as long as they can be restored.")
    name: Name | None = Field(None, description="Those with this in their name.")
    blocked: bool | None = None
    tag: Tag | None = Field(None, description="Those that carry this tag.")
    model: Glob | None = Field(None, description="Those whose list of models holds this, as it is written there.")


class ListParameters(Filters):
    """Parameters of the lists of tenants and of teams."""

    sort: Sort = "-created_at"


class UserList(ListParameters):
    """Parameters of the list of users."""

    email: Email | None = None
    role: UserRole | None = None
    team_id: ObjectId | None = None


class KeyList(Filters):
    """Parameters of the list of keys."""

    sort: KeySort = "-created_at"
    role: AdminRole | None = Field(None, description="Those of administrators, by their ``admin_role``.")
    team_id: ObjectId | None = None
    user_id: ObjectId | None = None


class AuditList(PageParameters):
    """Parameters of the audit log, newest first."""

    action: AuditAction | None = None
    object_kind: str | None = Field(None, pattern=r"^[a-z_]{1,32}$")
    object_id: ObjectId | None = None
    actor_key: ObjectId | None = None


def _filter(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Limits | CacheIn):
        return value.model_dump(exclude_none=True)
    if isinstance(value, BudgetIn):
        return _budget(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    return value


def _budget(budget: BudgetIn) -> dict[str, Any]:
    plain = {"limit_nano": budget.limit_usd, "soft_nano": budget.soft_usd, "period": budget.period}
    return {**plain, "model": getattr(budget, "model", None)}
