"""Reads the keys of a LiteLLM database, so that its clients go on with the keys they have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from typing import Any

from hx_gateway.allowances import MAX_PARALLEL, MAX_PER_MINUTE, Period
from hx_gateway.kit.money import MAX_DECIMALS, usd_to_nano

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DURATION = re.compile(r"(\d{1,6})(mo|s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "mo": 30 * 86_400}
# From the shortest. A month of theirs is 30 days or a calendar month.
_PERIODS = ((Period.DAY, 1), (Period.WEEK, 7), (Period.MONTH, 31))
# LiteLLM's words in place of a model's name (its ``SpecialModelNames``).
_EVERY_MODEL = frozenset({"all-proxy-models", "all-team-models", "*"})
_NO_MODEL = "no-default-models"
# LiteLLM's names for groups of routes (its ``LiteLLMRoutes``) that have a meaning here.
_ROUTE_GROUPS = {"llm_api_routes": ("/v1/*",), "openai_routes": ("/v1/*",)}
_LIMITS = {
    "rpm_limit": ("rpm", MAX_PER_MINUTE),
    "tpm_limit": ("tpm", MAX_PER_MINUTE),
    "max_parallel_requests": ("max_parallel", MAX_PARALLEL),
}
_MAX_NAME = 200


class UnreadableKey(ValueError):
    """A row that cannot be taken over; the text says which and why, and holds no part of the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedBudget:
    """Money for a period, as our keys have it."""

    limit_nano: int
    period: Period


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedKey:
    """A key in our terms. ``sha256`` is what LiteLLM stores: enough to find the key, never to be let in.

    ``models`` is ``None`` for all. ``source_team`` and ``source_user`` are the ids there. ``warnings`` tell what could
    not be taken over as it was; wherever there was a choice, the key may do less than before and never more.
    """

    sha256: bytes = field(repr=False)
    name: str
    last_four: str
    models: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    allowed_routes: tuple[str, ...] | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    budgets: tuple[ImportedBudget, ...] = ()
    expires_at: datetime | None = None
    blocked: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    source_team: str | None = None
    source_user: str | None = None
    warnings: tuple[str, ...] = ()


def read_litellm_keys(rows: Iterable[Mapping[str, Any]]) -> list[ImportedKey]:
    """Return the keys of rows of ``LiteLLM_VerificationToken``, by the names of its columns; columns may be missing.

    Raises :class:`UnreadableKey` for the first row that makes no key, so that nothing is taken over by half.
    """
    keys: list[ImportedKey] = []
    for number, row in enumerate(rows, start=1):
        try:
            keys.append(_read_key(row))
        except ValueError as error:
            raise UnreadableKey(f"row {number} ({_name(row)!r}): {error}") from None
    return keys


def _read_key(row: Mapping[str, Any]) -> ImportedKey:
    warnings: list[str] = []
    metadata = _mapping(row, "metadata")
    tags = metadata.get("tags")
    return ImportedKey(
        sha256=_sha256(row.get("token")),
        name=_name(row),
        last_four=_last_four(row),
        models=_models(row, warnings),
        aliases={str(alias): str(model) for alias, model in _mapping(row, "aliases").items()},
        allowed_routes=_routes(row, warnings),
        limits=_limits(row),
        budgets=_budgets(row, warnings),
        expires_at=_moment(row.get("expires")),
        blocked=bool(row.get("blocked")),
        metadata={name: value for name, value in metadata.items() if name != "tags"},
        tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        source_team=row.get("team_id") or None,
        source_user=row.get("user_id") or None,
        warnings=tuple(warnings),
    )


def _sha256(token: object) -> bytes:
    """Return the SHA-256 of the key's text: what is stored, or that of a text from before LiteLLM stored digests."""
    if not isinstance(token, str) or not token:
        raise ValueError("token is missing")
    if _SHA256.fullmatch(token):
        return bytes.fromhex(token)
    if token.startswith("sk-"):
        return hashlib.sha256(token.encode()).digest()
    raise ValueError("token is neither a SHA-256 in hexadecimal digits nor a key")


def _name(row: Mapping[str, Any]) -> str:
    # ``key_name`` is what LiteLLM shows of the key: its last four characters.
    return str(row.get("key_alias") or row.get("key_name") or "imported")[:_MAX_NAME]


def _last_four(row: Mapping[str, Any]) -> str:
    shown = str(row.get("key_name") or "")
    return shown[-4:] if shown.startswith("sk-...") else ""


def _models(row: Mapping[str, Any], warnings: list[str]) -> tuple[str, ...] | None:
    models = row.get("models") or []
    if not isinstance(models, list | tuple):
        raise ValueError("models is not a list")
    names = [str(model) for model in models]
    if not names or _EVERY_MODEL & set(names):
        return None
    if _NO_MODEL in names and len(names) > 1:
        warnings.append(f"{_NO_MODEL!r} stands beside models and is left out")
    # A bracket is part of a name there and begins a set of characters here.
    return tuple(name.replace("[", "[[]") for name in names if name != _NO_MODEL)


def _routes(row: Mapping[str, Any], warnings: list[str]) -> tuple[str, ...] | None:
    routes = row.get("allowed_routes") or []
    if not isinstance(routes, list | tuple):
        raise ValueError("allowed_routes is not a list")
    kept: list[str] = []
    for route in map(str, routes):
        if route in _ROUTE_GROUPS:
            kept += _ROUTE_GROUPS[route]
        elif route.startswith("/"):
            kept += [route] if route.startswith("/v1/") else [route, f"/v1{route}"]
        else:
            warnings.append(f"the group of routes {route!r} is not known here and is left out")
    return tuple(dict.fromkeys(kept)) if routes else None


def _limits(row: Mapping[str, Any]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for column, (name, most) in _LIMITS.items():
        value = row.get(column)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{column} is not a whole number from 0")
        limits[name] = min(value, most)
    return limits


def _budgets(row: Mapping[str, Any], warnings: list[str]) -> tuple[ImportedBudget, ...]:
    amount = row.get("max_budget")
    if amount is None:
        return ()
    try:
        cents = Decimal(str(amount)).quantize(Decimal(1).scaleb(-MAX_DECIMALS), rounding=ROUND_DOWN)
        limit_nano = usd_to_nano(cents)
    except (InvalidOperation, ValueError) as error:
        raise ValueError(f"max_budget cannot be taken over: {error}") from None
    return (ImportedBudget(limit_nano=limit_nano, period=_period(row.get("budget_duration"), warnings)),)


def _period(duration: object, warnings: list[str]) -> Period:
    """Return the shortest period of ours that is not shorter: the same money for a longer time."""
    if not duration:
        return Period.TOTAL
    parts = _DURATION.fullmatch(str(duration))
    if parts is None:
        raise ValueError(f"budget_duration {str(duration)[:40]!r} is no number with s, m, h, d, w or mo")
    span = timedelta(seconds=int(parts[1]) * _SECONDS[parts[2]])
    period = next((period for period, days in _PERIODS if span <= timedelta(days=days)), Period.TOTAL)
    exact = {Period.DAY: (1,), Period.WEEK: (7,), Period.MONTH: (30, 31), Period.TOTAL: ()}[period]
    if span not in [timedelta(days=days) for days in exact]:
        warnings.append(f"the budget for {duration} becomes one for: {period.value}")
    return period


def _moment(value: object) -> datetime | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("expires is no date and time") from None
    if not isinstance(value, datetime):
        raise ValueError("expires is no date and time")
    # LiteLLM's column has no time zone and holds UTC.
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _mapping(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    value = row.get(column) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{column} is no object")
    return dict(value)
