"""Why the registry refuses something, beside the errors that everybody raises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hx_gateway.access.errors import MAX_SHOWN_CHARS, Conflict, InvalidField
from hx_gateway.errors import HXError, UpstreamFailed

MAX_SHOWN_NAMES = 20
IMPORT_RETRY_SECONDS = 10


class DependencyCycle(Conflict):
    """A dependency that would close a cycle. ``path`` holds the names along it, the first one again at its end."""

    code = "dependency_cycle"

    def __init__(self, path: Sequence[str]) -> None:
        shown = [*path] if len(path) <= MAX_SHOWN_NAMES else [*path[: MAX_SHOWN_NAMES - 1], "…", path[-1]]
        super().__init__(f"dependencies: this would close a cycle: {' → '.join(shown)}.", param="dependencies")
        self.path = tuple(path)
        self.details = [{"code": self.code, "path": list(path)}]


class HasDependents(Conflict):
    """A service that others depend on is to be deleted. ``dependents`` are their names."""

    code = "has_dependents"

    def __init__(self, name: str, dependents: Sequence[str]) -> None:
        shown = ", ".join(dependents[:MAX_SHOWN_NAMES]) + (", …" if len(dependents) > MAX_SHOWN_NAMES else "")
        super().__init__(
            f"{name!r} is needed by {shown}: delete those first, or say what is to become of them (dependents=detach "
            "takes their dependency away, dependents=force leaves it).",
            param="dependents",
        )
        self.dependents = tuple(dependents)
        self.details = [{"code": self.code, "name": dependent} for dependent in dependents]


class Deleted(HXError):
    """What is asked for was deleted, and may be restored."""

    status = 410
    code = "deleted"
    type = "invalid_request_error"

    def __init__(self, kind: str, ref: str, *, param: str = "ref") -> None:
        super().__init__(
            f"The {kind} {ref[:MAX_SHOWN_CHARS]!r} was deleted: ask with include_deleted=true to see it, restore it to "
            "use it.",
            param=param,
        )


class NotProbing(Conflict):
    """Somebody asks a gateway for a probe that makes none."""

    code = "not_probing"

    def __init__(self) -> None:
        super().__init__("This gateway does not probe services (HX_REGISTRY_PROBING).")


class ImportsBusy(HXError):
    """As many registries are imported at once as this process, or the tenant, may."""

    status = 429
    code = "imports_busy"
    type = "rate_limit_error"

    def __init__(self) -> None:
        headers = {"retry-after": str(IMPORT_RETRY_SECONDS), "retry-after-ms": str(IMPORT_RETRY_SECONDS * 1000)}
        super().__init__("Too many registries are imported just now: try again when one has ended.", headers=headers)


class NotDeleted(Conflict):
    """A living service is to be removed for good."""

    code = "not_deleted"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is not deleted: delete it first, without hard. A deleted one whose name another one has by now "
            "is named by its id (include_deleted=only lists those).",
            param="hard",
        )


class VersionConflict(HXError):
    """What is to be changed was changed since it was read."""

    status = 412
    code = "version_conflict"
    type = "invalid_request_error"

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"This is version {found}, not {expected}: somebody changed it. Read it again.", param="row_version"
        )


class ToolsNotListed(UpstreamFailed):
    """A service was asked for its tools and did not tell them. Its details have the class of the failure."""

    code = "tools_not_listed"

    def __init__(self, name: str, failure_class: str, reason: str) -> None:
        super().__init__(f"{name!r} did not tell its tools: {reason}.", param="ref")
        self.details = [{"code": self.code, "failure_class": failure_class, "message": reason}]


class NoToolsToAskFor(Conflict):
    """A service is not such that it could be asked for tools."""

    code = "not_askable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The service cannot be asked for tools: {reason}.", param="ref")


@dataclass(frozen=True, slots=True)
class Rule:
    """A constraint of the database: the field that it is about, what it says of it, and the error that it becomes."""

    field: str
    says: str
    error: type[Conflict | InvalidField] = InvalidField

    def broken(self) -> HXError:
        """Return the error for whoever broke it."""
        return self.error(f"{self.field}: {self.says}.", param=self.field)


ITEM_RULES: Mapping[str, Rule] = {
    "registry_items_by_name": Rule("name", "a service with this name exists already, choose another", Conflict),
    "registry_items_pkey": Rule("id", "a service with this id exists already", Conflict),
    "registry_items_tenant_id_fkey": Rule("tenant_id", "there is no such tenant"),
    "registry_items_port_check": Rule("port", "must be between 1 and 65535"),
    "registry_items_service_metadata_check": Rule("service_metadata", "must be an object"),
    "registry_items_config_check": Rule("config", "must be an object"),
    "registry_items_check": Rule("is_active", "is what deleted_at says"),
    "registry_health_success_count_check": Rule("success_count", "must not be below 0"),
    "registry_health_failure_count_check": Rule("failure_count", "must not be below 0"),
    "registry_health_response_time_ms_check": Rule("response_time_ms", "must not be below 0"),
    "registry_pending_dependencies_pkey": Rule("pending_dependencies", "must be each once", Conflict),
    "registry_dependencies_pkey": Rule("dependencies", "must be each once", Conflict),
    "registry_dependencies_not_itself": Rule("dependencies", "must not hold the service's own id"),
    "registry_tool_lists_item_fkey": Rule("ref", "the service was removed for good meanwhile", Conflict),
    "registry_tools_item_fkey": Rule("ref", "the service was removed for good meanwhile", Conflict),
    "registry_dependencies_item_fkey": Rule("id", "there is no such service"),
    "registry_dependencies_depends_on_fkey": Rule("dependencies", "must be services that there are"),
}
