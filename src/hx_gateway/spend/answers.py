"""Rows of spend as JSON and CSV: money in dollars, times in UTC."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from hx_gateway.kit.money import usd_text
from hx_gateway.pipeline.context import Reply
from hx_gateway.pricing.prices import usd_per_million
from hx_gateway.spend.sources import SUMS, Source

JSON = (b"content-type", b"application/json")
JSON_LINES = (b"content-type", b"application/x-ndjson")
CSV = (b"content-type", b"text/csv; charset=utf-8")
# What a spreadsheet takes for a formula, or for white space before one
# (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NANO = "_nano"
_RENAMED: Mapping[str, str] = {
    "cost_nano": "cost_usd",
    "reserved_nano": "reserved_usd",
    "input_pico": "input_usd_per_million",
    "output_pico": "output_usd_per_million",
    "cached_input_pico": "cached_input_usd_per_million",
}
encode = msgspec.json.Encoder().encode


def json_reply(value: object, status: int = 200) -> Reply:
    """Return a reply with ``value``."""
    return Reply(status, [JSON], encode(value))


def usd(nano: int) -> msgspec.Raw:
    """Return nano-dollars as a number of JSON with all their digits, which a double does not hold."""
    return msgspec.Raw(usd_text(nano).encode())


def rate(pico: int) -> msgspec.Raw:
    """Return pico-dollars a token as dollars for a million tokens: a number of JSON."""
    return msgspec.Raw(_plain(usd_per_million(pico)).encode())


def document(value: Any) -> Any:
    """Return a ``jsonb`` for an answer, its money in dollars, whether the connection decodes it or gives its text."""
    return _shown(msgspec.json.decode(value) if isinstance(value, str) else value)


def item(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return a row's ``columns`` under the names that clients see."""
    return {shown_name(name): _value(name, row[name]) for name in columns}


def shown_name(column: str) -> str:
    """Return what clients see a column as."""
    return _RENAMED.get(column, column)


def csv_header(columns: Sequence[str]) -> bytes:
    """Return the first line of a CSV file."""
    return _csv([[shown_name(name) for name in columns]])


def csv_lines(source: Source, rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return rows as lines of CSV; a text that a spreadsheet would calculate with stands behind an apostrophe."""
    return _csv([_cell(row[name], name, name in source.texts) for name in source.columns] for row in rows)


def summary_csv(groups: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the groups of a summary as CSV, with its header."""
    header = csv_header((*groups, *SUMS))
    return header + _csv([_cell(row[name], name, name in groups) for name in (*groups, *SUMS)] for row in rows)


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {_dollars(name): usd(inner) if _is_nano(name, inner) else _shown(inner) for name, inner in value.items()}
    return [_shown(inner) for inner in value] if isinstance(value, list) else value


def _is_nano(name: str, value: Any) -> bool:
    return name.endswith(_NANO) and isinstance(value, int)


def _dollars(name: str) -> str:
    return f"{name.removesuffix(_NANO)}_usd" if name.endswith(_NANO) else name


def _csv(lines: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _cell(value: Any, name: str, is_text: bool) -> str:
    if value is None:
        return ""
    if name.endswith(_NANO):
        return usd_text(value)
    if name.endswith("_pico"):
        return _plain(usd_per_million(value))
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bool):
        return "true" if value else "false"
    text = " ".join(value) if isinstance(value, list) else str(value)
    return f"'{text}" if is_text and text.startswith(_FORMULA) else text


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name.endswith(_NANO):
        return usd(value)
    if name.endswith("_pico"):
        return rate(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return str(value) if isinstance(value, UUID) else value


def _plain(amount: Decimal) -> str:
    """Return a decimal in plain digits, without zeros behind its last."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
