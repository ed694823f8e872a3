"""Who may do what to which object, and that nobody gives more than it has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from hx_gateway.access.errors import ExceedsGrantor
from hx_gateway.access.principal import Principal, Role, Scope, split_scope
from hx_gateway.access.resources import ResourceKind
from hx_gateway.allowances import Budget, Period, ScopeKind, ScopeLimits
from hx_gateway.errors import Forbidden

Globs: TypeAlias = tuple[str, ...]
Lists: TypeAlias = tuple[Globs, ...]

# What the admin of a tenant may change of it: not what the platform has given it.
TENANT_ADMIN_FIELDS = frozenset({"name", "metadata", "tags"})
# How many keys may stand above one: each was made with the next.
MAX_GRANTORS = 16
_FROM_THE_TOP = tuple(Role)
_WILD = frozenset("*?[")
# A budget of one of these periods holds whoever has it to one of that period: days lie in weeks and in months.
_HOLDS_TO = {
    Period.DAY: frozenset(Period),
    Period.WEEK: frozenset({Period.WEEK, Period.TOTAL}),
    Period.MONTH: frozenset({Period.MONTH, Period.TOTAL}),
    Period.TOTAL: frozenset({Period.TOTAL}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An object that somebody asks for, and what rights to it depend on.

    ``teams`` are those a user is in; ``role`` and ``admin_teams`` what a user is, or a key lets its bearer be.
    """

    kind: ResourceKind
    id: str
    team_id: str | None = None
    user_id: str | None = None
    teams: frozenset[str] = frozenset()
    role: Role = Role.MEMBER
    admin_teams: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What lists are confined to: a tenant (``None``: none), and teams of it (``None``: the whole tenant)."""

    tenant_id: str | None
    teams: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a key would allow. ``models``: its own list and those of its user, team and tenant, where they have one."""

    scopes: Collection[str] = ()
    models: Collection[Collection[str]] = ()
    allowed_routes: Collection[str] | None = None
    expires_at: datetime | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    budgets: Collection[tuple[str, int]] = ()


def sight_of(principal: Principal, kind: ResourceKind) -> Sight:
    """Return what ``principal`` may list of a kind. Raises ``Forbidden`` for whoever administers nothing."""
    if principal.role is Role.PLATFORM_ADMIN:
        return Sight(tenant_id=None)
    own = str(principal.tenant_id)
    if principal.role is Role.TENANT_ADMIN:
        return Sight(tenant_id=own)
    teams = _administered(principal)
    if teams and kind is not ResourceKind.TENANT:
        return Sight(tenant_id=own, teams=teams)
    raise _forbidden()


def check_read(principal: Principal, target: Target) -> None:
    """Raise ``Forbidden`` unless ``principal`` may see an object of a tenant that it may know of."""
    if principal.role in (Role.PLATFORM_ADMIN, Role.TENANT_ADMIN):
        return
    teams = _administered(principal)
    match target.kind:
        case ResourceKind.TEAM:
            allowed = target.id in teams
        case ResourceKind.USER:
            allowed = target.id == principal.user_id or bool(target.teams & teams)
        case ResourceKind.KEY:
            own = target.id == principal.key_id or (target.user_id is not None and target.user_id == principal.user_id)
            allowed = own or target.team_id in teams
        case _:
            allowed = False
    if not allowed:
        raise _forbidden()


def check_create(principal: Principal, kind: ResourceKind) -> None:
    """Raise ``Forbidden`` for whoever may create no object of the kind at all."""
    if principal.role is Role.PLATFORM_ADMIN:
        return
    if kind is not ResourceKind.TENANT and principal.role is Role.TENANT_ADMIN:
        return
    if kind is not ResourceKind.KEY or not _administered(principal):
        raise _forbidden()


