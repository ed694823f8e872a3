"""From aiohttp's errors to ours, once."""

from __future__ import annotations

import ssl

import aiohttp
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError

from hx_gateway.services.upstream.base import (
    CallFacts,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamPhase,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTlsError,
)


def translate(error: BaseException, *, phase: UpstreamPhase, facts: CallFacts) -> UpstreamError:
    """Return what ``error`` means in ``phase``. Its text may name a host; aiohttp puts no credential in any."""
    kind = _before_sending(error) if phase is UpstreamPhase.CONNECT else _afterwards(error)
    return kind(f"{type(error).__name__}: {error}", phase=phase, facts=facts)


def _before_sending(error: BaseException) -> type[UpstreamError]:
    if isinstance(error, TimeoutError):
        return UpstreamTimeout
    # The certificate's error is an ssl.SSLError only underneath.
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return UpstreamTlsError
    return UpstreamRefused


def _afterwards(error: BaseException) -> type[UpstreamError]:
    broken = error.__cause__ if isinstance(error, aiohttp.ClientPayloadError) else error
    if isinstance(broken, ContentLengthError):
        return UpstreamDisconnected
    if isinstance(broken, HttpProcessingError):
        # The one error for a body of chunks that stops and for one whose chunks are not chunks.
        return UpstreamDisconnected if "Not enough data" in broken.message else UpstreamProtocolError
    return UpstreamDisconnected
