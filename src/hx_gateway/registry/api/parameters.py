"""The parameters of lists of services."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    field_validator,
    model_validator,
)

from hx_gateway.access.cursors import MAX_CURSOR_CHARS
from hx_gateway.access.errors import InvalidField
from hx_gateway.access.resources import MAX_PAGE
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_items import (
    BuildType,
    RegistryItem,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.db.models.validation import unstorable
from hx_gateway.http.strict_models import Strict
from hx_gateway.registry.api.durations import Duration
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.repository import MAX_SEARCH_CHARS
from hx_gateway.registry.searches import MAX_WORDS, ServiceSearch, words_of

DEFAULT_PAGE = 50
MAX_VALUES = 50
# How deep pages by number go: all before a page are found again for it.
MAX_PAGED = 5_000
MAX_MEMBERS = 16
MAX_MEMBER_CHARS = 1024
_MEMBER = "metadata."
FIELDS = frozenset({*RegistryItem.field_names(), "is_deleted", "age_seconds", "health_score"})
_Item = TypeVar("_Item")


def _several(value: object) -> object:
    """Return texts with commas in them as several: ``tags=a,b`` is ``tags=a&tags=b``."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        return value
    return [part for one in values for part in str(one).split(",") if part]


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be in the years 1 to 9999 of UTC") from None


