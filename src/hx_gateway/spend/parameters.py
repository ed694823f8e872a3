"""Query parameters and bodies of the routes of spend: each known, each once, each of its type."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

from msgspec import Raw

from hx_gateway.errors import InvalidRequest
from hx_gateway.http import query_parameters
from hx_gateway.kit.json_object import JSONObjectError, decode_object
from hx_gateway.pipeline.context import Context

MAX_VALUE_CHARS = 512
_DIGITS = re.compile(r"[0-9]{1,9}")


def read_parameters(ctx: Context, known: Iterable[str]) -> dict[str, str]:
    """Return the parameters. Raises ``InvalidRequest`` for one that is not ``known``, stands twice or is no text."""
    found = query_parameters.read_parameters(ctx, known)
    for name, value in found.items():
        if not value or len(value) > MAX_VALUE_CHARS or not value.isprintable():
            raise InvalidRequest(f"{name} must be 1 to {MAX_VALUE_CHARS} printable characters.", param=name)
    return found


def time_parameter(parameters: Mapping[str, str], name: str) -> datetime | None:
    """Return an ISO 8601 time in UTC. Raises ``InvalidRequest`` for one without a zone, too."""
    moment = query_parameters.time_parameter(parameters, name)
    if moment is None:
        return None
    if moment.utcoffset() is None:
        raise InvalidRequest(f"{name} needs a time zone, as in 2026-11-24T12:00:00Z, not {moment!s}.", param=name)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(f"{name} is outside the years 1 to 9999 in UTC: {moment!s}.", param=name) from None


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


async def read_object(ctx: Context, limit: int) -> tuple[bytes, dict[str, Raw]]:
    """Return the body and its fields. Raises ``InvalidRequest`` for one that is no strict JSON object."""
    body = await ctx.body.read(limit)
    try:
        return body, decode_object(body)
    except JSONObjectError as error:
        raise InvalidRequest(error.message, code=error.code) from error
