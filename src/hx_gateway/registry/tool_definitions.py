"""Tools as a server of MCP tells them, which nobody vouches for: read with bounds, and what does not fit left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

from hx_gateway.db.models.registry_tools import TOOL_NAME_CHARS
from hx_gateway.db.models.validation import unstorable

MAX_TOOLS = 1_000
MAX_DEFINITION_BYTES = 64 * 1024
MAX_WARNINGS = 20
# Of a name that does not fit, in the warning about it.
MAX_SHOWN_CHARS = 64
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool as its server told it (MCP 2026-07-28, server features, tools), but for icons and what is for clients."""

    name: str
    title: str | None = None
    description: str | None = None
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    annotations: Mapping[str, Any] | None = None
    definition_hash: str = field(init=False)

    def __post_init__(self) -> None:
        parts = [self.name, self.title, self.description, self.input_schema, self.output_schema, self.annotations]
        definition = json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()
        object.__setattr__(self, "definition_hash", blake2b(definition, digest_size=_HASH_BYTES).hexdigest())


# What is kept and shown of a tool, under the same names.
TOOL_FIELDS = tuple(each.name for each in fields(Tool))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolList:
    """All that a server told of its tools, by name. ``warnings`` are about those that are not among them."""

    tools: Mapping[str, Tool]
    warnings: tuple[str, ...] = ()


class ToolReader:
    """Gathers tools page by page, at most :data:`MAX_TOOLS`."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}
        self._warnings: list[str] = []
        self._left_out = 0

    def take(self, told: list[Any]) -> bool:
        """Take the tools of a page; return whether there is room for more."""
        for one in told:
            if len(self._tools) == MAX_TOOLS:
                self._warnings.insert(0, f"it has more than {MAX_TOOLS:,} tools: those after them are not kept")
                return False
            rule = _broken_rule(one) or ("is there twice" if one["name"] in self._tools else None)
            if rule is None:
                self._tools[one["name"]] = _tool(one)
                continue
            self._left_out += 1
            if self._left_out <= MAX_WARNINGS:
                self._warnings.append(f"{_called(one)} is not kept: it {rule}")
        return True

    def listed(self) -> ToolList:
        """Return all of it."""
        more = self._left_out - MAX_WARNINGS
        beyond = [f"{more:,} more tools are not kept"] if more > 0 else []
        return ToolList(tools=dict(self._tools), warnings=(*self._warnings, *beyond))


def _broken_rule(told: Any) -> str | None:
    """Return why a tool is not kept; the rest of a sentence that begins with its name."""
    if not isinstance(told, dict):
        return "is no object"
    name = told.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= TOOL_NAME_CHARS:
        return f"must have a name of 1 to {TOOL_NAME_CHARS} characters"
    if not all(isinstance(told.get(text), str | None) for text in ("title", "description")):
        return "must have texts for a title and a description"
    if not all(isinstance(told.get(part), dict | None) for part in ("inputSchema", "outputSchema", "annotations")):
        return "must have objects for schemas and annotations"
    kept = _kept(told)
    rule = unstorable(kept)
    if rule is not None:
        return rule
    too_large = len(json.dumps(kept, ensure_ascii=False).encode()) > MAX_DEFINITION_BYTES
    return f"must have at most {MAX_DEFINITION_BYTES // 1024} KiB" if too_large else None


def _kept(told: Mapping[str, Any]) -> list[Any]:
    return [told.get(part) for part in ("name", "title", "description", "inputSchema", "outputSchema", "annotations")]


def _tool(told: Mapping[str, Any]) -> Tool:
    name, title, description, input_schema, output_schema, annotations = _kept(told)
    return Tool(
        name=name,
        title=title,
        description=description,
        input_schema=input_schema,
        output_schema=output_schema,
        annotations=annotations,
    )


def _called(told: Any) -> str:
    """Return what a tool calls itself, in printable characters."""
    name = told.get("name") if isinstance(told, dict) else None
    return ascii(name[:MAX_SHOWN_CHARS]) if isinstance(name, str) else "one without a name"
