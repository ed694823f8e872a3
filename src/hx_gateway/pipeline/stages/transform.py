"""Turns a decoded body into the call to make: resolves aliases, and never looks at an upstream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from hx_gateway.errors import Forbidden
from hx_gateway.pipeline.context import Context, Reply


class TransformStage:
    """Applies the key's own aliases, then the configured ones (name asked for → name meant, one step each).

    Then the key's list of models decides: it must allow the model, or the configured alias it was called by. A key's
    own alias allows nothing by itself. Does nothing for other routes.
    """

    name: ClassVar[str] = "transform"
    provides: ClassVar[frozenset[str]] = frozenset({"call"})
    requires: ClassVar[frozenset[str]] = frozenset({"decoded", "principal"})

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = dict(aliases)

    async def __call__(self, ctx: Context) -> Reply | None:
        """Set ``call``. Raises ``Forbidden`` for a model that the key may not use."""
        decoded, principal = ctx.decoded, ctx.principal
        if decoded is None:
            return None
        asked = decoded.model if principal is None else principal.aliases.get(decoded.model, decoded.model)
        meant = self._aliases.get(asked, asked)
        if principal is not None and not (principal.may_use(meant) or principal.may_use(asked)):
            raise Forbidden(
                f"The API key may not use the model {decoded.model!r}: ask for it to be added to the key, "
                "its team or its tenant.",
                param="model",
                code="model_not_allowed",
            )
        ctx.call = decoded if meant == decoded.model else replace(decoded, model=meant)
        return None
