"""Asks an HTTP service whether it is there: an MCP endpoint by the protocol, any other at its ``health_check_url``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import overload

from hx_gateway.registry.probing.mcp_messages import (
    DISCOVER,
    LEGACY,
    MODERN,
    answer_in_body,
    discover,
    first_answer,
    initialize,
)
from hx_gateway.registry.probing.outcome import (
    FailureClass,
    Level,
    ProbeOutcome,
    busy,
    failed,
    from_egress,
    healthy,
    unasked,
)
from hx_gateway.registry.probing.target import Target
from hx_gateway.services.egress.errors import EgressError
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.http import EgressResponse
from hx_gateway.services.egress.target import CheckedTarget

MAX_LEGACY = 4096
MAX_RETRY_AFTER_SECONDS = 3600.0
# A session that a probe opened is ended, but nobody waits for it.
END_SESSION_SECONDS = 1.0
SESSION_FIELD = "mcp-session-id"
HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
# Servers from before the revision refuse what they do not know in one of these ways.
_PERHAPS_LEGACY = frozenset({400, 406, 415, 422, 500, 501})
_WRONG_ENDPOINT = frozenset({404, 405, 410})
_Reading = Callable[[EgressResponse], ProbeOutcome]


class HttpProbe:
    """Probes HTTP through ``guard``, without any credential.

    Which servers are from before 2026-07-28 is remembered: they are asked for ``initialize`` first the next time.
    """

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard
        # By their addresses, those that were asked last at the end.
        self._legacy: dict[str, bool] = {}

    async def probe(self, target: Target) -> ProbeOutcome:
        """Return what was found. Time is the caller's to bound, beside the guard's caps."""
        url, field = target.url, "health_check_url" if target.health_check_url else "endpoint"
        if url is None:
            return unasked("endpoint: the service has none, nor a health_check_url")
        try:
            checked = await self._guard.check(url, field=field)
            if target.health_check_url:
                return await self._get(checked)
            return await self._ask_mcp(checked)
        except EgressError as error:
            return from_egress(error)

    async def _get(self, checked: CheckedTarget) -> ProbeOutcome:
        began = time.monotonic()
        response = await self._guard.request(checked, want_body=False)
        found = by_status(response)
        if found is None and 200 <= response.status < 300:
            found = healthy(Level.READY)
        return _timed(found or _wrong_status(response), began)

    async def _ask_mcp(self, checked: CheckedTarget) -> ProbeOutcome:
        if self._legacy.pop(checked.url, False):
            found = await self._ask(checked, initialize(), HEADERS, otherwise=None)
            if found is not None:
                self._remember_legacy(checked.url)
                return found
        found = await self._ask(checked, discover(), modern_headers(DISCOVER), otherwise=None)
        if found is not None:
            return found
        found = await self._ask(checked, initialize(), HEADERS, otherwise=not_ready)
        if found.ok:
            self._remember_legacy(checked.url)
        return found

    def _remember_legacy(self, url: str) -> None:
        self._legacy[url] = True
        if len(self._legacy) > MAX_LEGACY:
            del self._legacy[next(iter(self._legacy))]

    @overload
    async def _ask(
        self, checked: CheckedTarget, body: bytes, headers: Mapping[str, str], *, otherwise: None
    ) -> ProbeOutcome | None: ...
    @overload
    async def _ask(
        self, checked: CheckedTarget, body: bytes, headers: Mapping[str, str], *, otherwise: _Reading
    ) -> ProbeOutcome: ...
    async def _ask(
        self, checked: CheckedTarget, body: bytes, headers: Mapping[str, str], *, otherwise: _Reading | None
    ) -> ProbeOutcome | None:
        began = time.monotonic()
        response = await self._guard.request(checked, "POST", headers=headers, body=body, enough=first_answer())
        found = read_greeting(response)
        if found is None and otherwise is not None:
            found = otherwise(response)
        timed = None if found is None else _timed(found, began)
        await end_session(self._guard, checked, response)
        return timed


def modern_headers(method: str) -> dict[str, str]:
    """Return the headers of a request of the stateless revision."""
    return {**HEADERS, "mcp-protocol-version": MODERN, "mcp-method": method}


def read_greeting(response: EgressResponse) -> ProbeOutcome | None:
    """Return what the answer to a greeting says; ``None`` where it may be one of the other era."""
    found = by_status(response)
    if found is not None:
        return found
    answer = answer_in_body(response.body)
    if answer is not None:
        return healthy(Level.READY) if answer.serves else None
    if response.status in _PERHAPS_LEGACY:
        return None
    if response.status in _WRONG_ENDPOINT:
        return failed(
            FailureClass.HTTP_STATUS,
            f"answered with status {response.status}: this is not the address of its MCP endpoint",
            level=Level.REACHABLE,
        )
    return _not_mcp(response) if 200 <= response.status < 300 else _wrong_status(response)


async def end_session(guard: EgressGuard, checked: CheckedTarget, response: EgressResponse) -> None:
    """End the session that an answer opened, some do so even with an error: a probe leaves nothing behind."""
    session = field_of(response, SESSION_FIELD)
    if session is None:
        return
    headers = {SESSION_FIELD: session, "mcp-protocol-version": LEGACY}
    # What was asked is answered: a server that keeps the session ends it by its age.
    with suppress(EgressError, TimeoutError):
        async with asyncio.timeout(END_SESSION_SECONDS):
            await guard.request(checked, "DELETE", headers=headers, want_body=False)


def by_status(response: EgressResponse) -> ProbeOutcome | None:
    """Return what the status says for whatever was asked; ``None`` where the answer has to be read."""
    if response.status == 401 or (response.status == 403 and field_of(response, "www-authenticate") is not None):
        if field_of(response, "www-authenticate") is None:
            return failed(
                FailureClass.AUTH, "answered with status 401 and without WWW-Authenticate", level=Level.REACHABLE
            )
        return healthy(Level.REACHABLE, auth_required=True)
    if response.status == 403:
        return failed(FailureClass.AUTH, "answered with status 403: it refuses the gateway", level=Level.REACHABLE)
    if response.status == 429:
        return busy(_retry_after(response))
    return None


def _not_mcp(response: EgressResponse) -> ProbeOutcome:
    kind = (field_of(response, "content-type") or "").partition(";")[0].strip().lower()
    what = "a web page" if kind in ("text/html", "application/xhtml+xml") else "something else"
    reason = f"answered with status {response.status} and {what}: this is not an MCP endpoint"
    return failed(FailureClass.NOT_MCP, reason, level=Level.REACHABLE)


def not_ready(response: EgressResponse) -> ProbeOutcome:
    """Return why what answered the last greeting that there is does not serve."""
    answer = answer_in_body(response.body)
    if answer is None:
        return _wrong_status(response)
    code = "a result of another kind" if answer.error_code is None else f"the error {answer.error_code}"
    return failed(FailureClass.PROTOCOL, f"answered initialize with {code}", level=Level.REACHABLE)


def _wrong_status(response: EgressResponse) -> ProbeOutcome:
    return failed(FailureClass.HTTP_STATUS, f"answered with status {response.status}", level=Level.REACHABLE)


def field_of(response: EgressResponse, name: str) -> str | None:
    """Return the first field of an answer that has this lower-case name."""
    return next((value for field, value in response.headers if field == name), None)


def _retry_after(response: EgressResponse) -> float | None:
    """Return ``Retry-After`` in seconds, at most an hour; ``None`` where there is none that can be read."""
    text = (field_of(response, "retry-after") or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max((aware - datetime.now(UTC)).total_seconds(), 0.0), MAX_RETRY_AFTER_SECONDS)


def _timed(outcome: ProbeOutcome, began: float) -> ProbeOutcome:
    return replace(outcome, response_time_ms=(time.monotonic() - began) * 1000)
