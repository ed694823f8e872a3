"""Query parameters and bodies of the routes of spend: each known, each once, each of its type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from urllib.parse import parse_qsl

from msgspec import Raw

from hx_gateway.errors import InvalidRequest
from hx_gateway.kit.json_object import JSONObjectError, decode_object
from hx_gateway.pipeline.context import Context

MAX_PARAMETERS = 50
MAX_VALUE_CHARS = 512
_DIGITS = re.compile(r"[0-9]{1,9}")


def read_parameters(ctx: Context, known: Iterable[str]) -> dict[str, str]:
    """Return the parameters. Raises ``InvalidRequest`` for one that is not ``known``, stands twice or is no text."""
    try:
        pairs = parse_qsl(
            ctx.query.decode("ascii", "replace"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise InvalidRequest("The query string is not UTF-8, or has too many parameters.") from None
    allowed = frozenset(known)
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise InvalidRequest(
                f"Not known here: {name[:64]!r}. Known: {', '.join(sorted(allowed))}.", param=name[:64]
            )
        if name in found:
            raise InvalidRequest(f"{name} is given twice.", param=name)
        if not value or len(value) > MAX_VALUE_CHARS or not value.isprintable():
            raise InvalidRequest(f"{name} must be 1 to {MAX_VALUE_CHARS} printable characters.", param=name)
        found[name] = value
    return found


def time_parameter(parameters: Mapping[str, str], name: str) -> datetime | None:
    """Return an ISO 8601 time in UTC. ``+`` of a zone that was not written as ``%2B`` is understood."""
    text = parameters.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        if moment.utcoffset() is None:
            raise InvalidRequest(
                f"{name} needs a time zone, as in 2026-11-24T12:00:00Z, not {text[:60]!r}.", param=name
            )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name} must be a time in ISO 8601, as 2026-11-24T12:00:00Z, not {text[:60]!r}.", param=name
        ) from None


def date_parameter(parameters: Mapping[str, str], name: str) -> date | None:
    """Return a day."""
    text = parameters.get(name)
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be a day, as 2026-11-24, not {text[:60]!r}.", param=name) from None


def limit_parameter(parameters: Mapping[str, str], default: int, most: int) -> int:
    """Return ``limit``, a whole number from 1 to ``most``."""
    text = parameters.get("limit")
    if text is None:
        return default
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= most:
        raise InvalidRequest(f"limit must be a whole number from 1 to {most:,}, not {text[:60]!r}.", param="limit")
    return int(text)


def choice_parameter(parameters: Mapping[str, str], name: str, choices: Iterable[str], default: str) -> str:
    """Return one of ``choices``."""
    text = parameters.get(name, default)
    if text not in choices:
        raise InvalidRequest(f"{name} must be one of {', '.join(choices)}, not {text[:60]!r}.", param=name)
    return text


async def read_object(ctx: Context, limit: int) -> tuple[bytes, dict[str, Raw]]:
    """Return the body and its fields. Raises ``InvalidRequest`` for one that is no strict JSON object."""
    body = await ctx.body.read(limit)
    try:
        return body, decode_object(body)
    except JSONObjectError as error:
        raise InvalidRequest(error.message, code=error.code) from error
