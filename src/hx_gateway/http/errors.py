"""Errors as responses: OpenAI's shape on model routes, problem details (RFC 9457) elsewhere."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from hx_gateway.errors import HXError
from hx_gateway.pipeline.context import Reply
from hx_gateway.pipeline.routes import ErrorShape

INTERNAL = HXError("The gateway failed. The request id finds the reason in its log.")


def openai_error(error: HXError) -> dict[str, object]:
    """Return the body that OpenAI clients read."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def problem(error: HXError) -> dict[str, object]:
    """Return problem details; ``code`` is the stable name, ``param`` the field where there is one."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": error.status,
    }
    body |= {"detail": error.message, "code": error.code}
    if error.param is not None:
        body["param"] = error.param
    if error.details:
        body["errors"] = list(error.details)
    return body


def registry_error(error: HXError) -> dict[str, object]:
    """Return what clients of the official MCP registry read.

    Its servers answer with problem details that have ``errors`` (https://huma.rocks/features/response-errors/), its
    OpenAPI document says ``error`` with a text: both are there.
    """
    least = {"message": error.message, "location": error.param or ""}
    details = [{**least, **detail} for detail in error.details or ({},)]
    return {**problem(error), "title": HTTPStatus(error.status).phrase, "errors": details, "error": error.message}


def error_reply(error: HXError, shape: ErrorShape) -> Reply:
    """Return the response for ``error``."""
    openai = shape is ErrorShape.OPENAI
    words = {ErrorShape.OPENAI: openai_error, ErrorShape.PROBLEM: problem, ErrorShape.REGISTRY: registry_error}
    body = msgspec.json.encode(words[shape](error))
    headers = [(b"content-type", b"application/json" if openai else b"application/problem+json")]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return Reply(error.status, headers, body)
