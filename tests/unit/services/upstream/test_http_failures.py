from __future__ import annotations

import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadStatusLine, ContentLengthError, TransferEncodingError

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
from hx_gateway.services.upstream.http_failures import translate

KEY = ConnectionKey("a.example", 443, True, True, None, None, None)


def _caused_by(cause: Exception) -> aiohttp.ClientPayloadError:
    error = aiohttp.ClientPayloadError("broken")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "phase", "kind"),
    [
        (ConnectionRefusedError("no"), UpstreamPhase.CONNECT, UpstreamRefused),
        (OSError(113, "no route"), UpstreamPhase.CONNECT, UpstreamRefused),
        (aiohttp.ClientConnectionError("closed"), UpstreamPhase.CONNECT, UpstreamRefused),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "no such name")), UpstreamPhase.CONNECT, UpstreamRefused),
        (TimeoutError(), UpstreamPhase.CONNECT, UpstreamTimeout),
        (aiohttp.ConnectionTimeoutError(), UpstreamPhase.CONNECT, UpstreamTimeout),
        (ssl.SSLCertVerificationError("bad"), UpstreamPhase.CONNECT, UpstreamTlsError),
        (ConnectionResetError("reset"), UpstreamPhase.SEND, UpstreamDisconnected),
        (aiohttp.ServerDisconnectedError(), UpstreamPhase.HEAD, UpstreamDisconnected),
        (BadStatusLine("220 hello"), UpstreamPhase.HEAD, UpstreamProtocolError),
        (_caused_by(ContentLengthError("short")), UpstreamPhase.BODY, UpstreamDisconnected),
        (_caused_by(TransferEncodingError("Not enough data to")), UpstreamPhase.BODY, UpstreamDisconnected),
        (_caused_by(TransferEncodingError("Bad chunk")), UpstreamPhase.BODY, UpstreamProtocolError),
        (ConnectionResetError("reset"), UpstreamPhase.BODY, UpstreamDisconnected),
    ],
)
def test_an_error_means_what_its_phase_makes_of_it(
    error: Exception, phase: UpstreamPhase, kind: type[UpstreamError]
) -> None:
    facts = CallFacts()
    translated = translate(error, phase=phase, facts=facts)
    assert type(translated) is kind
    assert translated.phase is phase
    assert translated.facts is facts
