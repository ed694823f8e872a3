"""The one retry that is safe without asking anybody: a kept connection that the server had already closed."""

from __future__ import annotations

from hx_gateway.services.upstream.base import (
    Upstream,
    UpstreamCall,
    UpstreamDisconnected,
    UpstreamHead,
    UpstreamPhase,
    UpstreamRequest,
)

_BEFORE_AN_ANSWER = (UpstreamPhase.SEND, UpstreamPhase.HEAD)


async def open_call(upstream: Upstream, request: UpstreamRequest) -> tuple[UpstreamCall, UpstreamHead]:
    """Send ``request`` and return the call and its head. Raises ``UpstreamError``.

    Tried once more, on a new connection, only when a *reused* connection ended before one byte of an answer came
    (RFC 9110, 9.2.2 and RFC 9112, 9.3.1: the server may close an idle connection at any time). A new connection, a
    time-out, or a body that cannot be sent again is never tried again: the server may have begun to work, and bill.
    """
    call = upstream.call(request)
    try:
        return call, await call.head()
    except UpstreamDisconnected as failure:
        facts = failure.facts
        stale = facts.connection_reused and not facts.bytes_received and failure.phase in _BEFORE_AN_ANSWER
        if not stale or not isinstance(request.body, bytes):
            raise
    call = upstream.call(request, fresh=True)
    return call, await call.head()
