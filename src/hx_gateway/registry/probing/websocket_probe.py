"""Asks a WebSocket service whether it upgrades, and answers a ping."""

from __future__ import annotations

import time
from dataclasses import replace

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
from hx_gateway.services.egress.errors import EgressError, EgressFailed
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.url import WEBSOCKET_SCHEMES


class WebSocketProbe:
    """Probes WebSockets through ``guard``, without any credential."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard

    async def probe(self, target: Target) -> ProbeOutcome:
        """Return what was found. Time is the caller's to bound, beside the guard's caps."""
        if target.url is None:
            return unasked("endpoint: the service has none")
        try:
            checked = await self._guard.check(target.url, schemes=WEBSOCKET_SCHEMES, field="endpoint")
            began = time.monotonic()
            async with self._guard.open_websocket(checked) as socket:
                await socket.ping()
                elapsed = (time.monotonic() - began) * 1000
            return replace(healthy(Level.READY), response_time_ms=elapsed)
        except EgressFailed as error:
            return from_egress(error) if error.status is None else _refused(error.status)
        except EgressError as error:
            return from_egress(error)


def _refused(status: int) -> ProbeOutcome:
    """Return what the status of a server means that did not upgrade. Of its headers nothing is known.

    A 401 comes with a challenge, says RFC 9110, section 15.5.2.
    """
    match status:
        case 401:
            return healthy(Level.REACHABLE, auth_required=True)
        case 403:
            return failed(FailureClass.AUTH, "refused the upgrade with status 403", level=Level.REACHABLE)
        case 429:
            return busy(None)
    return failed(FailureClass.HTTP_STATUS, f"refused the upgrade with status {status}", level=Level.REACHABLE)
