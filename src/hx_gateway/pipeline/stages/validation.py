"""Decodes what the gateway needs of a body and refuses what no upstream should see."""

from __future__ import annotations

from typing import ClassVar

from hx_gateway.errors import UnsupportedMedia
from hx_gateway.kit.turns import next_turn
from hx_gateway.pipeline.context import Context, Reply
from hx_gateway.pipeline.repeated import RepeatedBodies, Written
from hx_gateway.pipeline.routes import BodyRule

_JSON_TYPES = (b"application/json", b"text/json")


class ValidationStage:
    """Reads a JSON body under its limit and hands it to the route's decoder. Other bodies stay unread."""

    name: ClassVar[str] = "validation"
    provides: ClassVar[frozenset[str]] = frozenset({"decoded", "written"})
    requires: ClassVar[frozenset[str]] = frozenset({"principal"})

    def __init__(self, *, max_body_bytes: int, repeated: RepeatedBodies | None = None) -> None:
        self._limit = max_body_bytes
        self._repeated = repeated

    async def __call__(self, ctx: Context) -> Reply | None:
        """Set ``decoded`` and ``written`` for routes with a decoder."""
        route = ctx.route
        if route.body is not BodyRule.JSON:
            return None
        check_media(ctx)
        if route.decoder is not None:
            await next_turn()
            data = await ctx.body.read(route.body_limit or self._limit)
            written = self._repeated.find(route.name, data) if self._repeated is not None else None
            if written is None:
                written = Written(route.name, data, route.decoder(data))
            ctx.written, ctx.decoded = written, written.decoded
        return None


def check_media(ctx: Context) -> None:
    """Raise ``UnsupportedMedia`` for a compressed body or one that says it is not JSON."""
    encoding = ctx.header(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
        raise UnsupportedMedia("Compressed bodies are not read here: send the JSON as it is.")
    content_type = ctx.header(b"content-type")
    if content_type is None:
        return
    media = content_type.partition(b";")[0].strip().lower()
    if media not in _JSON_TYPES and not (media.startswith(b"application/") and media.endswith(b"+json")):
        raise UnsupportedMedia("The body must be JSON: send 'content-type: application/json'.")
