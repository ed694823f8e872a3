"""Asks services of every protocol that MCP is spoken over for their tools, all that leaves through one guard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hx_gateway.db.models.registry_items import ServiceProtocol
from hx_gateway.registry.probing.http_tools import HttpTools
from hx_gateway.registry.probing.outcome import FailureClass, Level, ProbeOutcome, Unanswered, failed, unasked
from hx_gateway.registry.probing.probes import LEAVE_SECONDS
from hx_gateway.registry.probing.rules import Rules
from hx_gateway.registry.probing.stdio_probe import StdioCommand, StdioProbe
from hx_gateway.registry.probing.stream_probe import TcpProbe, UnixSocketProbe
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.probing.tool_pages import MAX_LIST_BYTES
from hx_gateway.registry.tool_definitions import ToolList
from hx_gateway.services.egress.guard import EgressGuard

# A greeting and a page may take as long as a probe, and there may be many pages: so many times that in all.
PROBES_LONG = 3


class ToolLists:
    """Lists the tools of services. ``commands`` are those that may be started (:class:`StdioProbe`)."""

    def __init__(self, guard: EgressGuard, commands: Mapping[str, StdioCommand]) -> None:
        guard = guard.reading(MAX_LIST_BYTES)
        self._http = HttpTools(guard)
        self._tcp = TcpProbe(guard)
        self._unix_socket = UnixSocketProbe(guard)
        self._stdio = StdioProbe(commands)

    async def list_tools(self, target: Target, rules: Rules) -> ToolList:
        """Return all tools of a service. Raises :class:`Unanswered`."""
        seconds = PROBES_LONG * rules.ready_seconds
        leave = LEAVE_SECONDS if target.protocol is ServiceProtocol.STDIO else 0.0
        try:
            async with asyncio.timeout(seconds + leave):
                return await self._ask(target, seconds)
        except TimeoutError as error:
            reason = f"did not tell its tools within {seconds:g} s"
            raise Unanswered(failed(FailureClass.TIMEOUT, reason)) from error

    async def _ask(self, target: Target, seconds: float) -> ToolList:
        match target.protocol:
            case ServiceProtocol.HTTP:
                return await self._http.list_tools(target)
            case ServiceProtocol.TCP:
                return await self._tcp.list_tools(target, seconds=seconds)
            case ServiceProtocol.UNIX_SOCKET:
                return await self._unix_socket.list_tools(target, seconds=seconds)
            case ServiceProtocol.STDIO:
                return await self._stdio.list_tools(target, seconds=seconds)
        raise Unanswered(unasked("protocol: MCP is not spoken over WebSocket"))


def tells_tools(target: Target, outcome: ProbeOutcome) -> bool:
    """Return whether a probe found a server of MCP that would tell its tools.

    Of one with a ``health_check_url`` nobody knows, unless it says so in ``config.health.tools_seconds``.
    """
    if not outcome.ok or outcome.level is not Level.READY:
        return False
    match target.protocol:
        case ServiceProtocol.HTTP:
            return target.health_check_url is None or target.health.tools_seconds is not None
        case ServiceProtocol.STDIO:
            return True
        case ServiceProtocol.TCP | ServiceProtocol.UNIX_SOCKET:
            return target.health.mcp
    return False
