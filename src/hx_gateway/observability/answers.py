"""Answers of the record's routes as bytes."""

from __future__ import annotations

import msgspec

from hx_gateway.pipeline.context import Reply

JSON = (b"content-type", b"application/json")
JSON_LINES = (b"content-type", b"application/x-ndjson")
encode = msgspec.json.Encoder().encode


def json_reply(value: object, status: int = 200) -> Reply:
    """Return a reply with ``value``."""
    return Reply(status, [JSON], encode(value))
