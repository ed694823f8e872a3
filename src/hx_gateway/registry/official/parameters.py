"""Query parameters and bodies of the official registry's routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec

from hx_gateway.access.errors import InvalidField
from hx_gateway.errors import InvalidRequest
from hx_gateway.kit.json_object import JSONObjectError, decode_object
from hx_gateway.pipeline.context import Context
from hx_gateway.registry.official.mapping import STATUSES, Status
from hx_gateway.registry.official.registry import DEFAULT_LIMIT, MAX_LIMIT
from hx_gateway.registry.official.repository import Listing
from hx_gateway.registry.official.versions import MAX_VERSION_CHARS

MAX_PARAMETERS = 50
MAX_SEARCH_CHARS = 200
# With room for what a server.json may not have: what is wrong with one is said by the rules for it.
MAX_BODY_BYTES = 128 * 1024
KNOWN = frozenset({"cursor", "limit", "search", "updated_since", "version", "include_deleted"})
_DIGITS = re.compile(r"[0-9]{1,9}")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.IGNORECASE)


def read_query(ctx: Context) -> dict[str, str]:
    """Return the parameters that are known here; others are passed over, as the official registry does.

    Raises ``InvalidRequest`` for one that is given twice.
    """
    try:
        pairs = parse_qsl(
            ctx.query.decode("ascii", "replace"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise InvalidRequest("The query string is not UTF-8, or has too many parameters.") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in KNOWN:
            if name in found:
                raise InvalidRequest(f"{name} is given twice.", param=name)
            if not value.isprintable():
                raise InvalidRequest(f"{name} must be printable characters.", param=name)
            found[name] = value
    return found


def listing_of(parameters: Mapping[str, str]) -> Listing:
    """Return which servers are asked for.

    Whoever follows changes must learn of deletions: with ``updated_since`` the deleted are always among them.
    """
    updated_since, wanted = _time(parameters), deleted_parameter(parameters)
    if updated_since is not None and wanted is False:
        raise InvalidRequest(
            "include_deleted cannot be false together with updated_since, which always finds deleted servers too.",
            param="include_deleted",
        )
    search, version = parameters.get("search"), parameters.get("version")
    for name, value, most in (("search", search, MAX_SEARCH_CHARS), ("version", version, MAX_VERSION_CHARS)):
        if value is not None and len(value) > most:
            raise InvalidRequest(f"{name} must have at most {most} characters.", param=name)
    return Listing(
        search=search or None,
        updated_since=updated_since,
        version=version or None,
        include_deleted=bool(wanted) or updated_since is not None,
    )


def limit_parameter(parameters: Mapping[str, str]) -> int:
    """Return ``limit``. Raises ``InvalidField`` (422, as the official registry) for one out of its range."""
    text = parameters.get("limit")
    if text is None:
        return DEFAULT_LIMIT
    if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise InvalidField(f"limit must be a whole number from 1 to {MAX_LIMIT}, not {text[:60]!r}.", param="limit")
    return int(text)


def deleted_parameter(parameters: Mapping[str, str]) -> bool | None:
    """Return ``include_deleted``, ``None`` where it is not given."""
    text = parameters.get("include_deleted")
    if text is not None and text not in ("true", "false"):
        raise InvalidField(f"include_deleted must be true or false, not {text[:60]!r}.", param="include_deleted")
    return None if text is None else text == "true"


async def read_document(ctx: Context) -> dict[str, Any]:
    """Return the JSON object of a body. Raises ``JSONObjectError`` for another one."""
    body = await ctx.body.read(MAX_BODY_BYTES)
    decode_object(body)
    return cast(dict[str, Any], msgspec.json.decode(body))


async def read_object(ctx: Context) -> dict[str, Any]:
    """Return the JSON object of a body. Raises ``InvalidRequest`` for another one."""
    try:
        return await read_document(ctx)
    except JSONObjectError as error:
        raise InvalidRequest(error.message, code=error.code) from error


def status_of(body: Mapping[str, Any]) -> tuple[Status, str | None]:
    """Return the status that a body asks for, and why."""
    unknown = sorted(body.keys() - {"status", "statusMessage"})
    if unknown:
        raise InvalidRequest(f"{unknown[0][:60]}: is not known here.", param=unknown[0][:60])
    status, message = body.get("status"), body.get("statusMessage")
    if status not in STATUSES:
        raise InvalidRequest(f"status must be one of {', '.join(STATUSES)}.", param="status")
    if message is not None and not isinstance(message, str):
        raise InvalidRequest("statusMessage must be a text.", param="statusMessage")
    return cast(Status, status), message


def _time(parameters: Mapping[str, str]) -> datetime | None:
    text = parameters.get("updated_since")
    if text is None:
        return None
    try:
        # A "+" that was not encoded arrives as a space.
        written = text.replace(" ", "+")
        return datetime.fromisoformat(written.upper()).astimezone(UTC) if _RFC3339.fullmatch(written) else _refuse(text)
    except (ValueError, OverflowError):
        return _refuse(text)


def _refuse(text: str) -> datetime:
    raise InvalidRequest(
        f"Invalid updated_since: must be a time as RFC 3339 has it, as 2026-11-24T12:00:00Z, not {text[:60]!r}.",
        param="updated_since",
    )
