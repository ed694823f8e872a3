"""The few messages of MCP that a probe sends, and how it reads what comes back.

``server/discover`` of the revision 2026-07-28, which is stateless, and ``initialize`` of 2025-11-25 for servers from
before it. JSON-RPC 2.0 (https://modelcontextprotocol.io/specification).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hx_gateway.kit.sse import event_data, event_ends

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
DISCOVER = "server/discover"
LIST_TOOLS = "tools/list"
DISCOVER_ID = 1
INITIALIZE_ID = 2
# The first page of a list; each further page is asked for with the next number.
LIST_ID = 3
METHOD_NOT_FOUND = -32601
# A modern server that speaks other revisions than the one asked for.
UNSUPPORTED_VERSION = -32022
# Where a body begins with more space than that, it is no JSON of a server.
OPENING_BYTES = 64
_CLIENT = {"name": "hx-gateway", "version": "1"}
# What every request of the stateless revision carries.
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": _CLIENT,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON-RPC answer: the result, or the code of the error; ``number`` is that of the request, as it was sent."""

    result: Mapping[str, Any] | None
    error_code: int | None
    number: object = None

    @property
    def serves(self) -> bool:
        """Whether it says that a server of MCP is there and ready."""
        if self.error_code == UNSUPPORTED_VERSION:
            return True
        result = self.result
        return result is not None and ("supportedVersions" in result or "protocolVersion" in result)


def discover() -> bytes:
    """Return the request that a modern server answers with what it can do."""
    return _request(DISCOVER_ID, DISCOVER, {"_meta": _META})


def initialize() -> bytes:
    """Return the request that opens a session with a server from before."""
    return _request(INITIALIZE_ID, "initialize", {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": _CLIENT})


def initialized() -> bytes:
    """Return what a server from before waits for once it has answered ``initialize``; it does not answer this."""
    return json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()


def list_tools(number: int, cursor: str | None, *, legacy: bool) -> bytes:
    """Return the request for a page of tools; ``None`` is the cursor of the first one, and the empty text is not."""
    params: dict[str, Any] = {} if legacy else {"_meta": _META}
    return _request(number, LIST_TOOLS, params if cursor is None else {**params, "cursor": cursor})


def answer_in(text: bytes | str) -> Answer | None:
    """Return the answer that one JSON text is, ``None`` where it is none: a notification, a log line, a web page."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return None
    result, error = message.get("result"), message.get("error")
    if isinstance(result, dict):
        return Answer(result, None, message.get("id"))
    code = error.get("code") if isinstance(error, dict) else None
    return Answer(None, code, message.get("id")) if isinstance(code, int) else None


def answer_in_body(body: bytes) -> Answer | None:
    """Return the first answer in a body that is JSON, or a stream of events."""
    whole = answer_in(body) if body.lstrip()[:1] == b"{" else None
    return whole or _answer_in_events(body)


def first_answer() -> Callable[[bytearray], bool]:
    """Return what tells whether a stream of events has brought the answer: it need not end for that.

    It is asked again as the body grows, and looks at each event once, however slowly that comes.
    """
    done, looked_at = 0, 0

    def enough(body: bytearray) -> bool:
        nonlocal done, looked_at
        if body[:OPENING_BYTES].lstrip()[:1] == b"{":
            return False
        # A boundary has four bytes at most.
        for end in event_ends(body, max(done, looked_at - 3)):
            data = event_data(bytes(body[done:end]))
            done = end
            if data is not None and answer_in(data) is not None:
                return True
        looked_at = len(body)
        return False

    return enough


def _answer_in_events(body: bytes) -> Answer | None:
    start = 0
    for end in event_ends(body):
        data = event_data(body[start:end])
        answer = answer_in(data) if data is not None else None
        if answer is not None:
            return answer
        start = end
    return None


def _request(number: int, method: str, params: Mapping[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()
