"""Row-level security: whose rows a transaction sees, in the words that the policies are written in.

A policy lets rows through whose tenant is what the setting ``hx.tenant`` says, and all of them where it says
:data:`EVERY_TENANT`. Where it says nothing there are no rows. It stands behind the queries' own conditions, for one
that forgets them. It does not stand against those who send SQL of their own: they can set it as we do.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

TENANT_SETTING = "hx.tenant"
# No tenant's id: the table of tenants refuses it.
EVERY_TENANT = "*"
# For connections that work for all tenants: keys are looked up, journals stored, old rows removed. Given when a session
# begins they are its defaults, to which RESET ALL goes back: a pool resets a connection each time it gets it back.
EVERY_TENANT_SETTINGS: Mapping[str, str] = MappingProxyType({TENANT_SETTING: EVERY_TENANT})

_EXEMPT = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls)"


async def exempt_role(connection: Any) -> str | None:
    """Return the name of the connection's role if no policy holds for it: a superuser, or one with ``BYPASSRLS``.

    ``connection`` is asyncpg's, whose errors pass.
    """
    name: str | None = await connection.fetchval(_EXEMPT)
    return name
