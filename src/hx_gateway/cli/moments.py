"""Times and spans that people type: ``15m``, ``30d``, or ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from hx_gateway.cli.client import EXIT_FAILED
from hx_gateway.cli.start import fail

_SPAN = re.compile(r"([0-9]{1,8})([smhdw])")
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}

SinceOption = Annotated[str | None, typer.Option(help="From when on: 15m, 2h, 7d, or a time in ISO 8601.")]
UntilOption = Annotated[str | None, typer.Option(help="Until when: 15m ago, or a time.")]


def span_of(text: str) -> int | None:
    """Return the seconds that ``90s``, ``15m``, ``12h``, ``30d`` or ``2w`` is, ``None`` for what is no span."""
    found = _SPAN.fullmatch(text)
    return int(found[1]) * _SPAN_SECONDS[found[2]] if found else None


def time_of(text: str) -> str:
    """Return a time in ISO 8601 with a zone, this machine's where it has none. Raises ``ValueError`` for no time."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.astimezone()).isoformat()


def past_of(option: str, text: str | None) -> str | None:
    """Return a time in ISO 8601: the one given, or so long ago."""
    if text is None:
        return None
    try:
        seconds = span_of(text)
        return time_of(text) if seconds is None else (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    except (ValueError, OverflowError):
        fail(f"{option} {text!r}: write 15m, 2h, 7d, or a time in ISO 8601.", code=EXIT_FAILED)
