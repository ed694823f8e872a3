"""Registered services: what they are, how they are, and what they depend on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Float,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy import Enum as EnumType
from sqlalchemy.dialects.postgresql import ARRAY, TSVECTOR
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import Mapped, column_property, declared_attr, mapped_column, relationship

from hx_gateway.db.models.base import Base
from hx_gateway.db.models.base_model import NAME_CHARS, FieldChange, TenantModel
from hx_gateway.db.models.health_config import health_config, health_problems
from hx_gateway.db.models.registry_pending import PendingDependency, are_names, names_in_order
from hx_gateway.db.models.tenants import Tenant
from hx_gateway.db.models.validation import (
    InvalidModel,
    Problem,
    coerced,
    column_problems,
    identifier,
    stored_columns,
)
from hx_gateway.db.schemas import REGISTRY_SCHEMA

PLACE_CHARS = 512
VERSION_CHARS = 50
TEXT_CHARS = 64 * 1024
JSON_BYTES = 64 * 1024
MAX_TAGS = 64
TAG_CHARS = 100
MAX_DEPENDENCIES = 200
MAX_PORT = 65535
# They stand where a service is named in the path of a request.
RESERVED_NAMES = frozenset(
    {"bulk", "by-tag", "export", "facets", "healthy", "import", "required", "stale", "unhealthy"}
)
ERROR_CHARS = 512
CLASS_CHARS = 20
# Where a service is, how it is probed, and what was decided: when one changes, it is probed anew.
_PROBED_ANEW = frozenset(
    {"protocol", "location", "endpoint", "port", "config", "health_check_url", "auto_start", "status"}
)
# What is shown to whoever may read the registry, and kept in the audit log.
_PLACES = ("location", "endpoint", "health_check_url", "registry_url")
_CREDENTIALS = re.compile(r"//[^/?#]*@")


class BuildType(StrEnum):
    """How a service is made."""

    FASTMCP = "fastmcp"
    STUB = "stub"
    EXTERNAL = "external"
    OFFICIAL = "official"
    CUSTOM = "custom"
    DOCKER = "docker"


class ServiceProtocol(StrEnum):
    """How a service is spoken to."""

    STDIO = "stdio"
    HTTP = "http"
    WEBSOCKET = "websocket"
    TCP = "tcp"
    UNIX_SOCKET = "unix_socket"


class ServicePriority(StrEnum):
    """How much depends on a service; the most important first, also in the database's order."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class ServiceStatus(StrEnum):
    """How a service is: the first three are found out, the last two are somebody's decision."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    MAINTENANCE = "maintenance"
    DISABLED = "disabled"


_OBSERVED = frozenset({ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY})
_DECIDED = frozenset({ServiceStatus.MAINTENANCE, ServiceStatus.DISABLED})


def unchanged_by(status: ServiceStatus) -> frozenset[ServiceStatus]:
    """Return what a service may be that ``status`` leaves as it is: what is found out changes no decision."""
    return frozenset({ServiceStatus(status)}) | (_DECIDED if status in _OBSERVED else frozenset())


class DependencyKind(StrEnum):
    """What a service needs another one for: while it runs, to start, or not strictly."""

    RUNTIME = "runtime"
    STARTUP = "startup"
    OPTIONAL = "optional"


def enum_column(members: type[StrEnum], name: str) -> EnumType:
    """Return the column type of an enumeration of the registry's schema, which has the members' values."""
    return EnumType(
        members,
        name=name,
        schema=REGISTRY_SCHEMA,
        values_callable=lambda kind: [member.value for member in kind],
    )


def _rank(column: str, kind: type[StrEnum]) -> Mapped[int]:
    """Return the column of a member's place among the others, computed by the database for its indexes."""
    *members, _ = kind
    cases = (f"    WHEN '{one}'::{REGISTRY_SCHEMA}.service_{column} THEN {rank}" for rank, one in enumerate(members))
    # As PostgreSQL tells it.
    told = "\n".join([f"CASE {column}", *cases, f"    ELSE {len(members)}", "END"])
    return mapped_column(SmallInteger, Computed(told), deferred=True, deferred_raiseload=True)