def check_write(principal: Principal, target: Target, fields: Collection[str] | None = None) -> None:
    """Raise ``Forbidden`` unless ``principal`` may change an object.

    ``fields`` are those to be changed; ``None`` stands for what concerns the whole: deleting, blocking and the like.
    """
    if principal.role is Role.PLATFORM_ADMIN:
        return
    if principal.role is Role.TENANT_ADMIN:
        allowed = target.kind is not ResourceKind.TENANT or (fields is not None and set(fields) <= TENANT_ADMIN_FIELDS)
    else:
        allowed = target.kind is ResourceKind.KEY and target.team_id in _administered(principal)
    if not allowed:
        raise _forbidden()
    check_power(principal, target.role, target.admin_teams)


def check_power(principal: Principal, role: Role, admin_teams: frozenset[str], *, param: str | None = None) -> None:
    """Raise :class:`ExceedsGrantor` for a role above that of ``principal``, or that of an admin of others' teams."""
    own = Role.TEAM_ADMIN if _administered(principal) and principal.role is Role.MEMBER else principal.role
    above = _FROM_THE_TOP.index(role) < _FROM_THE_TOP.index(own)
    others = own not in (Role.PLATFORM_ADMIN, Role.TENANT_ADMIN) and not admin_teams <= _administered(principal)
    if above or others:
        raise ExceedsGrantor(
            f"This takes the rights of a {role.value}, which your key does not have: ask somebody who does.",
            param=param,
        )


def check_member(principal: Principal, team_id: str, *, before: str | None, after: str | None) -> None:
    """Raise unless ``principal`` may change what a user is in a team: admins are made and unmade by those above."""
    if principal.role in (Role.PLATFORM_ADMIN, Role.TENANT_ADMIN):
        return
    if team_id not in _administered(principal):
        raise _forbidden()
    if "admin" in (before, after):
        raise ExceedsGrantor("Only an admin of the tenant makes and removes admins of a team.", param="role")


def check_offer(principal: Principal, offer: Offer, fields: Collection[str]) -> None:
    """Raise :class:`ExceedsGrantor` where a key would allow more than that of ``principal``, looking at ``fields``.

    An admin of the platform may give any scope and any model.
    """
    platform = principal.role is Role.PLATFORM_ADMIN
    limits, budgets = own_limits(principal), own_budgets(principal)
    within = {
        "scopes": platform or all(_gives(principal, scope) for scope in offer.scopes),
        "models": platform or all(any(_covered(globs, own) for globs in offer.models) for own in principal.models),
        "allowed_routes": all(_routes_within(offer.allowed_routes, own) for own in principal.allowed_routes),
        "expires_at": _ends_within(offer.expires_at, principal.expires_at),
        "limits": limits is None or _limits_within(offer.limits, limits),
        "budgets": all(_budget_within(offer.budgets, budget) for budget in budgets),
    }
    for name, holds in within.items():
        if name in fields and not holds:
            raise ExceedsGrantor(f"{name}: a key may not allow more than the key that gives it.", param=name)


def held_to(principal: Principal, grantor: Principal) -> Principal:
    """Return ``principal`` with what ``grantor``, whose key made its own, may do now as well: never more than either.

    Limits and budgets stay as they are. Of an admin of the platform only routes and end hold what it made, as when it
    makes it.
    """
    ends = [at for at in (principal.expires_at, grantor.expires_at) if at is not None]
    held = replace(
        principal,
        allowed_routes=_both(principal.allowed_routes, grantor.allowed_routes),
        expires_at=min(ends, default=None),
    )
    if grantor.role is Role.PLATFORM_ADMIN:
        return held
    own_tenant = grantor.tenant_id == principal.tenant_id
    highest = grantor.role if own_tenant else max(grantor.role, Role.MEMBER, key=_FROM_THE_TOP.index)
    teams = principal.admin_teams
    if highest is not Role.TENANT_ADMIN:
        teams &= _administered(grantor) if own_tenant else frozenset()
    return replace(
        held,
        scopes=principal.scopes & grantor.scopes,
        bound=frozenset(scope for scope in principal.bound if _gives(grantor, scope)),
        models=_both(principal.models, grantor.models),
        role=max(principal.role, highest, key=_FROM_THE_TOP.index),
        admin_teams=teams,
    )


