"""What query parameters of the record's routes mean."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hx_gateway.access.principal import Scope
from hx_gateway.errors import Forbidden, InvalidRequest
from hx_gateway.observability.filters import check_tenant
from hx_gateway.pipeline.context import Context

TENANT = "tenant_id"
_DIGITS = re.compile(r"[0-9]{1,18}")
_ADMIN = frozenset({Scope.ADMIN})
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def tenant_of(ctx: Context, parameters: Mapping[str, str]) -> str:
    """Return the tenant of the key; an admin's may name another. Raises ``Forbidden`` for others that do."""
    assert ctx.principal is not None
    own = str(ctx.principal.tenant_id)
    named = parameters.get(TENANT, own)
    if named == own:
        return own
    if not ctx.principal.holds(_ADMIN):
        raise Forbidden("Only an admin's key may name another tenant than its own.", param=TENANT)
    check_tenant(named)
    return named


def count_parameter(parameters: Mapping[str, str], name: str, default: int) -> int:
    """Return a whole number."""
    text = parameters.get(name)
    if text is None:
        return default
    return whole_number(name, text)


def whole_number(name: str, text: str) -> int:
    """Return the number that ``text`` is the digits of."""
    if not _DIGITS.fullmatch(text):
        raise InvalidRequest(f"{name} must be a whole number, not {text[:60]!r}.", param=name)
    return int(text)


def share_parameter(parameters: Mapping[str, str], name: str) -> float | None:
    """Return a number; whether it is a share is for who knows what it means."""
    text = parameters.get(name)
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be a number, not {text[:60]!r}.", param=name) from None


def flag_parameter(parameters: Mapping[str, str], name: str) -> bool | None:
    """Return ``true`` or ``false``, ``None`` where it is not given."""
    text = parameters.get(name)
    if text is None:
        return None
    if text not in _BOOLEANS:
        raise InvalidRequest(f"{name} must be true or false, not {text[:60]!r}.", param=name)
    return _BOOLEANS[text]