# The five minutes since 1970 that it was last seen in, as PostgreSQL tells it.
_PERIOD = (
    "floor((EXTRACT(epoch FROM (last_seen - '1970-01-01 00:00:00+00'::timestamp with time zone))"
    " / (300)::numeric))::integer"
)


class ItemHealth(Base):
    """How an item is: one narrow row beside it, so that a probe rewrites no wide one with its indexes.

    ``response_time_ms`` is of the last check that measured it. ``status`` is what counts; ``observed`` is what probes
    found, which goes on being kept while somebody's decision counts. ``next_check_at`` is ``None`` for what is not
    probed; ``lease_until`` says who probes now, by a time that nobody else has. ``maintenance_until`` is when
    ``MAINTENANCE`` ends by itself. ``stale``: it was told that the item is not seen any more.

    ``probed_at`` is when a probe of it last ended, whatever it found. ``ttl_until`` is when a heartbeat is due at the
    latest; ``by_beats`` says that nothing but those tells how it is.
    """

    __tablename__ = "registry_health"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "item_id"],
            [f"{REGISTRY_SCHEMA}.registry_items.tenant_id", f"{REGISTRY_SCHEMA}.registry_items.id"],
            name="registry_health_item_fkey",
            ondelete="CASCADE",
        ),
        Index("registry_health_by_status", "tenant_id", "status_rank", "item_id"),
        CheckConstraint("observed IN ('healthy', 'unhealthy', 'unknown')", name="registry_health_observed_check"),
        Index("registry_health_due", "next_check_at", postgresql_where=text("next_check_at IS NOT NULL")),
        Index("registry_health_by_sight", "tenant_id", "seen_period", postgresql_include=["item_id"]),
        Index("registry_health_flapping", "tenant_id", postgresql_where=text("flapping")),
        {"schema": REGISTRY_SCHEMA},
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[ServiceStatus] = mapped_column(enum_column(ServiceStatus, "service_status"))
    status_rank: Mapped[int] = _rank("status", ServiceStatus)
    success_count: Mapped[int] = mapped_column(BigInteger)
    failure_count: Mapped[int] = mapped_column(BigInteger)
    last_health_check: Mapped[datetime | None]
    response_time_ms: Mapped[float | None] = mapped_column(Float(53))
    last_seen: Mapped[datetime | None]
    seen_period: Mapped[int | None] = mapped_column(Computed(_PERIOD), deferred=True, deferred_raiseload=True)
    next_check_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    observed: Mapped[ServiceStatus] = mapped_column(enum_column(ServiceStatus, "service_status"))
    consecutive_failures: Mapped[int]
    consecutive_successes: Mapped[int]
    flapping: Mapped[bool]
    transitions: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)))
    failure_class: Mapped[str | None] = mapped_column(String(CLASS_CHARS))
    last_error: Mapped[str | None] = mapped_column(String(ERROR_CHARS))
    auth_required: Mapped[bool]
    level: Mapped[str | None] = mapped_column(String(CLASS_CHARS))
    maintenance_until: Mapped[datetime | None]
    probed_at: Mapped[datetime | None]
    ttl_until: Mapped[datetime | None]
    by_beats: Mapped[bool]
    stale: Mapped[bool]

    def __init__(self, **values: Any) -> None:
        unknown = dict.fromkeys(("status", "observed"), ServiceStatus.UNKNOWN)
        none = dict.fromkeys(("success_count", "failure_count", "consecutive_failures", "consecutive_successes"), 0)
        no = dict.fromkeys(("flapping", "auth_required", "by_beats", "stale"), False)
        super().__init__(**{**unknown, **none, **no, "transitions": [], **values})

    def check_at(self, when: datetime | None) -> None:
        """Let it be probed from ``when`` on, never where that is ``None``. What is found by a probe at work is void."""
        self.next_check_at, self.lease_until = when, None


# What an item shows of its row of health.
HEALTH_FIELDS = ("status", "success_count", "failure_count", "last_health_check", "response_time_ms", "last_seen")
HEALTH_COLUMNS: Mapping[str, Column[Any]] = {
    name: column for name, column in stored_columns(inspect(ItemHealth)).items() if name in HEALTH_FIELDS
}


