"""The bodies that the registry takes, and the answers that it gives."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, field_validator, model_validator

from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_items import (
    MAX_DEPENDENCIES,
    MAX_PORT,
    MAX_TAGS,
    PLACE_CHARS,
    TAG_CHARS,
    TEXT_CHARS,
    VERSION_CHARS,
    BuildType,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
)
from hx_gateway.http.strict_models import Strict, optional
from hx_gateway.registry.api.parameters import Instant, ServiceFilters
from hx_gateway.registry.bulk import Selection
from hx_gateway.registry.repository import MAX_BULK

Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS, examples=["weather"])]
Place = Annotated[str, Field(max_length=PLACE_CHARS, examples=["https://weather.example.org/mcp"])]
Text = Annotated[str, Field(max_length=NAME_CHARS)]
Ref = Annotated[str, Field(min_length=1, max_length=NAME_CHARS, description="An id, or a name.", examples=["weather"])]
Port = Annotated[StrictInt, Field(ge=1, le=MAX_PORT)]
Milliseconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False, description="Milliseconds.")]
JsonObject = dict[str, Any]

SERVICE_EXAMPLE: dict[str, Any] = {
    "id": "5b0e0f3e-6f6b-4a51-9e5c-0d9f2f6d9a11",
    "tenant_id": "default",
    "name": "weather",
    "display_name": "Weather",
    "description": "Made up: tells the weather.",
    "build_type": "external",
    "protocol": "http",
    "priority": "high",
    "status": "healthy",
    "location": None,
    "endpoint": "https://weather.example.org/mcp",
    "port": None,
    "version": "1.4.0",
    "tags": ["made up"],
    "service_metadata": {"team": "made up"},
    "config": {},
    "health_check_url": None,
    "last_health_check": "2026-11-24T09:00:00Z",
    "response_time_ms": 12.5,
    "last_seen": "2026-11-24T09:00:00Z",
    "success_count": 41,
    "failure_count": 1,
    "is_required": True,
    "is_enabled": True,
    "auto_start": False,
    "dependencies": [],
    "dependents": [],
    "source": None,
    "registry_url": None,
    "created_at": "2026-11-23T09:00:00Z",
    "updated_at": "2026-11-23T09:00:00Z",
    "created_by": "admin",
    "updated_by": "admin",
    "deleted_at": None,
    "is_active": True,
    "row_version": 1,
    "is_deleted": False,
    "age_seconds": 86400.0,
    "health_score": 0.976,
}
BODY_EXAMPLE = {
    "name": "weather",
    "build_type": "external",
    "protocol": "http",
    "priority": "high",
    "endpoint": "https://weather.example.org/mcp",
    "tags": ["made up"],
}


class ServicePatch(Strict):
    """What of a service may be set. What is left out stays as it is; of the two objects, members are merged."""

    name: Name = optional()
    display_name: Text | None = optional()
    description: Annotated[str, Field(max_length=TEXT_CHARS)] | None = optional()
    build_type: BuildType = optional(description="`fastmcp` unless given.")
    protocol: ServiceProtocol = optional(description="`stdio` unless given.")
    priority: ServicePriority = optional(description="`medium` unless given.")
    status: ServiceStatus = optional(description="`unknown` unless given. Setting it is a decision, not a probe.")
    location: Place | None = optional()
    endpoint: Place | None = optional()
    port: Port | None = optional()
    version: Annotated[str, Field(max_length=VERSION_CHARS)] | None = optional()
    tags: Annotated[list[Annotated[str, Field(min_length=1, max_length=TAG_CHARS)]], Field(max_length=MAX_TAGS)] = (
        optional()
    )
    service_metadata: JsonObject = optional()
    config: JsonObject = optional()
    health_check_url: Place | None = optional()
    is_required: StrictBool = optional()
    is_enabled: StrictBool = optional()
    auto_start: StrictBool = optional()
    dependencies: Annotated[list[Ref], Field(max_length=MAX_DEPENDENCIES)] = optional(
        description="Ids or names of the services that it depends on."
    )
    source: Text | None = optional()
    registry_url: Place | None = optional()


class ServiceCreate(ServicePatch):
    """A new service, or all of one that takes another's place: what is left out has its default."""

    name: Name


class Restoration(Strict):
    """How a deletion is taken back."""

    new_name: Name = optional(description="Where its own was taken since.")


class BulkCreate(Strict):
    """Services to be made. ``mode``: `atomic` keeps all or none, `partial` those that can be."""

    mode: Literal["atomic", "partial"] = "partial"
    dry_run: StrictBool = False
    on_conflict: Literal["error", "skip", "update", "restore"] = "error"
    items: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_BULK, examples=[[BODY_EXAMPLE]])]


class Selected(Strict):
    """Which services: ``refs``, or all that pass ``filter``; one of the two."""

    refs: Annotated[list[Ref], Field(min_length=1, max_length=MAX_BULK)] = optional()
    filter: ServiceFilters = optional(description="As the parameters of the list. An empty one passes all.")

    @field_validator("filter")
    @classmethod
    def _says_something(cls, value: ServiceFilters) -> ServiceFilters:
        """Refuse ``null``, which would pass all services where somebody meant to name some."""
        nothing = sorted(name for name in value.model_fields_set if getattr(value, name) is None)
        if nothing:
            raise ValueError(f"{nothing[0]} must not be null: leave it out")
        return value

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if len({"refs", "filter"} & self.model_fields_set) != 1:
            raise ValueError("must have either refs or filter")
        return self

    def selection(self) -> Selection:
        """Return what the catalogue is asked."""
        if "refs" in self.model_fields_set:
            return Selection(refs=self.refs)
        return Selection(search=self.filter.search())


