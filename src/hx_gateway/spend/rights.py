"""Which rows of spend a caller may see."""

from __future__ import annotations

from dataclasses import dataclass

from hx_gateway.access.principal import Principal, Role
from hx_gateway.errors import Forbidden

TENANT = "tenant_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What every query is confined to.

    ``tenant_id`` is ``None`` for every tenant. ``whole``: all of the tenant's rows; else only those of the key, of the
    user (where there is one) and of ``teams``.
    """

    tenant_id: str | None
    whole: bool
    key_id: str = ""
    user_id: str | None = None
    teams: tuple[str, ...] = ()


def sight_of(principal: Principal, tenant: str | None = None) -> Sight:
    """Return what ``principal`` sees of ``tenant``; ``None`` is all that it may see.

    Raises ``Forbidden`` for who names another tenant than its own without being the platform's admin, whether or not
    there is such a tenant.
    """
    if principal.role is Role.PLATFORM_ADMIN:
        return Sight(tenant_id=tenant, whole=True)
    own = str(principal.tenant_id)
    if tenant not in (None, own):
        raise Forbidden("Only the platform's admin may name another tenant than its own.", param=TENANT)
    if principal.role is Role.TENANT_ADMIN:
        return Sight(tenant_id=own, whole=True)
    return Sight(
        tenant_id=own,
        whole=False,
        key_id=str(principal.key_id),
        user_id=principal.user_id or None,
        teams=tuple(sorted(principal.admin_teams)),
    )
