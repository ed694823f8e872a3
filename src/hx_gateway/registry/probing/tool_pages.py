"""Reads a list of tools page by page, whatever carries the pages, and ends where a server does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hx_gateway.registry.probing.mcp_messages import LIST_ID, METHOD_NOT_FOUND, Answer
from hx_gateway.registry.probing.outcome import FailureClass, Level, Unanswered, failed
from hx_gateway.registry.tool_definitions import ToolList, ToolReader

# Of all pages together.
MAX_LIST_BYTES = 2 * 1024 * 1024
MAX_PAGES = 100
MAX_CURSOR_CHARS = 4096

# Asks with a number for the page at a cursor; ``None`` for the first one.
Page = Callable[[int, str | None], Awaitable[Answer]]


async def all_pages(page: Page) -> ToolList:
    """Return what all pages tell, or as many as there may be. Raises :class:`Unanswered`.

    A server that does not know the request has no tools: that it is one of MCP was found out before.
    """
    reader = ToolReader()
    cursor: str | None = None
    seen = set[str]()
    for number in range(LIST_ID, LIST_ID + MAX_PAGES):
        answer = await page(number, cursor)
        if answer.error_code == METHOD_NOT_FOUND and cursor is None:
            return reader.listed()
        told = None if answer.result is None else answer.result.get("tools")
        if answer.result is None or not isinstance(told, list):
            code = "a result of another kind" if answer.error_code is None else f"the error {answer.error_code}"
            raise _broken(f"answered tools/list with {code}")
        # A thousand schemas take longer to look at than the loop may wait.
        room = await asyncio.to_thread(reader.take, told)
        # Also the empty text is a cursor (specification, utilities, pagination).
        cursor = answer.result.get("nextCursor")
        if not room or cursor is None:
            return reader.listed()
        if not isinstance(cursor, str) or len(cursor) > MAX_CURSOR_CHARS:
            raise _broken(f"has a cursor that is no text of at most {MAX_CURSOR_CHARS:,} characters")
        if cursor in seen:
            raise _broken("leads from page to page of its tools in a circle")
        seen.add(cursor)
    raise _broken(f"has more than {MAX_PAGES} pages of tools")


def _broken(reason: str) -> Unanswered:
    return Unanswered(failed(FailureClass.PROTOCOL, reason, level=Level.READY))