class DependencyEdge(Base):
    """That an item depends on another one of its tenant: once, and never on itself."""

    __tablename__ = "registry_dependencies"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "item_id"],
            [f"{REGISTRY_SCHEMA}.registry_items.tenant_id", f"{REGISTRY_SCHEMA}.registry_items.id"],
            name="registry_dependencies_item_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["tenant_id", "depends_on_id"],
            [f"{REGISTRY_SCHEMA}.registry_items.tenant_id", f"{REGISTRY_SCHEMA}.registry_items.id"],
            name="registry_dependencies_depends_on_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("item_id <> depends_on_id", name="registry_dependencies_not_itself"),
        Index("registry_dependencies_by_end", "tenant_id", "depends_on_id"),
        {"schema": REGISTRY_SCHEMA},
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    depends_on_id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[DependencyKind] = mapped_column(
        enum_column(DependencyKind, "dependency_kind"), default=DependencyKind.RUNTIME
    )


_edge, _pending = DependencyEdge.__table__.c, PendingDependency.__table__.c


class _Ends:
    """The ends of an item's edges, ids and names to come, in a stable order. The repository writes them, no flush."""

    @declared_attr
    def dependencies(cls) -> Mapped[list[UUID]]:  # noqa: N805 - SQLAlchemy gives the class
        return _ids(cls, near=_edge.item_id, far=_edge.depends_on_id)

    @declared_attr
    def dependents(cls) -> Mapped[list[UUID]]:  # noqa: N805
        return _ids(cls, near=_edge.depends_on_id, far=_edge.item_id)

    @declared_attr
    def pending_dependencies(cls) -> Mapped[list[str]]:  # noqa: N805
        item: Any = cls
        names = select(_pending.name).where(_pending.tenant_id == item.tenant_id, _pending.item_id == item.id)
        found = names.order_by(_pending.name.collate("C")).correlate_except(PendingDependency)
        array = func.array(found.scalar_subquery(), type_=ARRAY(Text))
        return column_property(array, expire_on_flush=False)


# The orders that lists come in, and what is in each of these indexes beside: what lists are filtered by.
_ORDERS = {
    "registry_items_living": (),
    "registry_items_living_by_age": ("created_at",),
    "registry_items_living_by_change": ("updated_at",),
    "registry_items_living_by_name": ("name",),
    "registry_items_living_by_build_type": ("build_type_rank",),
    "registry_items_living_by_protocol": ("protocol_rank",),
    "registry_items_living_by_priority": ("priority_rank",),
}
_FILTERS = ("build_type_rank", "protocol_rank", "priority_rank", "is_required", "is_enabled", "auto_start")


def _order(name: str, columns: tuple[str, ...]) -> Index:
    times = () if columns else ("created_at", "updated_at")
    beside = [*times, *(column for column in _FILTERS if column not in columns)]
    living = text("deleted_at IS NULL")
    return Index(name, "tenant_id", *columns, "id", postgresql_include=beside, postgresql_where=living)


def _ids(item: Any, *, near: Any, far: Any) -> Mapped[list[UUID]]:
    found = select(far).where(_edge.tenant_id == item.tenant_id, near == item.id).order_by(far)
    array = func.array(found.correlate_except(DependencyEdge).scalar_subquery(), type_=ARRAY(Uuid))
    return column_property(array, expire_on_flush=False)


