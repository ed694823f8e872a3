"""Asks an MCP endpoint over HTTP for its tools: without a session, and with one where the server is from before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from hx_gateway.registry.probing.http_probe import (
    HEADERS,
    SESSION_FIELD,
    by_status,
    end_session,
    field_of,
    modern_headers,
    not_ready,
    read_greeting,
)
from hx_gateway.registry.probing.mcp_messages import (
    DISCOVER,
    LEGACY,
    LIST_TOOLS,
    Answer,
    answer_in_body,
    discover,
    first_answer,
    initialize,
    initialized,
    list_tools,
)
from hx_gateway.registry.probing.outcome import (
    FailureClass,
    Level,
    ProbeOutcome,
    Unanswered,
    failed,
    from_egress,
    unasked,
)
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.probing.tool_pages import MAX_LIST_BYTES, Page, all_pages
from hx_gateway.registry.tool_definitions import ToolList
from hx_gateway.services.egress.errors import EgressError
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.http import EgressResponse
from hx_gateway.services.egress.target import CheckedTarget


class HttpTools:
    """Lists tools through ``guard``, without any credential."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard

    async def list_tools(self, target: Target) -> ToolList:
        """Return the tools that ``endpoint`` has. Raises :class:`Unanswered`; time is the caller's to bound."""
        if target.endpoint is None:
            raise Unanswered(unasked("endpoint: the service has none"))
        try:
            checked = await self._guard.check(target.endpoint, field="endpoint")
            async with self._greeted(checked) as page:
                return await all_pages(page)
        except EgressError as error:
            raise Unanswered(from_egress(error)) from error

    @asynccontextmanager
    async def _greeted(self, checked: CheckedTarget) -> AsyncIterator[Page]:
        """Find out of which era a server is, and give what asks it for pages; a session is ended afterwards."""
        response = await self._post(checked, discover(), modern_headers(DISCOVER))
        await end_session(self._guard, checked, response)
        found = read_greeting(response)
        if found is not None:
            _check(found)
            yield self._pages(checked, modern_headers(LIST_TOOLS), legacy=False)
            return
        response = await self._post(checked, initialize(), HEADERS)
        try:
            _check(read_greeting(response) or not_ready(response))
            headers = _in_session(response)
            await self._guard.request(checked, "POST", headers=headers, body=initialized(), want_body=False)
            yield self._pages(checked, headers, legacy=True)
        finally:
            await end_session(self._guard, checked, response)

    def _pages(self, checked: CheckedTarget, headers: Mapping[str, str], *, legacy: bool) -> Page:
        left = MAX_LIST_BYTES

        async def page(number: int, cursor: str | None) -> Answer:
            nonlocal left
            response = await self._post(checked, list_tools(number, cursor, legacy=legacy), headers)
            found = by_status(response)
            if found is not None:
                _check(found)
            left -= len(response.body)
            if left < 0:
                raise Unanswered(failed(FailureClass.PROTOCOL, "told more than is read", level=Level.READY))
            answer = answer_in_body(response.body)
            if answer is None:
                reason = f"answered tools/list with status {response.status} and something else than JSON-RPC"
                raise Unanswered(failed(FailureClass.PROTOCOL, reason, level=Level.READY))
            return answer

        return page

    async def _post(self, checked: CheckedTarget, body: bytes, headers: Mapping[str, str]) -> EgressResponse:
        return await self._guard.request(checked, "POST", headers=headers, body=body, enough=first_answer())


def _check(found: ProbeOutcome) -> None:
    """Raise :class:`Unanswered` for whoever does not serve us: also who is well and wants a credential does not."""
    if found.auth_required:
        found = failed(FailureClass.AUTH, "wants a credential, and the gateway has none", level=Level.REACHABLE)
    elif not found.ok and found.failure_class is None:
        found = failed(FailureClass.HTTP_STATUS, found.reason or "is busy", level=Level.REACHABLE)
    if not found.ok:
        raise Unanswered(found)


def _in_session(response: EgressResponse) -> dict[str, str]:
    """Return the headers of requests in the session that ``initialize`` opened, if it opened one."""
    answer = answer_in_body(response.body)
    version = None if answer is None or answer.result is None else answer.result.get("protocolVersion")
    session = field_of(response, SESSION_FIELD)
    headers = {**HEADERS, "mcp-protocol-version": version if isinstance(version, str) else LEGACY}
    return headers if session is None else {**headers, SESSION_FIELD: session}
