"""What ``/openapi.json`` says of the official registry's routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TAG = "MCP registry"
_STRING = {"type": "string"}
_OBJECT = {"type": "object", "additionalProperties": True}
_TIME = {"type": "string", "format": "date-time"}
_SERVER = {
    "name": "com.example/mail",
    "description": "Reads and sends mail.",
    "version": "1.0.0",
    "remotes": [{"type": "streamable-http", "url": "https://mail.example.com/mcp"}],
}
_RESPONSE = {
    "server": _SERVER,
    "_meta": {
        "io.modelcontextprotocol.registry/official": {
            "status": "active",
            "statusChangedAt": "2026-11-24T12:00:00Z",
            "publishedAt": "2026-11-24T12:00:00Z",
            "updatedAt": "2026-11-24T12:00:00Z",
            "isLatest": True,
        }
    },
}
_DELETED = ("include_deleted", {"type": "boolean", "default": False}, "Deleted versions too.")
_REST = "The server's name with its slash encoded, then what is asked for: "


def _operation(
    summary: str,
    parameters: Sequence[tuple[str, Mapping[str, Any], str]] = (),
    *,
    rest: str | None = None,
    path: tuple[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    answer: Mapping[str, Any] | None = None,
    errors: Sequence[str] = (),
) -> Mapping[str, Any]:
    listed = [_parameter(*parameter, place="query") for parameter in parameters]
    if rest is not None:
        listed.insert(0, _parameter("rest", _STRING, _REST + rest, place="path"))
    if path is not None:
        listed.insert(0, _parameter(path[0], _STRING, path[1], place="path"))
    operation: dict[str, Any] = {"tags": [TAG], "summary": summary, "parameters": listed}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    told = {status: {"description": "A problem, with `error`"} for status in errors}
    operation["responses"] = {"200": {"description": "OK", "content": _content(answer or {})}, **told}
    return operation


def _content(example: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"application/json": {"schema": _OBJECT, "example": example}}


def _parameter(name: str, schema: Mapping[str, Any], text: str, *, place: str) -> Mapping[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": text}


_READ_ERRORS = ("401", "403", "404", "503")
_WRITE_ERRORS = ("400", "401", "403", "404", "409", "503")
LISTING = _operation(
    "Servers by name and version",
    (
        ("cursor", _STRING, "The `nextCursor` of the page before, with the same filters."),
        ("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 30}, "Servers a page."),
        ("search", _STRING, "A part of the name or the description, in whatever case."),
        ("updated_since", _TIME, "Changed at this time or later, deleted ones among them."),
        ("version", _STRING, "An exact version, or `latest`."),
        _DELETED,
    ),
    answer={"servers": [_RESPONSE], "metadata": {"count": 1}},
    errors=("400", "401", "403", "422", "503"),
)
SERVER = _operation(
    "All versions of a server, or one",
    (_DELETED,),
    rest="`/versions`, `/versions/latest` or `/versions/{version}`.",
    answer=_RESPONSE,
    errors=_READ_ERRORS,
)
PUT = _operation(
    "Replace a published version",
    rest="`/versions/{version}`.",
    body=_SERVER,
    answer=_RESPONSE,
    errors=_WRITE_ERRORS,
)
DELETE = _operation("Delete a version", rest="`/versions/{version}`.", answer=_RESPONSE, errors=_WRITE_ERRORS)
STATUS = _operation(
    "Set the status of a version, or of all",
    rest="`/versions/{version}/status` or `/status`.",
    body={"status": "deprecated", "statusMessage": "Use com.example/post."},
    answer=_RESPONSE,
    errors=_WRITE_ERRORS,
)
PUBLISH = _operation("Publish a version", body=_SERVER, answer=_RESPONSE, errors=_WRITE_ERRORS)
VALIDATE = _operation(
    "What is wrong with a server.json",
    body=_SERVER,
    answer={"valid": True, "issues": []},
    errors=("401", "403", "503"),
)
AUTH = _operation("Not part of this registry", path=("method", "How somebody would log in."), errors=("501",))
HEALTH = _operation("Whether the API answers", answer={"status": "ok"})
PING = _operation("Whether the API answers", answer={"pong": True})
VERSION = _operation("The gateway's version", answer={"version": "1.0.0"})
