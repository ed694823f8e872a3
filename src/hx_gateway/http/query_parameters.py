"""Query parameters of a request: each known, each once, each of its type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from urllib.parse import parse_qsl

from hx_gateway.errors import InvalidRequest
from hx_gateway.pipeline.context import Context

MAX_PARAMETERS = 50


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


def choice_parameter(parameters: Mapping[str, str], name: str, choices: Iterable[str]) -> str | None:
    """Return one of ``choices``, ``None`` where it is not given."""
    text = parameters.get(name)
    if text is not None and text not in choices:
        raise InvalidRequest(f"{name} must be one of {', '.join(choices)}, not {text[:60]!r}.", param=name)
    return text