class RegistryItem(TenantModel, _Ends):
    """A service. Its name is taken once among the living of its tenant, whatever the case of its letters.

    ``dependencies`` and ``dependents`` are ids, also of deleted items, ``pending_dependencies`` names that no living
    item has. ``health`` is loaded with it, always.
    """

    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], [Tenant.__table__.c.id], name="registry_items_tenant_id_fkey"),
        UniqueConstraint("tenant_id", "id", name="registry_items_tenant_id_id_key"),
        Index(
            "registry_items_by_name",
            "tenant_id",
            "name_key",
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index("registry_items_by_age", "tenant_id", "created_at", "id"),
        # Its collation, "C", is not among what models say.
        Index("registry_items_by_name_bytes", "tenant_id", "name"),
        *(_order(name, columns) for name, columns in _ORDERS.items()),
        Index(
            "registry_items_deleted",
            "tenant_id",
            "name_key",
            "id",
            postgresql_where=text("deleted_at IS NOT NULL"),
        ),
        {"schema": REGISTRY_SCHEMA},
    )
    protected: ClassVar[frozenset[str]] = TenantModel.protected | (set(HEALTH_FIELDS) - {"status"}) | {"dependents"}
    unrecorded: ClassVar[frozenset[str]] = TenantModel.unrecorded | protected - {"id", "deleted_at"} | {"health_score"}

    name: Mapped[str] = mapped_column(String(NAME_CHARS))
    display_name: Mapped[str | None] = mapped_column(String(NAME_CHARS))
    description: Mapped[str | None]
    build_type: Mapped[BuildType] = mapped_column(
        enum_column(BuildType, "service_build_type"), default=BuildType.FASTMCP
    )
    protocol: Mapped[ServiceProtocol] = mapped_column(
        enum_column(ServiceProtocol, "service_protocol"), default=ServiceProtocol.STDIO
    )
    priority: Mapped[ServicePriority] = mapped_column(
        enum_column(ServicePriority, "service_priority"), default=ServicePriority.MEDIUM
    )
    location: Mapped[str | None] = mapped_column(String(PLACE_CHARS))
    endpoint: Mapped[str | None] = mapped_column(String(PLACE_CHARS))
    port: Mapped[int | None]
    version: Mapped[str | None] = mapped_column(String(VERSION_CHARS))
    tags: Mapped[list[str]] = mapped_column(default=list)
    service_metadata: Mapped[dict[str, Any]] = mapped_column(default=dict)
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    health_check_url: Mapped[str | None] = mapped_column(String(PLACE_CHARS))
    is_required: Mapped[bool] = mapped_column(default=False)
    is_enabled: Mapped[bool] = mapped_column(default=True)
    auto_start: Mapped[bool] = mapped_column(default=False)
    source: Mapped[str | None] = mapped_column(String(NAME_CHARS))
    registry_url: Mapped[str | None] = mapped_column(String(PLACE_CHARS))
    # Computed by the database, for its indexes and its search; never read here.
    build_type_rank: Mapped[int] = _rank("build_type", BuildType)
    protocol_rank: Mapped[int] = _rank("protocol", ServiceProtocol)
    priority_rank: Mapped[int] = _rank("priority", ServicePriority)
    name_key: Mapped[str] = mapped_column(Computed("lower((name)::text)"), deferred=True, deferred_raiseload=True)
    words: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed("hx_registry.words_of(name, display_name, description, tags)"),
        deferred=True,
        deferred_raiseload=True,
    )

    health: Mapped[ItemHealth] = relationship(lazy="raise", innerjoin=True)
    status: AssociationProxy[ServiceStatus] = association_proxy("health", "status")
    success_count: AssociationProxy[int] = association_proxy("health", "success_count")
    failure_count: AssociationProxy[int] = association_proxy("health", "failure_count")
    last_health_check: AssociationProxy[datetime | None] = association_proxy("health", "last_health_check")
    response_time_ms: AssociationProxy[float | None] = association_proxy("health", "response_time_ms")
    last_seen: AssociationProxy[datetime | None] = association_proxy("health", "last_seen")

    def __init__(self, **values: Any) -> None:
        of_health = {name: coerced(HEALTH_COLUMNS[name], values.pop(name)) for name in HEALTH_FIELDS if name in values}
        dependencies, dependents = values.pop("dependencies", ()), values.pop("dependents", ())
        pending = values.pop("pending_dependencies", ())
        super().__init__(**values)
        due = None if self.deleted_at else self.created_at
        self.health = ItemHealth(tenant_id=self.tenant_id, item_id=self.id, next_check_at=due, **of_health)
        self.health.by_beats = self._lives_by_beats()
        self.dependencies, self.dependents = _as_ids(dependencies), _as_ids(dependents)
        self.pending_dependencies = names_in_order(pending)

    @classmethod
    def field_names(cls) -> frozenset[str]:
        """Return the names of all fields: those of the row, of its health and of its edges."""
        return super().field_names() | {*HEALTH_FIELDS, "dependencies", "dependents", "pending_dependencies"}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return what a new item has in the fields that may be set and need not be; its status is not among them."""
        new = cls(name="")
        settable = cls.field_names() - cls.protected - {"name", "status"}
        return {name: getattr(new, name) for name in settable}

    def update_fields(self, **values: Any) -> dict[str, FieldChange]:
        """Set fields, as every model does. ``status`` is set whatever it was: somebody decides."""
        if "status" in values:
            values["status"] = coerced(HEALTH_COLUMNS["status"], values["status"])
        if "dependencies" in values:
            values["dependencies"] = _as_ids(values["dependencies"])
        if "pending_dependencies" in values:
            values["pending_dependencies"] = names_in_order(values["pending_dependencies"])
        changed = super().update_fields(**values)
        if "status" in changed:
            self.health.maintenance_until = None
        if changed.keys() & _PROBED_ANEW:
            self.health.by_beats = self._lives_by_beats()
            if not self.is_deleted:
                self.health.check_at(datetime.now(UTC))
        return changed

    def soft_delete(self, by: str | None = None, *, now: datetime | None = None) -> None:
        """Delete it, as every model does; it is not probed any more."""
        super().soft_delete(by, now=now)
        self.health.check_at(None)

    def restore(self, by: str | None = None, *, now: datetime | None = None) -> None:
        """Take its deletion back; it is probed again. That no heartbeat came meanwhile says nothing."""
        if self.is_deleted:
            self.health.check_at(now or datetime.now(UTC))
            self.health.ttl_until = None
        super().restore(by, now=now)

    def problems(self) -> Iterator[Problem]:
        """Yield the rules that are broken, those for the health and the edges among them."""
        health = {name: getattr(self.health, name) for name in HEALTH_FIELDS}
        broken = [*super().problems(), *column_problems(health, HEALTH_COLUMNS)]
        yield from broken
        # The rules below are about values of the right types.
        wrong = {problem.field for problem in broken}
        for field, rule, holds in _RULES:
            value = getattr(self, field)
            if field not in wrong and value is not None and not holds(value):
                yield Problem(field, rule)
        # Whoever had such a name before it became a word of the API keeps it.
        if "name" not in wrong and self.name.lower() in RESERVED_NAMES and "name" in self.get_changes():
            yield Problem("name", "is a word of the API: choose another")
        if "config" not in wrong:
            yield from (Problem("config", rule) for rule in health_problems(self.config))
        if not _are_ids(self.dependencies):
            yield Problem("dependencies", f"must be at most {MAX_DEPENDENCIES} ids of services, each once")
        elif self.id in self.dependencies:
            yield Problem("dependencies", "must not hold the service's own id")
        elif not are_names(self.pending_dependencies, MAX_DEPENDENCIES - len(self.dependencies)):
            told = f"must be names, each once, with the dependencies at most {MAX_DEPENDENCIES}"
            yield Problem("pending_dependencies", told)
        elif "name" not in wrong and self.name.lower() in map(str.lower, self.pending_dependencies):
            yield Problem("pending_dependencies", "must not hold the service's own name")

    def to_dict(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Return the whole item, as every model does, and ``health_score``."""
        shown = super().to_dict(exclude)
        return shown if "health_score" in exclude else {**shown, "health_score": self.get_health_score()}

    def update_health_status(
        self,
        status: ServiceStatus,
        *,
        response_time_ms: float | None = None,
        why: tuple[str | None, str | None] = (None, None),
        now: datetime | None = None,
    ) -> bool:
        """Note what was found out about the service, or decided; return whether that changed its status.

        ``HEALTHY`` counts as a success and a sight of it, ``UNHEALTHY`` as a failure: ``why`` is its class and what
        happened, in so far as that is known, which a success clears. Both leave ``MAINTENANCE`` and
        ``DISABLED`` as they are: who decided that takes it back with ``UNKNOWN``, and it is probed at once.
        """
        status, now = ServiceStatus(status), now or datetime.now(UTC)
        if status is ServiceStatus.HEALTHY:
            self.success_count += 1
            self.last_seen = now
            self.health.failure_class = self.health.last_error = None
            if self.health.stale and self.health.next_check_at is not None:
                # Whoever probes next tells that it was seen again.
                self.health.next_check_at = now
        elif status is ServiceStatus.UNHEALTHY:
            self.failure_count += 1
            if why != (None, None):
                self.health.failure_class, self.health.last_error = why
        if status in _OBSERVED:
            self.last_health_check = now
            self.response_time_ms = self.response_time_ms if response_time_ms is None else response_time_ms
        if self.status in unchanged_by(status):
            return False
        self.status = status
        self.health.maintenance_until = None
        if status is ServiceStatus.UNKNOWN and not self.is_deleted:
            self.health.check_at(now)
        return True

    def add_dependency(self, other: RegistryItem) -> bool:
        """Let it depend on ``other``, at both ends; return whether it did not before.

        Raises :class:`InvalidModel` for itself and for another tenant's. Longer cycles are the repository's to refuse.
        """
        if other.id == self.id or other.tenant_id != self.tenant_id:
            raise InvalidModel(Problem("dependencies", "must be other services of the same tenant"))
        if other.id in self.dependencies:
            return False
        self.dependencies = sorted([*self.dependencies, other.id])
        other.dependents = sorted([*other.dependents, self.id])
        return True

    def remove_dependency(self, other: RegistryItem) -> bool:
        """Let it no longer depend on ``other``, at both ends; return whether it did."""
        if other.id not in self.dependencies:
            return False
        self.dependencies = [end for end in self.dependencies if end != other.id]
        other.dependents = [end for end in other.dependents if end != self.id]
        return True

    def get_health_score(self) -> float:
        """Return successes over attempts, 0 to 1; 0 before any attempt."""
        attempts = self.success_count + self.failure_count
        return self.success_count / attempts if attempts else 0.0

    def is_healthy(self) -> bool:
        """Return whether the last word on it is that it is healthy."""
        return self.status is ServiceStatus.HEALTHY

    def is_critical(self) -> bool:
        """Return whether it has the highest priority."""
        return self.priority is ServicePriority.CRITICAL

    def _lives_by_beats(self) -> bool:
        """Return whether nobody asks how it is: its ``config`` wants that, or there is no place to ask."""
        config = self.config if isinstance(self.config, dict) else {}
        if health_config(config).heartbeat:
            return True
        match self.protocol:
            case ServiceProtocol.HTTP:
                return not (self.endpoint or self.health_check_url)
            case ServiceProtocol.WEBSOCKET:
                return not self.endpoint
            case ServiceProtocol.STDIO:
                return config.get("command") is None and not self.auto_start
        return not (self.endpoint or self.location)