def defaults(principal: Principal, admin_role: str | None) -> dict[str, Any]:
    """Return what a new key is given where nobody says otherwise: never more than ``principal`` has."""
    scopes = sorted(principal.scopes - {Scope.ADMIN}) if admin_role else sorted(principal.scopes & {Scope.MODELS})
    given: dict[str, Any] = {"scopes": [scope.value for scope in scopes], "expires_at": principal.expires_at}
    if principal.allowed_routes:
        given["allowed_routes"] = list(_narrowest(principal.allowed_routes))
    limits, budgets = own_limits(principal), own_budgets(principal)
    if limits is not None:
        given["limits"] = _as_fields(limits)
    if budgets:
        given["budgets"] = [
            {"period": budget.period.value, "limit_nano": budget.limit_nano, "soft_nano": budget.soft_nano}
            for budget in budgets
        ]
    return given


def own_limits(principal: Principal) -> ScopeLimits | None:
    """Return the limits of the principal's own key."""
    scopes = () if principal.allowance is None else principal.allowance.limits
    return next((scope for scope in scopes if scope.kind is ScopeKind.KEY), None)


def own_budgets(principal: Principal) -> tuple[Budget, ...]:
    """Return the budgets of the principal's own key."""
    budgets = () if principal.allowance is None else principal.allowance.budgets
    return tuple(budget for budget in budgets if budget.kind is ScopeKind.KEY)


def _administered(principal: Principal) -> frozenset[str]:
    return frozenset() if principal.role is Role.READ_ONLY else principal.admin_teams


def _forbidden() -> Forbidden:
    return Forbidden("Your key does not have the right to this: ask an administrator.")


def _gives(principal: Principal, scope: str) -> bool:
    """Return whether a right is one of the principal's own, or one to a prefix within one of its own."""
    bound, prefix = split_scope(scope)
    if bound is not None:
        return any(prefix.lower().startswith(own.lower()) for own in principal.prefixes(bound))
    return scope in {own.value for own in principal.scopes}


def _covered(globs: Collection[str], by: Collection[str]) -> bool:
    """Return whether whatever matches one of ``globs`` surely matches one of ``by``."""
    return all(any(_glob_within(glob, wider) for wider in by) for glob in globs)


def _glob_within(glob: str, wider: str) -> bool:
    if glob == wider or wider == "*":
        return True
    if not _WILD & set(glob):
        return fnmatchcase(glob, wider)
    # Text that is matched by stars only may hold wild cards itself; a bracket is more than what it is written as.
    return "[" not in glob and not {"?", "["} & set(wider) and fnmatchcase(glob, wider)


def _routes_within(routes: Collection[str] | None, own: Collection[str]) -> bool:
    return routes is not None and _covered(routes, own)


def _narrowest(lists: Lists) -> Globs:
    """Return the list that lies within all the others; the first where none does."""
    return next((globs for globs in lists if all(_covered(globs, other) for other in lists)), lists[0])


def _both(own: Lists, others: Lists) -> Lists:
    return tuple(dict.fromkeys((*own, *others)))


def _ends_within(ends: datetime | None, own: datetime | None) -> bool:
    return own is None or (ends is not None and ends <= own)


def _as_fields(limits: ScopeLimits) -> dict[str, int]:
    fields = {"max_parallel": limits.parallel}
    if limits.requests is not None:
        fields |= {"rpm": limits.requests.per_minute, "burst": limits.requests.burst}
    if limits.tokens is not None:
        fields["tpm"] = limits.tokens.per_minute
    return {name: value for name, value in fields.items() if value is not None}


def _limits_within(limits: Mapping[str, int], own: ScopeLimits) -> bool:
    with_burst = {"burst": limits["rpm"], **limits} if "rpm" in limits else limits
    return all(name in with_burst and with_burst[name] <= most for name, most in _as_fields(own).items())


def _budget_within(budgets: Collection[tuple[str, int]], own: Budget) -> bool:
    return any(Period(period) in _HOLDS_TO[own.period] and limit <= own.limit_nano for period, limit in budgets)
