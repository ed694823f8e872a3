"""What ``/openapi.json`` says of every operation of the registry beside its own answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Problem(BaseModel):
    """What is wrong (RFC 9457). ``code`` is stable, ``param`` names the field, ``errors`` are for programs."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    param: str | None = None
    errors: list[dict[str, Any]] | None = None


# In place: FastAPI lists models under application/json only.
_SCHEMA = Problem.model_json_schema()
_ERRORS = {
    400: ("The request cannot be read", "invalid_request", None),
    401: ("No key, or none that is valid", "invalid_api_key", None),
    403: ("The key has not the right", "permission_denied", None),
    404: ("There is none", "not_found", "ref"),
    408: ("The body stopped arriving", "request_timeout", None),
    409: ("It does not go together with what is there", "already_exists", "name"),
    410: ("It was deleted, and may be restored", "deleted", "ref"),
    412: ("It was changed since it was read", "version_conflict", "if-match"),
    413: ("The body is too large", "body_too_large", None),
    415: ("The body is not said to be JSON", "unsupported_media_type", None),
    422: ("A field breaks its rule", "invalid_request", "port"),
    428: ("This gateway asks for `if-match`", "version_required", "if-match"),
    503: ("PostgreSQL is away; `retry-after` says when to come again", "dependency_unavailable", None),
}


def _problem(status: int, text: str, code: str, param: str | None) -> dict[str, Any]:
    example = {"type": "about:blank", "title": code.replace("_", " "), "status": status, "detail": f"{text}."}
    example |= {"code": code} if param is None else {"code": code, "param": param}
    return {"description": text, "content": {"application/problem+json": {"schema": _SCHEMA, "example": example}}}


# What is refused before anybody knows which route it is for has the shape that OpenAI's clients read.
_REFUSED_BY_THE_EDGE = {
    414: "The request line is too long",
    431: "The head is too large",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: _problem(status, *parts) for status, parts in _ERRORS.items()},
    **{
        status: {"description": said, "content": {"application/json": {"schema": {"type": "object"}}}}
        for status, said in _REFUSED_BY_THE_EDGE.items()
    },
}
NOT_TOLD: dict[int | str, dict[str, Any]] = {
    502: _problem(502, "The service does not tell its tools", "tools_not_listed", "ref")
}
BUSY: dict[int | str, dict[str, Any]] = {
    429: _problem(429, "Too many registries are imported just now", "imports_busy", None)
}
ETAG = {"etag": {"schema": {"type": "string"}, "description": 'The row\'s version, as in `W/"3"`.'}}
LINK = {"link": {"schema": {"type": "string"}, "description": "The next page, where there is one."}}
INDEX = {
    "x-registry-index": {
        "schema": {"type": "integer", "minimum": 0},
        "description": "What comes after this list: `GET /changes?since=` goes on from here.",
    }
}
LOCATION = {"location": {"schema": {"type": "string"}, "description": "Where it is."}}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "It is as `if-none-match` knows it."}}


def headers(status: int, *several: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return what an operation says of the headers of its answer."""
    return {status: {"headers": {name: said for one in several for name, said in one.items()}}}


A_LIST = headers(200, LINK, INDEX)
