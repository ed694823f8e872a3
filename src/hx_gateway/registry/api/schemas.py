"""The bodies that the registry takes, and the answers that it gives."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StrictBool,
    StrictInt,
    field_validator,
    model_validator,
)

from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.registry_items import (
    ERROR_CHARS,
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
from hx_gateway.db.models.validation import InvalidModel, Problem
from hx_gateway.http.strict_models import Strict, optional
from hx_gateway.registry.api.parameters import Instant, ServiceFilters
from hx_gateway.registry.bulk import Fate, Selection
from hx_gateway.registry.probing import AdminState, Beat, Described, FailureClass, Level
from hx_gateway.registry.probing.beats import DEFAULT_TTL, LONGEST_TTL, MAX_BEATS, SHORTEST_TTL
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
    "pending_dependencies": [],
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
    pending_dependencies: Annotated[list[Name], Field(max_length=MAX_DEPENDENCIES)] = optional(
        description="Names that it is to depend on once services have them."
    )
    source: Text | None = optional()
    registry_url: Place | None = optional()


class ServiceCreate(ServicePatch):
    """A new service: what is left out has its default."""

    name: Name


class _AsShown(ServicePatch):
    """Fields as they are sent by who read a service: what only the gateway sets is among them, and left out."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema["properties"].update(_owned_properties()))

    _owned: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _leave_out(cls, value: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict):
            return read(value)
        body = read({name: member for name, member in value.items() if name not in SERVER_OWNED})
        body._owned = tuple(sorted(value.keys() & SERVER_OWNED))  # noqa: SLF001 - of this class
        return body

    def settable(self, *, strict: bool) -> dict[str, Any]:
        """Return the fields to set. Raises :class:`InvalidModel` with ``strict`` for others, and names each."""
        if strict and self._owned:
            raise InvalidModel(*(Problem(name, "is set by the gateway alone") for name in self._owned))
        return self.given()


class ServiceChange(_AsShown):
    """What of a service is to be set. What is left out stays as it is; of the two objects, members are merged."""


class ServiceReplacement(_AsShown, ServiceCreate):
    """All of a service that takes another's place: what is left out has its default."""


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
    """What is to be restored."""

    selector: Selected
    mode: Literal["atomic", "partial"] = "partial"
    dry_run: StrictBool = False
    max_affected: Annotated[StrictInt, Field(ge=1, le=MAX_BULK)] = MAX_BULK


class BulkDeletion(BulkSelection):
    """What is to be deleted. ``hard``: what was deleted already, for good; that is for admins."""

    hard: StrictBool = False


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
    failure_class: FailureClass | None = Field(None, description="Why it is unhealthy, as probes say it.")
    message: Annotated[str, Field(min_length=1, max_length=ERROR_CHARS)] | None = Field(
        None, description="What happened, in a line for people. Shown until it is found healthy."
    )

    @model_validator(mode="after")
    def _reasons_of_what_failed(self) -> Self:
        if self.status is not ServiceStatus.UNHEALTHY and (self.failure_class or self.message):
            raise ValueError("failure_class and message go with the status unhealthy")
        return self


class Maintenance(Strict):
    """How long somebody works on a service: until it is ended, unless given."""

    until: Instant = optional()


class SignOfLife(Strict):
    """What a service says of itself by a heartbeat."""

    ttl_s: Annotated[StrictInt, Field(ge=int(SHORTEST_TTL.total_seconds()), le=int(LONGEST_TTL.total_seconds()))] = (
        Field(int(DEFAULT_TTL.total_seconds()), description="In how many seconds the next one comes at the latest.")
    )
    status: Literal["healthy", "unhealthy"] = optional(
        description="How it is. Without it a service that lives by its heartbeats is healthy."
    )

    def beat(self, ref: str) -> Beat:
        """Return what the registry is told."""
        given = self.given()
        return Beat(
            ref=ref,
            ttl=timedelta(seconds=self.ttl_s),
            status=ServiceStatus(given["status"]) if "status" in given else None,
            response_time_ms=given.get("response_time_ms"),
        )