def _are_tags(tags: list[Any]) -> bool:
    fit = all(isinstance(tag, str) and 0 < len(tag) <= TAG_CHARS and tag == tag.strip() for tag in tags)
    return fit and len(tags) == len(set(tags)) <= MAX_TAGS


def _as_ids(ends: Any) -> Any:
    """Return several ids in order, texts for them too; everything else, and what holds anything else, as it is."""
    if not isinstance(ends, list | tuple | set | frozenset):
        return ends
    ids = [identifier(end) for end in ends]
    return sorted(ids) if all(isinstance(end, UUID) for end in ids) else ids


def _are_ids(ids: Any) -> bool:
    return (
        isinstance(ids, list)
        and all(isinstance(end, UUID) for end in ids)
        and len(ids) == len(set(ids)) <= MAX_DEPENDENCIES
    )


def _is_small_json(value: dict[str, Any]) -> bool:
    try:
        return len(json.dumps(value, ensure_ascii=False).encode()) <= JSON_BYTES
    except TypeError:
        return False


def _is_without_credentials(place: str) -> bool:
    return _CREDENTIALS.search(place) is None


_RULES: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    ("name", "must not be empty, nor begin or end with a space", lambda name: name.strip() == name != ""),
    ("description", f"must have at most {TEXT_CHARS} characters", lambda text: len(text) <= TEXT_CHARS),
    ("port", f"must be between 1 and {MAX_PORT}", lambda port: 1 <= port <= MAX_PORT),
    ("tags", f"must be at most {MAX_TAGS} texts of 1 to {TAG_CHARS} characters, each once", _are_tags),
    ("service_metadata", f"must be at most {JSON_BYTES // 1024} KiB of JSON", _is_small_json),
    ("config", f"must be at most {JSON_BYTES // 1024} KiB of JSON", _is_small_json),
    *((place, "must not hold a user or a password", _is_without_credentials) for place in _PLACES),
    ("success_count", "must not be below 0", lambda count: count >= 0),
    ("failure_count", "must not be below 0", lambda count: count >= 0),
    ("response_time_ms", "must not be below 0", lambda time: time >= 0),
)