def _words(value: str) -> str:
    if not 0 < len(words_of(value)) <= MAX_WORDS:
        raise ValueError(f"must have 1 to {MAX_WORDS} words")
    return _storable(value)


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Several = Annotated[list[_Item], BeforeValidator(_several), Field(min_length=1, max_length=MAX_VALUES)]
SearchedWords = Annotated[str, Field(min_length=1, max_length=MAX_SEARCH_CHARS), AfterValidator(_words)]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS)]
Cursor = Annotated[str, Field(min_length=1, max_length=MAX_CURSOR_CHARS, pattern=r"^[A-Za-z0-9_=.-]+$")]
TenantId = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Another tenant than one's own: platform admins only."),
]
_COLUMNS = ("name", "build_type", "protocol", "status", "priority")
_FLAGS = {"required": "is_required", "enabled": "is_enabled", "auto_start": "auto_start"}
_HAS_DEPENDENCY = "Those that depend on this service: its id, or its name."
_TEXTS = ("source", "location", "created_by", "version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a list: at most ``limit`` in this order, after a cursor or but for the first ``skip``."""

    sort: str
    limit: int
    cursor: str | None = None
    skip: int = 0


class ServiceFilters(Strict):
    """Which services: those that pass all that is given; of several values of one parameter, any."""

    q: SearchedWords | None = Field(
        None, description="Words that each begin one of name, display name, description or tags."
    )
    name: Several[Name] | None = Field(None, description="Whatever the case.")
    name_prefix: Name | None = Field(None, description="What names begin with, whatever the case.")
    build_type: Several[BuildType] | None = None
    protocol: Several[ServiceProtocol] | None = None
    status: Several[ServiceStatus] | None = None
    priority: Several[ServicePriority] | None = None
    tags: Several[Name] | None = None
    tags_match: Literal["any", "all", "none"] = "any"
    healthy: bool | None = Field(None, description="Whether the status is `healthy`.")
    required: bool | None = None
    enabled: bool | None = None
    auto_start: bool | None = None
    source: Name | None = None
    location: Name | None = None
    created_by: Name | None = None
    version: Name | None = None
    stale_after: Duration | None = Field(None, description="Not seen for so long, or never.")
    created_after: Instant | None = None
    created_before: Instant | None = None
    updated_since: Instant | None = None
    metadata: Annotated[str, Field(max_length=1024)] | None = Field(
        None,
        description="A JSON object that is contained in `service_metadata`; `metadata.team=search` is for one member.",
        examples=['{"team": "made up"}'],
    )
    include_deleted: Literal["false", "true", "only"] = "false"
    _members: tuple[tuple[tuple[str, ...], str], ...] = ()

    @model_validator(mode="wrap")
    @classmethod
    def _with_members(cls, given: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Take out the parameters ``metadata.<path>``, which have names of their own."""
        if not isinstance(given, Mapping):
            return build(given)
        members = {name: value for name, value in given.items() if str(name).startswith(_MEMBER)}
        filters = build({name: value for name, value in given.items() if name not in members})
        asked = tuple(member for name, value in members.items() for member in _members_of(name, value))
        if len(asked) > MAX_MEMBERS:
            raise InvalidField(f"metadata: at most {MAX_MEMBERS} members may be asked for.", param="metadata")
        filters._members = asked  # noqa: SLF001 - its own: no parameter has this name
        return filters

    @field_validator("include_deleted", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value).lower() if isinstance(value, bool) else value

    @field_validator("metadata")
    @classmethod
    def _json_object(cls, value: str | None) -> str | None:
        if value is not None:
            contained(value)
        return value

    def search(self, **more: Any) -> ServiceSearch:
        """Return what the catalogue is asked; ``more`` are filters beside these."""
        filters: dict[str, Any] = {name: value for name in _COLUMNS if (value := getattr(self, name)) is not None}
        filters |= {name: value for name in _TEXTS if (value := getattr(self, name)) is not None}
        filters |= {of: value for name, of in _FLAGS.items() if (value := getattr(self, name)) is not None}
        if self.healthy is not None:
            asked = set(filters.get("status", ServiceStatus))
            healthy = {ServiceStatus.HEALTHY}
            filters["status"] = sorted(asked & healthy if self.healthy else asked - healthy)
        return ServiceSearch(
            filters={**filters, **more},
            text=self.q,
            tags=frozenset(self.tags or ()),
            tags_match=self.tags_match,
            stale_for=self.stale_after,
            name_prefix=self.name_prefix,
            created_after=self.created_after,
            created_before=self.created_before,
            updated_since=self.updated_since,
            metadata=contained(self.metadata) if self.metadata is not None else {},
            members=self._members,
            deleted={"false": "without", "true": "with", "only": "only"}[self.include_deleted],  # type: ignore[arg-type]
        )


_SORT = Annotated[str, Field(pattern=f"^-?({'|'.join(sorted(RegistryItemRepository.sortable))})$")]
Sort = Annotated[
    Several[_SORT],
    Field(
        description="A field, with `-` before it from the greatest down; several with commas between them. `priority` "
        "goes from critical to low.",
    ),
]


class Paging(Strict):
    """Which part of a list: ``cursor`` is the ``next_cursor`` of the page before."""

    sort: Sort = Field(default=["created_at"])
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    cursor: Cursor | None = None
    page: Annotated[int, Field(ge=1, le=MAX_PAGED)] | None = Field(
        None, description=f"Instead of a cursor, among the first {MAX_PAGED:,} services."
    )
    page_size: Annotated[int, Field(ge=1, le=MAX_PAGE)] | None = Field(None, description="Instead of `limit`.")
    count: Literal["none", "estimated", "exact"] = Field(
        "none", description="`exact` counts all that pass; `estimated` says about how many, at once."
    )
    fields: Several[str] | None = Field(None, description="The fields that are shown; all unless given.")
    tenant_id: TenantId | None = None

    @field_validator("fields")
    @classmethod
    def _known(cls, value: list[str] | None) -> list[str] | None:
        unknown = [name for name in value or () if name not in FIELDS]
        if unknown:
            raise ValueError(f"has no {unknown[0][:64]!r}")
        return value

    @field_validator("sort")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len({part.removeprefix("-") for part in value}) != len(value):
            raise ValueError("names a field twice")
        return value

    def part(self) -> Part:
        """Return the part that is meant. Raises ``InvalidField`` for what does not go together, or leads too far."""
        order = ",".join(self.sort)
        if self.page is None and self.page_size is None:
            return Part(sort=order, limit=self.limit, cursor=self.cursor)
        other = next((name for name in ("cursor", "limit") if name in self.model_fields_set), None)
        if other is not None:
            raise InvalidField(f"page: does not go together with {other}.", param="page")
        page, size = self.page or 1, self.page_size or DEFAULT_PAGE
        if page * size > MAX_PAGED:
            raise InvalidField(
                f"page: leads beyond the first {MAX_PAGED:,} services: follow next_cursor to go further.", param="page"
            )
        return Part(sort=order, limit=size, skip=(page - 1) * size)


class FacetQuery(ServiceFilters):
    """Which services are counted."""

    has_dependency: Name | None = Field(None, description=_HAS_DEPENDENCY)
    tenant_id: TenantId | None = None


class ServiceQuery(ServiceFilters, Paging):
    """The parameters of the list of services."""

    has_dependency: Name | None = Field(None, description=_HAS_DEPENDENCY)


def _members_of(name: str, value: object) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what a parameter asks for: a path, and each of its values. Raises ``InvalidField``."""
    path = tuple(name.removeprefix(_MEMBER).split("."))
    shown = name[:64]
    for one in value if isinstance(value, list) else [value]:
        fits = isinstance(one, str) and len(name) + len(one) <= MAX_MEMBER_CHARS and len(path) <= MAX_MEMBERS
        if not all(path) or not fits or unstorable([name, one]) is not None:
            raise InvalidField(f"{shown}: must be a path of members with dots, and a text.", param=shown)
        yield path, str(one)


def contained(text: str) -> dict[str, Any]:
    """Return the JSON object that is to be contained. Raises ``ValueError``."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return _storable(value)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _storable(value: _Item) -> _Item:
    rule = unstorable(value)
    if rule is not None:
        raise ValueError(rule)
    return value
