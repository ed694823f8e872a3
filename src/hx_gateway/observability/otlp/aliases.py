"""The names under which senders say the same thing, from ``aliases.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from importlib import resources
from typing import assert_never

import msgspec
from msgspec import Struct, field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hx_gateway.observability.otlp.model import Value

CANONICAL = frozenset(
    {
        "provider",
        "model",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
        "cost",
        "session",
        "user",
        "kind",
        "agent",
        "task",
    }
)
MAX_TEXT_CHARS = 256
# A count beyond this is a mistake, and would not fit into a database's bigint.
MAX_COUNT = 2**63 - 1
MAX_AMOUNT = 1e12
_MAX_DIGITS = 18


class AliasError(ValueError):
    """A table that must not be used; says which entry is wrong."""


class Reads(StrEnum):
    """What a field's values are; see the head of ``aliases.yaml``."""

    TEXT = "text"
    COUNT = "count"
    AMOUNT = "amount"


class _Source(Struct, frozen=True, forbid_unknown_fields=True):
    attribute: str
    values: dict[str, str] = field(default_factory=dict)


class _Field(Struct, frozen=True, forbid_unknown_fields=True, rename={"sources": "from"}):
    reads: Reads
    sources: list[str | _Source]
    lower: bool = False


class _Content(Struct, frozen=True, forbid_unknown_fields=True):
    names: list[str]
    indexed: list[str]
    events: list[str]


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    fields: dict[str, _Field]
    content: _Content


class Aliases:
    """A checked table. Raises :class:`AliasError` for one that is wrong."""

    def __init__(self, text: str) -> None:
        table = _read_table(text)
        _check_table(table)
        self._fields = [
            (name, entry.reads, entry.lower, [_as_source(source) for source in entry.sources])
            for name, entry in table.fields.items()
        ]
        self._content_names = frozenset(table.content.names)
        self._content_events = frozenset(table.content.events)
        indexed = "|".join(map(re.escape, table.content.indexed))
        self._content_indexed = re.compile(rf"(?:{indexed})(?:\.[0-9].*)?", re.DOTALL)

    def canonical(self, attributes: Mapping[str, Value]) -> dict[str, str | int | float]:
        """Return the fields that ``attributes`` give a usable value for. Texts are cut at 256 characters."""
        found: dict[str, str | int | float] = {}
        for name, reads, lower, sources in self._fields:
            for attribute, values in sources:
                if attribute not in attributes:
                    continue
                value = _usable(attributes[attribute], reads)
                if value is None:
                    continue
                if isinstance(value, str):
                    value = value.lower() if lower else value
                    value = values.get(value, value)
                found[name] = value
                break
        return found

    def is_content(self, attribute: str) -> bool:
        """Return whether an attribute holds what was said to or by a model or tool."""
        return attribute in self._content_names or self._content_indexed.fullmatch(attribute) is not None

    def is_content_event(self, name: str) -> bool:
        """Return whether all attributes of an event with this name are content."""
        return name in self._content_events


def _read_table(text: str) -> _Table:
    try:
        return msgspec.convert(YAML(typ="safe", pure=True).load(text), _Table)
    except msgspec.ValidationError as error:
        raise AliasError(str(error)) from error
    except YAMLError as error:
        raise AliasError(f"not YAML: {error}") from error


def _check_table(table: _Table) -> None:
    if set(table.fields) != CANONICAL:
        raise AliasError(f"fields must be {sorted(CANONICAL)}, not {sorted(table.fields)}")
    lists = {name: [_as_source(source)[0] for source in entry.sources] for name, entry in table.fields.items()}
    content = table.content
    lists |= {"names": content.names, "indexed": content.indexed, "events": content.events}
    for name, attributes in lists.items():
        if not attributes or not all(attributes):
            raise AliasError(f"{name}: an empty list or name")
        if len(set(attributes)) != len(attributes):
            raise AliasError(f"{name}: a name stands twice")


def _as_source(source: str | _Source) -> tuple[str, dict[str, str]]:
    return (source, {}) if isinstance(source, str) else (source.attribute, source.values)


def _usable(value: Value, reads: Reads) -> str | int | float | None:
    if value is None or isinstance(value, bool):
        return None
    match reads:
        case Reads.TEXT:
            return _text(value)
        case Reads.COUNT:
            return _count(value)
        case Reads.AMOUNT:
            return _amount(value)
        case _:
            assert_never(reads)


def _text(value: Value) -> str | None:
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        return None
    return value.strip()[:MAX_TEXT_CHARS].replace("\x00", "\ufffd") or None


def _count(value: Value) -> int | None:
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS else None
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else None


def _amount(value: object) -> float | None:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return None
    if not isinstance(value, dict):
        return _number(value)
    if "total" in value:
        return _number(value["total"])
    parts = [number for part in value.values() if (number := _number(part)) is not None]
    return sum(parts) if parts else None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MAX_AMOUNT else None


# Read where it is imported, so that a table that is wrong stops the start and not the first request.
ALIASES = Aliases(resources.files(__package__).joinpath("aliases.yaml").read_text(encoding="utf-8"))
