"""The caps on one exchange, and what their passing and the failures of sockets mean."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from hx_gateway.services.egress.errors import EgressFailed, EgressReason
from hx_gateway.services.egress.policy import EgressPolicy

_RULES = {
    EgressReason.CONNECT: "its server takes no connection; check the host and the port",
    EgressReason.TLS: "its server has no certificate that is valid for the host; renew it, or check the host",
    EgressReason.TIMEOUT: "its server took too long; check that it answers",
    EgressReason.TOO_LARGE: "its server answered with more than is read; point to a smaller answer",
    EgressReason.PROTOCOL: "its server did not answer by the protocol of the scheme; check the scheme and the port",
}


class Caps:
    """What is left of the time and the bytes of one exchange, from its making on."""

    def __init__(self, policy: EgressPolicy, field: str) -> None:
        self.field = field
        self.ends = asyncio.get_running_loop().time() + policy.total_seconds
        self.left_bytes = policy.max_bytes
        self.read_seconds = policy.read_seconds

    def failed(self, reason: EgressReason, *, status: int | None = None) -> EgressFailed:
        """Return the error for ``reason``."""
        return EgressFailed(reason, self.field, _RULES[reason], status=status)

    def took(self, data: bytes | str) -> None:
        """Count what was read. Raises ``EgressFailed`` over the cap."""
        self.left_bytes -= len(data.encode() if isinstance(data, str) else data)
        if self.left_bytes < 0:
            raise self.failed(EgressReason.TOO_LARGE)

    @asynccontextmanager
    async def step(self, seconds: float = math.inf) -> AsyncIterator[None]:
        """Bound one step by ``seconds`` and by what is left of the whole, and translate its failures."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(self.ends, now + seconds)):
                yield
        except (OSError, aiohttp.ClientError, HttpProcessingError) as error:
            status = error.status if isinstance(error, aiohttp.WSServerHandshakeError) else None
            raise self.failed(_reason_of(error), status=status) from error


def _reason_of(error: Exception) -> EgressReason:
    if isinstance(error, TimeoutError):
        return EgressReason.TIMEOUT
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return EgressReason.TLS
    if isinstance(error, aiohttp.ClientConnectorError):
        return EgressReason.CONNECT
    return EgressReason.PROTOCOL
