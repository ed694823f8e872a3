"""Errors as responses: OpenAI's shape on model routes, problem details (RFC 9457) elsewhere."""

from __future__ import annotations

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


def error_reply(error: HXError, shape: ErrorShape) -> Reply:
    """Return the response for ``error``."""
    openai = shape is ErrorShape.OPENAI
    body = msgspec.json.encode(openai_error(error) if openai else problem(error))
    headers = [(b"content-type", b"application/json" if openai else b"application/problem+json")]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    return Reply(error.status, headers, body)
