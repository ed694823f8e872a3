"""What comes of reading and writing a format, and what is wrong with a document that is none of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hx_gateway.errors import InvalidRequest

MAX_SERVICES = 500
MAX_PATH_CHARS = 200


class FormatError(InvalidRequest):
    """A document that is not of its format; ``param`` is the path of what is wrong."""

    code = "invalid_document"

    def __init__(self, path: str, rule: str) -> None:
        shown = path if len(path) <= MAX_PATH_CHARS else f"{path[:MAX_PATH_CHARS]}…"
        super().__init__(f"{shown or 'The document'} {rule}.", param=shown or None)


@dataclass(frozen=True, slots=True)
class Imported:
    """Fields of services, in the document's order, and what somebody should know of them."""

    services: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Exported:
    """A document, and what somebody should know who uses it."""

    document: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def an_object(value: Any, path: str) -> dict[str, Any]:
    """Return an object of a document."""
    if not isinstance(value, dict):
        raise FormatError(path, "must be an object")
    return value


def a_text(value: Any, path: str) -> str:
    """Return a text of a document that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise FormatError(path, "must be a text that is not empty")
    return value


def texts(value: Any, path: str) -> list[str]:
    """Return a list of texts."""
    if not isinstance(value, list):
        raise FormatError(path, "must be a list of texts")
    for index, member in enumerate(value):
        if not isinstance(member, str):
            raise FormatError(f"{path}[{index}]", "must be a text")
    return value


def texts_by_name(value: Any, path: str) -> Mapping[str, str]:
    """Return an object whose members are texts; numbers and truth values are taken as they are written in JSON."""
    found: dict[str, str] = {}
    for name, member in an_object(value, path).items():
        if isinstance(member, bool):
            found[name] = "true" if member else "false"
        elif isinstance(member, str | int | float):
            found[name] = str(member)
        else:
            raise FormatError(f"{path}.{name}", "must be a text")
    return found
