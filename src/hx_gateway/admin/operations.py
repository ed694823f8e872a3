"""What ``/openapi.json`` says of every operation of the admin API beside its own answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from hx_gateway.admin.answers import KEY_EXAMPLE


class ErrorDetail(BaseModel):
    """What is wrong: ``code`` is stable, ``param`` names the field."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """An error, in the shape that OpenAI clients read."""

    error: ErrorDetail


_ERRORS = {
    400: ("The body is not JSON that everybody reads alike", "invalid_request_error", None, "invalid_json"),
    401: ("No key, or none that is valid", "invalid_request_error", None, "invalid_api_key"),
    403: ("The key has not the right, or would give more than it has", "permission_error", None, "permission_denied"),
    404: ("There is none, or none that the key may know of", "invalid_request_error", "id", "not_found"),
    409: ("There is one already, or the idempotency key is another body's", "invalid_request_error", "name",
          "already_exists"),
    422: ("A field breaks its rule", "invalid_request_error", "limits.rpm", "invalid_request"),
    503: ("PostgreSQL or Redis is away; `retry-after` says when to come again", "server_error", None,
          "dependency_unavailable"),
}  # fmt: skip


def _error(text: str, kind: str, param: str | None, code: str) -> dict[str, Any]:
    example = {"error": {"message": f"{text}.", "type": kind, "param": param, "code": code}}
    return {"model": ErrorBody, "description": text, "content": {"application/json": {"example": example}}}


RESPONSES: dict[int | str, dict[str, Any]] = {status: _error(*parts) for status, parts in _ERRORS.items()}
CREATED_HEADERS: dict[int | str, dict[str, Any]] = {
    201: {
        "headers": {
            "location": {"schema": {"type": "string"}, "description": "Where it is."},
            "x-hx-idempotent-replay": {
                "schema": {"type": "string", "const": "true"},
                "description": "There where an earlier request with this idempotency key has made it.",
            },
        }
    }
}
PATCH_EXAMPLE: dict[str, Any] = {"models": None, "limits": {"rpm": 120}, "tags": ["made up"]}
BODY_EXAMPLES: dict[str, dict[str, Any]] = {
    "tenant": {"id": "acme", "name": "Acme", "time_zone": "Europe/Berlin", "tags": ["made up"]},
    "team": {
        "name": "Checkout",
        "limits": {"rpm": 600},
        "budgets": [{"limit_usd": 500, "soft_usd": 400, "period": "month"}],
        "tags": ["made up"],
    },
    "user": {"name": "Ada", "email": "ada@example.org", "role": "member", "tags": ["made up"]},
    "key": {
        "name": KEY_EXAMPLE["name"],
        "team_id": KEY_EXAMPLE["team_id"],
        "models": ["gpt-4o*"],
        "limits": {"rpm": 60, "max_parallel": 4},
        "budgets": [{"limit_usd": 10, "period": "day"}],
        "expires_in": 2592000,
        "tags": ["made up"],
    },
}
