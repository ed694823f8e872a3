"""Turns a decoded body into the call to make: resolves aliases, and never looks at an upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from hx_gateway.pipeline.context import Context, Reply


class TransformStage:
    """Applies the table of aliases (name asked for → name meant, one step). Does nothing for other routes."""

    name: ClassVar[str] = "transform"
    provides: ClassVar[frozenset[str]] = frozenset({"call"})
    requires: ClassVar[frozenset[str]] = frozenset({"decoded"})

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = dict(aliases)

    async def __call__(self, ctx: Context) -> Reply | None:
        """Set ``call``."""
        decoded = ctx.decoded
        if decoded is not None:
            target = self._aliases.get(decoded.model)
            ctx.call = decoded if target is None else replace(decoded, model=target)
        return None
