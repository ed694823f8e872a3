"""JSON bodies as strict as those of the model routes, for routes that FastAPI serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from hx_gateway.errors import InvalidRequest
from hx_gateway.kit.json_object import JSONObjectError, decode_object
from hx_gateway.pipeline.context import Context

MAX_BODY_BYTES = 1024 * 1024
_JSON = (b"content-type", b"application/json")


class StrictJsonRoute(APIRoute):
    """Reads a body under its limit and refuses what two readers could read differently, before FastAPI sees it.

    Raises ``BodyTooLarge``, and ``InvalidRequest`` with the codes of :mod:`hx_gateway.kit.json_object`. An empty body
    stands for an empty object where every field may be left out.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Return FastAPI's handler behind the check."""
        handle = super().get_route_handler()
        body_field = self.body_field
        if body_field is None:
            return handle
        required = body_field.field_info.is_required()

        async def checked(request: Request) -> Response:
            context: Context = request.state.hx
            body = await context.body.read(MAX_BODY_BYTES)
            if body or required:
                check_object(body)
            return await handle(_with_body(request, body))

        return checked


def check_object(body: bytes) -> None:
    """Raise ``InvalidRequest`` for what is no JSON object, or one that is not read the same everywhere."""
    try:
        decode_object(body)
    except JSONObjectError as error:
        raise InvalidRequest(error.message, code=error.code) from error


def _with_body(request: Request, body: bytes) -> Request:
    """Return ``request`` with its body, which may be read only once from below, and a type that FastAPI reads."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
    return Request({**request.scope, "headers": [*headers, _JSON]}, receive)
