"""What not everybody may who may write to the registry."""

from __future__ import annotations

from hx_gateway.access.principal import Principal, Role
from hx_gateway.errors import Forbidden

_MAY_PURGE = frozenset({Role.PLATFORM_ADMIN, Role.TENANT_ADMIN})


def check_may_purge(principal: Principal) -> None:
    """Raise ``Forbidden`` for who may not remove services for good: that is for admins of the tenant."""
    if principal.role not in _MAY_PURGE:
        raise Forbidden("Only an admin of the tenant may remove a service for good.", param="hard")
