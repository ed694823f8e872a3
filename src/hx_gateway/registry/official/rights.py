"""Who may read and publish which servers."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from hx_gateway.access.principal import Principal, Scope
from hx_gateway.errors import Forbidden

EVERY_NAME = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Whose servers are read. ``inside``: also how their services are, and what they depend on."""

    tenant_id: str
    inside: bool = True


def granted_names(principal: Principal) -> tuple[str, ...]:
    """Return globs of the names that a key may publish and change."""
    return (EVERY_NAME,) if Scope.REGISTRY_WRITE in principal.scopes else ()


def check_may_publish(principal: Principal, name: str) -> None:
    """Raise ``Forbidden``, with what is granted, for a server that is not the key's to publish."""
    granted = granted_names(principal)
    if not any(fnmatchcase(name, glob) for glob in granted):
        shown = ", ".join(granted) or "none"
        raise Forbidden(f"The API key may not publish {name[:200]!r}; names granted to it: {shown}.", param="name")
