"""One change of a service, and what tells the changes that somebody wants from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

SOURCE = "/api/v1/registry"
SPEC_VERSION = "1.0"


class ChangeType(StrEnum):
    """What happened to a service, or to the registry of a tenant as a whole.

    ``RESET``: what a client knows is of another history; it lists anew.
    """

    CREATED = "service.created"
    UPDATED = "service.updated"
    DELETED = "service.deleted"
    RESTORED = "service.restored"
    PURGED = "service.purged"
    STATUS_CHANGED = "service.status_changed"
    DEPENDENCY_CHANGED = "service.dependency_changed"
    TOOLS_CHANGED = "service.tools_changed"
    FLAPPING = "service.flapping"
    STALE = "service.stale"
    SELF_PRESERVATION = "registry.self_preservation"
    RESET = "registry.reset"


_BY_ACTION = {
    "created": ChangeType.CREATED,
    "deleted": ChangeType.DELETED,
    "restored": ChangeType.RESTORED,
    "purged": ChangeType.PURGED,
}
# A change of one of these alone has a type of its own.
_BY_FIELD = {
    "status": ChangeType.STATUS_CHANGED,
    "tools": ChangeType.TOOLS_CHANGED,
    "flapping": ChangeType.FLAPPING,
    "stale": ChangeType.STALE,
    "self_preservation": ChangeType.SELF_PRESERVATION,
}
_DEPENDENCIES = frozenset({"dependencies", "pending_dependencies"})


def type_of(action: str, changed: frozenset[str]) -> ChangeType:
    """Return the type of an audited ``action`` that changed these fields."""
    if action in _BY_ACTION:
        return _BY_ACTION[action]
    if changed and changed <= _DEPENDENCIES:
        return ChangeType.DEPENDENCY_CHANGED
    return _BY_FIELD.get(next(iter(changed)), ChangeType.UPDATED) if len(changed) == 1 else ChangeType.UPDATED


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A committed change. ``seq`` grows with every change of a tenant, with gaps.

    ``before`` and ``after`` hold the fields that differ, all of them where the service was made or deleted; values
    named like secrets are masked. ``tags`` and ``is_required`` are the service's as it is now. What is about no service
    has neither ``service_id`` nor ``name``.
    """

    seq: int
    type: ChangeType
    at: datetime
    service_id: str | None
    name: str | None
    actor_key: str
    actor_user: str | None
    request_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    tags: frozenset[str]
    is_required: bool

    @property
    def changed_fields(self) -> list[str]:
        """The names of the fields that differ, sorted."""
        return sorted({*(self.before or {}), *(self.after or {})})

    def event(self) -> dict[str, Any]:
        """Return the change as CloudEvents 1.0 has it in JSON."""
        return {
            "specversion": SPEC_VERSION,
            "id": str(self.seq),
            "seq": self.seq,
            "type": self.type.value,
            "source": SOURCE,
            # An attribute that has no value is left out.
            **({} if self.name is None else {"subject": self.name}),
            "time": self.at,
            "datacontenttype": "application/json",
            "data": {
                "service_id": self.service_id,
                "name": self.name,
                "changed_fields": self.changed_fields,
                "before": self.before,
                "after": self.after,
                "actor": {"key": self.actor_key, "user": self.actor_user},
                "request_id": self.request_id,
            },
        }

    def notice(self, tenant_id: str) -> dict[str, Any]:
        """Return what is published of it: enough to know what to ask for, nothing that is somebody's secret."""
        return {
            "tenant_id": tenant_id,
            "seq": self.seq,
            "type": self.type.value,
            "id": self.service_id,
            "name": self.name,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFilter:
    """Which changes are wanted: those that pass all that is given. Nothing given: all.

    ``names`` without case. A change has a tag if its service has it, or had it before this change. What is about no
    service has no name and no tag, and is not required.
    """

    types: frozenset[ChangeType] = frozenset()
    names: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    required_only: bool = False

    def passes(self, change: Change) -> bool:
        """Return whether the change is wanted."""
        if self.types and change.type not in self.types:
            return False
        if self.names and not self.names & {name.lower() for name in _held(change, "name", change.name or "")}:
            return False
        if self.tags and not self.tags & {*change.tags, *_held_tags(change)}:
            return False
        return not self.required_only or True in _held(change, "is_required", change.is_required)


def _held(change: Change, field: str, now: Any) -> list[Any]:
    """Return what the service has in ``field`` now, and around this change."""
    sides = (change.before or {}, change.after or {})
    return [now, *(side[field] for side in sides if field in side)]


def _held_tags(change: Change) -> list[str]:
    return [tag for side in (change.before or {}, change.after or {}) for tag in side.get("tags", ())]
