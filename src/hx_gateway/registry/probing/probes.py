"""One probe for each protocol, all that leaves through one guard, within a service's own time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import assert_never

import structlog

from hx_gateway.db.models.registry_items import ServiceProtocol
from hx_gateway.registry.probing.http_probe import HttpProbe
from hx_gateway.registry.probing.outcome import FailureClass, ProbeOutcome, Verdict, failed
from hx_gateway.registry.probing.rules import Rules
from hx_gateway.registry.probing.stdio_probe import StdioCommand, StdioProbe
from hx_gateway.registry.probing.stream_probe import TcpProbe, UnixSocketProbe
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.probing.websocket_probe import WebSocketProbe
from hx_gateway.services.egress.guard import EgressGuard

# Beside the time for the answer: what a server that was started may take to leave.
LEAVE_SECONDS = 5.0

_log = structlog.get_logger()


class Probes:
    """Probes services of every protocol. ``commands`` are those that may be started (:class:`StdioProbe`)."""

    def __init__(self, guard: EgressGuard, commands: Mapping[str, StdioCommand]) -> None:
        self._http = HttpProbe(guard)
        self._websocket = WebSocketProbe(guard)
        self._tcp = TcpProbe(guard)
        self._unix_socket = UnixSocketProbe(guard)
        self._stdio = StdioProbe(commands)

    async def probe(self, target: Target, rules: Rules) -> ProbeOutcome:
        """Return what was found. Raises nothing: a failure of ours says nothing about the service."""
        seconds = _seconds(target, rules)
        leave = LEAVE_SECONDS if target.protocol is ServiceProtocol.STDIO else 0.0
        try:
            async with asyncio.timeout(seconds + leave):
                return await self._ask(target, seconds)
        except TimeoutError:
            return failed(FailureClass.TIMEOUT, f"did not answer within {seconds:g} s")
        except Exception:  # noqa: BLE001 - one service that trips a probe must not end those of all others
            _log.exception("probe_failed", protocol=target.protocol.value)
            return ProbeOutcome(verdict=Verdict.UNDECIDED, reason="the gateway failed to probe it; its log says why")

    async def _ask(self, target: Target, seconds: float) -> ProbeOutcome:
        match target.protocol:
            case ServiceProtocol.HTTP:
                return await self._http.probe(target)
            case ServiceProtocol.WEBSOCKET:
                return await self._websocket.probe(target)
            case ServiceProtocol.TCP:
                return await self._tcp.probe(target, seconds=seconds)
            case ServiceProtocol.UNIX_SOCKET:
                return await self._unix_socket.probe(target, seconds=seconds)
            case ServiceProtocol.STDIO:
                return await self._stdio.probe(target, seconds=seconds)
        assert_never(target.protocol)


def _seconds(target: Target, rules: Rules) -> float:
    """Return the time for a server of MCP, or the shorter one for what only has to be there."""
    match target.protocol:
        case ServiceProtocol.STDIO:
            return rules.ready_seconds
        case ServiceProtocol.HTTP:
            return rules.reach_seconds if target.health_check_url else rules.ready_seconds
    return rules.ready_seconds if target.health.mcp else rules.reach_seconds
