"""Query parameters of the record's routes: each known, each once, each of its type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from urllib.parse import parse_qsl

from hx_gateway.access.principal import Scope
from hx_gateway.errors import Forbidden, InvalidRequest
from hx_gateway.observability.filters import check_tenant
from hx_gateway.pipeline.context import Context

MAX_PARAMETERS = 50
TENANT = "tenant_id"
_DIGITS = re.compile(r"[0-9]{1,18}")
_ADMIN = frozenset({Scope.ADMIN})
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def read_parameters(ctx: Context, known: Iterable[str]) -> dict[str, str]:
    """Return the parameters. Raises ``InvalidRequest`` for one that is not ``known`` or stands twice."""
    try:
        pairs = parse_qsl(
            ctx.query.decode("ascii", "replace"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise InvalidRequest("The query string is not UTF-8, or has too many parameters.") from None
    allowed = frozenset(known)
    found: dict[str, str] = {}
    unknown = sorted({name for name, _ in pairs} - allowed)
    if unknown:
        names = ", ".join(repr(name[:64]) for name in unknown[:5])
        raise InvalidRequest(f"Not known here: {names}. Known: {', '.join(sorted(allowed))}.", param=unknown[0][:64])
    for name, value in pairs:
        if name in found:
            raise InvalidRequest(f"{name} is given twice.", param=name)
        found[name] = value
    return found


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


def time_parameter(parameters: Mapping[str, str], name: str) -> datetime | None:
    """Return an ISO 8601 time. ``+`` of a zone that was not written as ``%2B`` is understood."""
    text = parameters.get(name)
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise InvalidRequest(
            f"{name} must be a time in ISO 8601, as 2026-11-24T12:00:00Z, not {text[:60]!r}.", param=name
        ) from None


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


def choice_parameter(parameters: Mapping[str, str], name: str, choices: Iterable[str]) -> str | None:
    """Return one of ``choices``, ``None`` where it is not given."""
    text = parameters.get(name)
    if text is not None and text not in choices:
        raise InvalidRequest(f"{name} must be one of {', '.join(choices)}, not {text[:60]!r}.", param=name)
    return text