class Heartbeat(SignOfLife):
    """A sign of life of one service, and what it says of itself: written down where that is news."""

    version: Annotated[str, Field(max_length=VERSION_CHARS)] = optional()
    metadata: JsonObject = optional(description="Members of `service_metadata`; one that is `null` is taken out.")

    def described(self) -> Described:
        """Return what it says of itself."""
        given = self.given()
        return Described(version=given.get("version"), metadata=given.get("metadata"))


class HeartbeatOfMany(SignOfLife):
    """A sign of life of one of many services."""

    ref: Ref
    response_time_ms: Milliseconds = optional()


class Heartbeats(Strict):
    """Signs of life of many services."""

    items: Annotated[list[HeartbeatOfMany], Field(min_length=1, max_length=MAX_BEATS)]


class CheckMany(Strict):
    """Which services are to be probed."""

    selector: Selected
    max_affected: Annotated[StrictInt, Field(ge=1, le=MAX_BULK)] = MAX_BULK


# What is shown


class ServiceHealth(BaseModel):
    """How a service is, with all that is known of why. Durations are seconds."""

    service_id: str
    name: str
    status: ServiceStatus
    observed: ServiceStatus
    admin_state: AdminState
    maintenance_until: datetime | None
    flapping: bool
    stale: bool
    consecutive_failures: int
    consecutive_successes: int
    failure_class: FailureClass | None
    last_error: str | None
    auth_required: bool
    level: Level | None
    response_time_ms: float | None
    last_health_check: datetime | None
    last_seen: datetime | None
    next_check_at: datetime | None
    by_beats: bool
    ttl_until: datetime | None
    interval_seconds: float
    timeout_seconds: float
    failures_to_unhealthy: int
    successes_to_healthy: int
    degraded_reason: str | None


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
    pending_dependencies: list[str]
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


class RegisteredService(Service):
    """A service that was just registered; with `probe=true` also how it is."""

    health: ServiceHealth | None = None


# What a gateway shows of a service, and only it may set.
SERVER_OWNED = frozenset({*Service.model_fields, "expanded"}) - frozenset(ServicePatch.model_fields)


def _owned_properties() -> dict[str, Any]:
    return {name: {"readOnly": True, "description": "The gateway sets it."} for name in sorted(SERVER_OWNED)}


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
    status: Fate
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
    purged: int
    failed: int
    results: list[BulkResult]


class HeartbeatsAnswer(BaseModel):
    """How many were noted, and which services there are not."""

    updated: int
    unknown: list[str]


class CheckAsked(BaseModel):
    """That services are due to be probed: how many, which there are not, and by what to ask for what is found."""

    job: str
    due: int
    unknown: list[str]


class CheckedService(BaseModel):
    """How a service of a check is. ``probed_at`` is ``null`` until it was probed."""

    service_id: str
    name: str
    status: ServiceStatus
    observed: ServiceStatus
    failure_class: FailureClass | None
    last_error: str | None
    response_time_ms: float | None
    probed_at: datetime | None


class CheckOutcome(BaseModel):
    """What came of a check so far. ``gone``: deleted since. ``by_status`` counts those that were probed."""

    job: str
    asked_at: datetime
    expires_at: datetime
    due: int
    probed: int
    pending: int
    gone: int
    by_status: dict[str, int]
    items: list[CheckedService]


class ResponseTimes(BaseModel):
    """The last times of services that have one, in milliseconds."""

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

    ``stale``: not seen for 15 minutes, or never. Counts of probes and times of answers are of ``probes_counted_in``
    services, 10,000 at most: beyond, counts are an estimate for all. ``success_rate_1h`` is of 200 services at most,
    ``top_failing`` and ``most_depended_on`` have ten at most.
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
    probes_counted_in: int
    average_response_time_ms: float | None
    stale: int
    flapping: int
    response_time_ms: ResponseTimes
    success_rate_1h: float | None
    top_failing: list[FailingService]
    most_depended_on: list[DependedOn]
    last_change_seq: int
