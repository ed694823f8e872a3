"""What JSON documents look like: types, lengths, patterns and what is required, and where one does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_SHOWN_CHARS = 60

IssueType = Literal["json", "schema", "semantic", "linter"]
Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """What is wrong at one place of a document. ``reference`` names the rule; ``path`` is ``""`` for the whole."""

    type: IssueType
    path: str
    message: str
    severity: Severity
    reference: str

    def to_dict(self) -> dict[str, str]:
        """Return it as it is shown."""
        return {
            "type": self.type,
            "path": self.path,
            "message": self.message,
            "severity": self.severity,
            "reference": self.reference,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text of so many characters, of a pattern whose meaning ``says`` tells, or one of ``choices``."""

    least: int = 0
    most: int | None = None
    pattern: re.Pattern[str] | None = None
    says: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Anything:
    """An object whose members are nobody's business here."""


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose members are all alike."""

    item: Shape


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object whose members are all alike, whatever they are called."""

    item: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object with these members; others are warned of. ``name`` is that of its definition in the schema."""

    name: str
    members: Mapping[str, Shape]
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OneOf:
    """An object whose text ``type`` says what else it is."""

    name: str
    by_type: Mapping[str, Object] = field(default_factory=dict)


Shape = Text | Flag | Anything | ListOf | MapOf | Object | OneOf


def check(shape: Shape, value: Any, path: str = "") -> Iterator[Issue]:
    """Yield where ``value`` is not of ``shape``."""
    match shape:
        case Text():
            yield from _text(shape, value, path)
        case Flag():
            if not isinstance(value, bool):
                yield _wrong_type(path, "true or false", value)
        case ListOf():
            yield from _list(shape, value, path)
        case Anything() | MapOf():
            yield from _map(shape, value, path)
        case Object():
            yield from _object(shape, value, path)
        case OneOf(name, by_type):
            yield from _one_of(name, by_type, value, path)


def text(container: Mapping[str, Any], name: str) -> str:
    """Return a member that is a text, ``""`` for every other."""
    value = container.get(name)
    return value if isinstance(value, str) else ""


def objects(container: Mapping[str, Any], name: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the members of a list that are objects, by their places in it."""
    value = container.get(name)
    members = value if isinstance(value, list) else []
    return [(index, member) for index, member in enumerate(members) if isinstance(member, dict)]


def below(path: str, name: str) -> str:
    """Return the path of a member."""
    shown = name[:MAX_SHOWN_CHARS]
    return f"{path}.{shown}" if path else shown


def schema_issue(path: str, message: str, reference: str, severity: Severity = "error") -> Issue:
    """Return an issue with a document's form."""
    return Issue(type="schema", path=path, message=message, severity=severity, reference=reference)


def _list(shape: ListOf, value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, list):
        yield _wrong_type(path, "a list", value)
        return
    for index, member in enumerate(value):
        yield from check(shape.item, member, f"{path}[{index}]")


def _map(shape: Anything | MapOf, value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, dict):
        yield _wrong_type(path, "an object", value)
    elif isinstance(shape, MapOf):
        for name, member in value.items():
            yield from check(shape.item, member, below(path, name))


def _object(shape: Object, value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, dict):
        yield _wrong_type(path, "an object", value)
        return
    for name in shape.required:
        if name not in value:
            yield schema_issue(below(path, name), "is required", f"#/definitions/{shape.name}/required")
    for name, member in value.items():
        known = shape.members.get(name)
        if known is None:
            message = "is not a field of this version of the schema: nobody looks at it"
            yield schema_issue(below(path, name), message, f"#/definitions/{shape.name}/properties", "warning")
        else:
            yield from check(known, member, below(path, name))


def _one_of(name: str, by_type: Mapping[str, Object], value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, dict):
        yield _wrong_type(path, "an object", value)
        return
    kind = value.get("type")
    shape = by_type.get(kind) if isinstance(kind, str) else None
    if shape is None:
        message = f"must be one of {', '.join(by_type)}" if "type" in value else "is required"
        yield schema_issue(below(path, "type"), message, f"#/definitions/{name}")
        return
    yield from _object(shape, value, path)


def _text(shape: Text, value: Any, path: str) -> Iterator[Issue]:
    if not isinstance(value, str):
        yield _wrong_type(path, "a text", value)
    elif shape.choices and value not in shape.choices:
        yield schema_issue(path, f"must be one of {', '.join(shape.choices)}, not {shown(value)}", "enum")
    elif len(value) < shape.least:
        yield schema_issue(path, f"must have at least {shape.least} characters", "minLength")
    elif shape.most is not None and len(value) > shape.most:
        yield schema_issue(path, f"must have at most {shape.most} characters, not {len(value)}", "maxLength")
    elif shape.pattern is not None and shape.pattern.fullmatch(value) is None:
        yield schema_issue(path, f"must be {shape.says}, not {shown(value)}", "pattern")


def shown(value: str) -> str:
    """Return a text for a message, cut where it is long."""
    return repr(value if len(value) <= MAX_SHOWN_CHARS else f"{value[:MAX_SHOWN_CHARS]}…")


def _wrong_type(path: str, expected: str, value: Any) -> Issue:
    names = {str: "a text", bool: "true or false", list: "a list", dict: "an object", type(None): "null"}
    return schema_issue(path, f"must be {expected}, not {names.get(type(value), 'a number')}", "type")
