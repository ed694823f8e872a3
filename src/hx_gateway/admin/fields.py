"""What a field of the admin API may hold: each rule says of itself what it wants."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, field_validator
from pydantic_core.core_schema import ValidationInfo

from hx_gateway.access.principal import BoundScope, Scope
from hx_gateway.allowances import MAX_PARALLEL, MAX_PER_MINUTE
from hx_gateway.cache_rules import MAX_TTL_SECONDS
from hx_gateway.http.strict_models import Strict
from hx_gateway.kit.money import MAX_USD, usd_to_nano

MAX_NAME_CHARS = 200
MAX_TAGS = 32
MAX_TAG_CHARS = 64
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 8
MAX_GLOBS = 200
MAX_GLOB_CHARS = 256
MAX_ALIASES = 100
MAX_MODEL_LIMITS = 200
MAX_BUDGETS = 50
MAX_EMAIL_CHARS = 254
MAX_GRACE_SECONDS = 7 * 86_400
MAX_LIFE_SECONDS = 10 * 366 * 86_400

# Categories of characters that nobody can see: control characters, halves of pairs, ends of lines.
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They turn the direction of a text, so that it reads as another one.
_TURNING = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
_LINE_ENDS = frozenset("\t\n\r")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")

TenantSlug = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Lower-case letters, digits, `-` and `_`.", examples=["acme"]
    ),
]
ObjectId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def check_text(value: str) -> str:
    """Return ``value``. Raises ``ValueError`` for characters that nobody can see."""
    for char in value:
        if unicodedata.category(char) in _UNSEEN or char in _TURNING:
            raise ValueError(f"must not contain the character U+{ord(char):04X}")
    return value


def _check_name(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return check_text(value)


def _check_glob(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be made of printable characters")
    return value


def _check_route(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("must start with '/'")
    return _check_glob(value)


def _check_distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        twice = next(value for index, value in enumerate(values) if value in values[:index])
        raise ValueError(f"must not hold {str(twice)!r} twice")
    return values


Name = Annotated[
    str, Field(min_length=1, max_length=MAX_NAME_CHARS, examples=["Checkout"]), AfterValidator(_check_name)
]
Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS), AfterValidator(_check_name)]
Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS, examples=[["production"]]), AfterValidator(_check_distinct)]
Glob = Annotated[str, Field(min_length=1, max_length=MAX_GLOB_CHARS), AfterValidator(_check_glob)]
RouteGlob = Annotated[str, Field(min_length=1, max_length=MAX_GLOB_CHARS), AfterValidator(_check_route)]
Models = Annotated[
    list[Glob],
    Field(
        max_length=MAX_GLOBS,
        description="Globs; a model must match one. `null` allows all, an empty list none.",
        examples=[["gpt-4o*", "hx-*"]],
    ),
    AfterValidator(_check_distinct),
]
Routes = Annotated[
    list[RouteGlob],
    Field(
        max_length=MAX_GLOBS,
        description="Globs of paths; `null` allows all that the scopes do.",
        examples=[["/v1/chat/*"]],
    ),
    AfterValidator(_check_distinct),
]
Aliases = Annotated[
    dict[Glob, Glob],
    Field(
        max_length=MAX_ALIASES,
        description="Names that the key may use for models, taken one step.",
        examples=[{"fast": "gpt-4o-mini"}],
    ),
]
UserRole = Literal["platform_admin", "tenant_admin", "member"]
AdminRole = Literal["platform_admin", "tenant_admin"]
MemberRole = Literal["admin", "member", "read_only"]
AuditAction = Literal[
    "created", "updated", "deleted", "restored", "rotated", "blocked", "unblocked", "purged", "noticed"
]
BudgetPeriod = Literal["day", "week", "month", "total"]


def _check_scope(value: str) -> str:
    if value == Scope.ADMIN:
        raise ValueError("'admin' is not given as a scope: set admin_role")
    if value not in _SCOPES and not _BOUND_SCOPE.fullmatch(value):
        raise ValueError(f"must be one of {', '.join(_SCOPES)}, or {' or '.join(BoundScope)} with a prefix behind it")
    return value


_SCOPES = tuple(scope.value for scope in Scope if scope is not Scope.ADMIN)
# What the names of services may begin with, and no control character.
_BOUND_SCOPE = re.compile(rf"(?:{'|'.join(BoundScope)}):[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{{0,199}}")
_IN_THE_DOCUMENT: dict[str, Any] = {"anyOf": [{"enum": [*_SCOPES]}, {"pattern": f"^{_BOUND_SCOPE.pattern}$"}]}

Scopes = Annotated[
    list[Annotated[str, AfterValidator(_check_scope), Field(json_schema_extra=_IN_THE_DOCUMENT)]],
    Field(description="Rights of the key.", examples=[["models"]]),
    AfterValidator(_check_distinct),
]


def _check_email(value: str) -> str:
    check_text(value)
    if not _EMAIL.fullmatch(value):
        raise ValueError("must be an address as name@example.org")
    return value


Email = Annotated[str, Field(max_length=MAX_EMAIL_CHARS, examples=["ada@example.org"]), AfterValidator(_check_email)]


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones()) | {"UTC"}


def _check_zone(value: str) -> str:
    if value not in _zones():
        raise ValueError("must be a time zone of the IANA database, as Europe/Berlin")
    return value


TimeZone = Annotated[
    str,
    Field(max_length=64, description="Where the tenant's days begin.", examples=["Europe/Berlin"]),
    AfterValidator(_check_zone),
]


def _check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    _check_tree(value)
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES:,} bytes of JSON, not {size:,}")
    return value


def _check_tree(root: dict[str, Any]) -> None:
    level: list[Any] = [root]
    for _ in range(MAX_METADATA_DEPTH):
        below: list[Any] = []
        for container in level:
            members = list(container) + list(container.values()) if isinstance(container, dict) else container
            for member in members:
                if isinstance(member, str):
                    check_text("".join([char for char in member if char not in _LINE_ENDS]))
                elif isinstance(member, dict | list):
                    below.append(member)
        if not below:
            return
        level = below
    raise ValueError(f"must not nest more than {MAX_METADATA_DEPTH} deep")


Metadata = Annotated[
    dict[str, Any],
    Field(description="Anything, as a JSON object.", examples=[{"cost_centre": "4711"}]),
    AfterValidator(_check_metadata),
]


def _read_moment(value: object) -> datetime:
    """Return an ISO 8601 time with a zone; numbers, which other readers take for seconds, are refused."""
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str) and len(value) <= MAX_TAG_CHARS:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be a time in ISO 8601, as 2027-01-31T12:00:00Z") from None
    else:
        raise ValueError("must be a time in ISO 8601, as 2027-01-31T12:00:00Z")
    if moment.tzinfo is None:
        raise ValueError("must name its zone, as 2027-01-31T12:00:00Z does")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside of the calendar") from None


def _check_future(value: datetime) -> datetime:
    now = datetime.now(UTC)
    if value <= now:
        raise ValueError("must be in the future")
    if value > now + timedelta(seconds=MAX_LIFE_SECONDS):
        raise ValueError("must be within ten years")
    return value


Moment = Annotated[
    datetime,
    BeforeValidator(_read_moment, json_schema_input_type=str),
    AfterValidator(_check_future),
    Field(description="A time with a zone.", examples=["2027-01-31T12:00:00Z"]),
]
LifeSeconds = Annotated[
    StrictInt, Field(ge=1, le=MAX_LIFE_SECONDS, description="Seconds from now; in place of `expires_at`.")
]


class CacheIn(Strict):
    """What a key says of the response cache. What is absent or ``null`` is as its model or the gateway has it."""

    mode: Literal["off", "ask", "exact", "meaning"] | None = Field(
        None,
        description="`exact`: its requests are answered from the cache; `meaning`: by their meaning too; "
        "`ask`: those that ask for it; `off`: none.",
    )
    ttl_seconds: Annotated[StrictInt, Field(ge=1, le=MAX_TTL_SECONDS)] | None = Field(
        None, description="How long the answers to it are kept."
    )
    scope: Literal["tenant", "team", "user", "key"] | None = Field(
        None, description="Who shares answers with it, of those whose scope is the same."
    )


class Limits(Strict):
    """How much a minute, and how much at once. What is absent or ``null`` is not limited; 0 lets nothing through."""

    rpm: Annotated[StrictInt, Field(ge=0, le=MAX_PER_MINUTE)] | None = Field(None, description="Requests a minute.")
    tpm: Annotated[StrictInt, Field(ge=0, le=MAX_PER_MINUTE)] | None = Field(None, description="Tokens a minute.")
    max_parallel: Annotated[StrictInt, Field(ge=0, le=MAX_PARALLEL)] | None = Field(
        None, description="Requests at the same time."
    )
    burst: Annotated[StrictInt, Field(ge=1, le=MAX_PER_MINUTE)] | None = Field(
        None, description="Requests that may come at once; `rpm` unless given."
    )

    @field_validator("burst")
    @classmethod
    def _burst_is_of_requests(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and "rpm" in info.data and info.data["rpm"] is None:
            raise ValueError("needs rpm beside it")
        return value


def _read_dollars(value: object) -> int:
    if not isinstance(value, int | float | str):
        raise ValueError("must be an amount of dollars, as 12.5")
    return usd_to_nano(value)


NanoDollars = Annotated[
    int,
    BeforeValidator(_read_dollars, json_schema_input_type=float | str),
    Field(description=f"Dollars, as a number or a text: 0 to {MAX_USD:,}, at most 9 decimals.", examples=[100]),
]


class BudgetIn(Strict):
    """Money for a period. Amounts are read as dollars and kept as whole nano-dollars."""

    limit_usd: NanoDollars
    soft_usd: NanoDollars | None = Field(None, description="From here on somebody is told.")
    period: BudgetPeriod

    @field_validator("soft_usd")
    @classmethod
    def _soft_is_below(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > info.data.get("limit_usd", value):
            raise ValueError("must not be above limit_usd")
        return value


class TenantBudgetIn(BudgetIn):
    """Money for a period, of a tenant as a whole or for one model."""

    model: Glob | None = Field(None, description="The one model that it is for.")


def _distinct_budgets(budgets: list[Any]) -> list[Any]:
    seen: set[tuple[str, str | None]] = set()
    for budget in budgets:
        key = (budget.period, getattr(budget, "model", None))
        if key in seen:
            of_model = f" for {key[1]!r}" if key[1] else ""
            raise ValueError(f"must not hold two of the period {key[0]!r}{of_model}")
        seen.add(key)
    return budgets


Budgets = Annotated[list[BudgetIn], Field(max_length=MAX_BUDGETS), AfterValidator(_distinct_budgets)]
TenantBudgets = Annotated[list[TenantBudgetIn], Field(max_length=MAX_BUDGETS), AfterValidator(_distinct_budgets)]
ModelLimits = Annotated[
    dict[Glob, Limits],
    Field(max_length=MAX_MODEL_LIMITS, description="Limits of single models by their names."),
]
