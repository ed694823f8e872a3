"""Asks what listens on TCP and on Unix sockets: it takes the connection, or it answers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hx_gateway.registry.probing.conversation import Silent, ask, ask_tools
from hx_gateway.registry.probing.outcome import (
    FailureClass,
    Level,
    ProbeOutcome,
    Unanswered,
    failed,
    from_egress,
    healthy,
    unasked,
)
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.tool_definitions import ToolList
from hx_gateway.services.egress.errors import EgressError
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.streams import EgressStream
from hx_gateway.services.egress.target import CheckedSocket, CheckedTarget
from hx_gateway.services.egress.url import TCP_SCHEMES

# Where the answer to ``config.health.send`` may begin with something else.
MAX_EXPECT_BYTES = 16 * 1024


class TcpProbe:
    """Probes TCP through ``guard``: the connection, ``config.health.send`` and ``expect``, or MCP over lines."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard

    async def probe(self, target: Target, *, seconds: float) -> ProbeOutcome:
        """Return what was found, in about ``seconds``."""
        if target.url is None:
            return unasked("endpoint: the service has none")
        try:
            checked = await self._guard.check(target.url, schemes=TCP_SCHEMES, field="endpoint")
            return await _connect(self._guard, checked, target, seconds)
        except EgressError as error:
            return from_egress(error)

    async def list_tools(self, target: Target, *, seconds: float) -> ToolList:
        """Return the tools of a server of MCP there. Raises :class:`Unanswered`."""
        return await _list_tools(
            self._guard, target, seconds, lambda url: self._guard.check(url, schemes=TCP_SCHEMES, field="endpoint")
        )


class UnixSocketProbe:
    """Probes Unix sockets in the directories that ``guard`` allows, otherwise as TCP."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard

    async def probe(self, target: Target, *, seconds: float) -> ProbeOutcome:
        """Return what was found, in about ``seconds``."""
        if target.url is None:
            return unasked("endpoint: the service has none")
        try:
            checked = await self._guard.check_socket(target.url, field="endpoint")
            return await _connect(self._guard, checked, target, seconds)
        except EgressError as error:
            return from_egress(error)

    async def list_tools(self, target: Target, *, seconds: float) -> ToolList:
        """Return the tools of a server of MCP there. Raises :class:`Unanswered`."""
        return await _list_tools(
            self._guard, target, seconds, lambda url: self._guard.check_socket(url, field="endpoint")
        )


async def _connect(
    guard: EgressGuard, checked: CheckedTarget | CheckedSocket, target: Target, seconds: float
) -> ProbeOutcome:
    began = time.monotonic()
    async with guard.open_connection(checked) as stream:
        if target.health.mcp:
            try:
                return await ask(stream.send, stream.read, seconds=seconds)
            except Silent as silent:
                return _silent(silent)
        found = await _exchange(stream, target)
    return replace(found, response_time_ms=(time.monotonic() - began) * 1000)


async def _list_tools(
    guard: EgressGuard,
    target: Target,
    seconds: float,
    check: Callable[[str], Awaitable[CheckedTarget | CheckedSocket]],
) -> ToolList:
    if target.url is None or not target.health.mcp:
        raise Unanswered(unasked("config.health.mcp: it does not say that a server of MCP is at the endpoint"))
    try:
        async with guard.open_connection(await check(target.url)) as stream:
            return await ask_tools(stream.send, stream.read, seconds=seconds)
    except Silent as silent:
        raise Unanswered(_silent(silent)) from silent
    except EgressError as error:
        raise Unanswered(from_egress(error)) from error


async def _exchange(stream: EgressStream, target: Target) -> ProbeOutcome:
    send, expect = target.health.send, target.health.expect
    if send is not None:
        await stream.send(send.encode())
    if expect is None:
        return healthy(Level.REACHABLE)
    wanted, came = expect.encode(), bytearray()
    while wanted not in came:
        piece = await stream.read()
        came += piece
        if not piece or len(came) > MAX_EXPECT_BYTES:
            return failed(FailureClass.PROTOCOL, "did not say what health.expect has", level=Level.REACHABLE)
    return healthy(Level.READY)


def _silent(silent: Silent) -> ProbeOutcome:
    if silent.spoke:
        return failed(FailureClass.NOT_MCP, "said something that is no MCP", level=Level.REACHABLE)
    return failed(FailureClass.PROTOCOL, "closed the connection without an answer", level=Level.REACHABLE)
