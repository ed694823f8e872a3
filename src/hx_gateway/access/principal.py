"""A caller whose key was accepted, and the rights it carries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol

KeyId = NewType("KeyId", str)
TenantId = NewType("TenantId", str)

DEFAULT_TENANT = TenantId("default")


class Scope(StrEnum):
    """A right. ``ADMIN`` is one of its own: it is checked like the others, but its key holds them all."""

    MODELS = "models"
    PASSTHROUGH = "passthrough"
    EVENTS_WRITE = "events:write"
    EVENTS_READ = "events:read"
    REGISTRY_READ = "registry:read"
    REGISTRY_WRITE = "registry:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls. ``key_id`` is public (it stands in logs and records); the secret is not kept."""

    key_id: KeyId
    tenant_id: TenantId
    scopes: frozenset[Scope]

    def holds(self, needed: frozenset[Scope]) -> bool:
        """Return whether every right in ``needed`` is held."""
        return needed <= self.scopes


class Authenticator(Protocol):
    """Turns a presented key into a principal.

    ``None`` means: whoever keeps the keys says there is no such key. Raises
    :class:`~hx_gateway.errors.Unavailable` when that cannot be known; never guesses.
    """

    async def authenticate(self, presented: str) -> Principal | None: ...