class BulkSelection(Strict):
    """What is to be deleted or restored."""

    selector: Selected
    mode: Literal["atomic", "partial"] = "partial"
    dry_run: StrictBool = False
    max_affected: Annotated[StrictInt, Field(ge=1, le=MAX_BULK)] = MAX_BULK


class BulkPatch(BulkSelection):
    """What is to be changed, and how."""

    patch: ServicePatch


class HealthReport(Strict):
    """What somebody else found out about a service, or decided."""

    status: ServiceStatus
    response_time_ms: Milliseconds | None = None
    checked_at: Instant | None = Field(
        None, description="When. What is older than the last check that is known changes nothing."
    )


class Maintenance(Strict):
    """How long somebody works on a service: until it is ended, unless given."""

    until: Instant = optional()


class Beat(Strict):
    """A sign of life."""

    ref: Ref


class Heartbeats(Strict):
    """Signs of life of many services."""

    items: Annotated[list[Beat], Field(min_length=1, max_length=MAX_BULK)]


# What is shown


class Service(BaseModel):
    """A service: the fields are described in the reference of the registry."""

    model_config = ConfigDict(json_schema_extra={"examples": [SERVICE_EXAMPLE]})

    id: str
    tenant_id: str
    name: str
    display_name: str | None
    description: str | None
    build_type: BuildType
    protocol: ServiceProtocol
    priority: ServicePriority
    status: ServiceStatus
    location: str | None
    endpoint: str | None
    port: int | None
    version: str | None
    tags: list[str]
    service_metadata: JsonObject
    config: JsonObject
    health_check_url: str | None
    last_health_check: datetime | None
    response_time_ms: float | None
    last_seen: datetime | None
    success_count: int
    failure_count: int
    is_required: bool
    is_enabled: bool
    auto_start: bool
    dependencies: list[str]
    dependents: list[str]
    source: str | None
    registry_url: str | None
    created_at: datetime
    updated_at: datetime
    created_by: str | None
    updated_by: str | None
    deleted_at: datetime | None
    is_active: bool
    row_version: int
    is_deleted: bool
    age_seconds: float
    health_score: float


class ServiceList(BaseModel):
    """A page. ``next_cursor`` is ``null`` on the last; ``total`` is there where ``count`` asked for it.

    With ``fields`` the items have these only.
    """

    items: list[dict[str, Any]] = Field(examples=[[SERVICE_EXAMPLE]])
    next_cursor: str | None
    has_more: bool
    total: int | None = None
    total_is_estimated: bool | None = None


class TagCount(BaseModel):
    """A tag, and how many living services have it."""

    tag: str
    services: int


class FacetCounts(BaseModel):
    """How many services that pass have each value; ``required`` and ``enabled`` are how many are that.

    ``tags`` are the 50 most frequent, counted in so many of them (``tags_counted_in``).
    """

    total: int
    status: dict[ServiceStatus, int]
    build_type: dict[BuildType, int]
    protocol: dict[ServiceProtocol, int]
    priority: dict[ServicePriority, int]
    required: int
    enabled: int
    tags: list[TagCount]
    tags_counted_in: int


class Related(BaseModel):
    """Services at the other ends of a service's dependencies.

    Those next to it whole, with the ``kind`` of dependency; those further on as a graph shows them. As a tree, the
    service itself, with the others below it in ``services``.
    """

    model_config = ConfigDict(extra="allow")

    items: list[dict[str, Any]] | None = Field(None, examples=[[SERVICE_EXAMPLE]])


class BulkResult(BaseModel):
    """What became of one."""

    index: int
    status: Literal["created", "updated", "skipped", "deleted", "restored", "failed"]
    ref: str | None = None
    item: Service | None = None
    error: str | None = None
    code: str | None = None
    param: str | None = None


class BulkAnswer(BaseModel):
    """What became of many, in their order. ``dry_run``: nothing of it was kept."""

    dry_run: bool
    created: int
    updated: int
    skipped: int
    deleted: int
    restored: int
    failed: int
    results: list[BulkResult]


class HeartbeatsAnswer(BaseModel):
    """How many were noted, and which services there are not."""

    updated: int
    unknown: list[str]


class ResponseTimes(BaseModel):
    """The last times of services that have one, in milliseconds; percentiles are of 2,000 services at most."""

    avg: float | None
    p50: float | None
    p95: float | None


class FailingService(BaseModel):
    """An unhealthy service, how many probes in a row failed, and why the last one did."""

    id: str
    name: str
    consecutive_failures: int
    failure_class: str | None


class DependedOn(BaseModel):
    """A service that so many depend on, directly."""

    id: str
    name: str
    dependents: int


class RequiredServices(BaseModel):
    """The required services, with the names of at most 50 unhealthy ones."""

    total: int
    healthy: int
    unhealthy_count: int
    unhealthy: list[str]


class Numbers(BaseModel):
    """Numbers of a tenant's services. All but ``total`` and ``deleted`` count the living only.

    ``stale``: not seen for 15 minutes, or never. ``success_rate_1h`` is of 500 services at most, ``top_failing`` and
    ``most_depended_on`` have ten at most.
    """

    total: int
    active: int
    deleted: int
    enabled: int
    required: int
    required_not_healthy: int
    required_services: RequiredServices
    by_status: dict[str, int]
    by_build_type: dict[str, int]
    by_protocol: dict[str, int]
    by_priority: dict[str, int]
    success_count: int
    failure_count: int
    average_response_time_ms: float | None
    stale: int
    flapping: int
    response_time_ms: ResponseTimes
    success_rate_1h: float | None
    top_failing: list[FailingService]
    most_depended_on: list[DependedOn]
    last_change_seq: int
