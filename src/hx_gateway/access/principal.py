"""A caller whose key was accepted, and the rights it carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NewType, Protocol

from hx_gateway.allowances import Allowance
from hx_gateway.cache_rules import CacheRule

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
    SPEND_READ = "spend:read"
    ADMIN = "admin"


class BoundScope(StrEnum):
    """A right to what begins with a prefix, which is written behind it: ``registry:register:acme-``."""

    REGISTER = "registry:register"


# Whoever holds this one needs no other for any prefix.
WIDER = {BoundScope.REGISTER: Scope.REGISTRY_WRITE}


class Role(StrEnum):
    """What a caller is among those who administer tenants, teams and keys; from the most powerful to the least."""

    PLATFORM_ADMIN = "platform_admin"
    TENANT_ADMIN = "tenant_admin"
    TEAM_ADMIN = "team_admin"
    MEMBER = "member"
    READ_ONLY = "read_only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls. ``key_id`` is public (it stands in logs and records); the secret is not kept.

    ``admin_teams`` are those it is admin of, ``member_teams`` all it belongs to. ``models`` holds a list of globs for
    each of key, user, team and tenant that has one, and of the keys above it: a model must match one glob of every
    list. ``aliases`` are the key's own, taken one step and before the configured ones. ``allowed_routes`` are lists of
    globs of paths in the same way, of the key and of those above it (none: all that its scopes allow). Without an
    ``allowance`` nothing is counted. ``bound`` are rights to what begins with a prefix, as they are written. ``cache``
    is what the key says of the response cache.
    """

    key_id: KeyId
    tenant_id: TenantId
    scopes: frozenset[Scope]
    role: Role = Role.MEMBER
    team_id: str | None = None
    user_id: str | None = None
    admin_teams: frozenset[str] = frozenset()
    member_teams: frozenset[str] = frozenset()
    models: tuple[tuple[str, ...], ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    allowed_routes: tuple[tuple[str, ...], ...] = ()
    allowance: Allowance | None = field(default=None, hash=False)
    expires_at: datetime | None = None
    tags: tuple[str, ...] = ()
    bound: frozenset[str] = frozenset()
    cache: CacheRule | None = None

    def holds(self, needed: frozenset[Scope]) -> bool:
        """Return whether every right in ``needed`` is held."""
        return needed <= self.scopes

    def prefixes(self, scope: BoundScope) -> tuple[str, ...]:
        """Return what names begin with that the right is for: ``""`` where it is for all."""
        if WIDER[scope] in self.scopes:
            return ("",)
        return tuple(sorted(prefix for of, prefix in map(split_scope, self.bound) if of is scope))

    def may_use(self, model: str) -> bool:
        """Return whether calls of ``model`` are allowed. An empty list allows none, no list at all allows every one."""
        return all(any(fnmatchcase(model, glob) for glob in globs) for globs in self.models)

    def may_take(self, path: str) -> bool:
        """Return whether the decoded ``path`` is among the routes that the key is confined to."""
        return all(any(fnmatchcase(path, glob) for glob in globs) for globs in self.allowed_routes)


def split_scope(written: str) -> tuple[BoundScope | None, str]:
    """Return the right and the prefix of what was written; ``None`` where it is no such right."""
    for scope in BoundScope:
        if written.startswith(f"{scope}:"):
            return scope, written.removeprefix(f"{scope}:")
    return None, ""


class Authenticator(Protocol):
    """Turns a presented key into a principal.

    ``None`` means: whoever keeps the keys says there is no such key. Raises
    :class:`~hx_gateway.errors.Unavailable` when that cannot be known; never guesses. Raises
    :class:`~hx_gateway.errors.InvalidApiKey` with a code of its own for a key that was good once.
    """

    async def authenticate(self, presented: str) -> Principal | None: ...
