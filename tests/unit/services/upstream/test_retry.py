from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from hx_gateway.services.upstream.base import (
    CallFacts,
    UpstreamDisconnected,
    UpstreamError,
    UpstreamHead,
    UpstreamPhase,
    UpstreamProtocolError,
    UpstreamRequest,
    UpstreamTimeout,
)
from hx_gateway.services.upstream.retry import open_call

Failure = Callable[[], UpstreamError]
REQUEST = UpstreamRequest(method="POST", url="http://a/", headers={}, body=b"{}")


class Script:
    """An upstream whose calls fail as given, and then succeed."""

    def __init__(self, *failures: Failure) -> None:
        self.failures = list(failures)
        self.fresh: list[bool] = []

    def call(self, request: UpstreamRequest, *, fresh: bool = False) -> ScriptedCall:
        self.fresh.append(fresh)
        return ScriptedCall(self.failures.pop(0) if self.failures else None)

    async def close(self) -> None: ...


class ScriptedCall:
    """One call of a script."""

    def __init__(self, failure: Failure | None) -> None:
        self.facts = CallFacts()
        self._failure = failure

    async def head(self) -> UpstreamHead:
        if self._failure is not None:
            raise self._failure()
        return UpstreamHead(200, ())

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""

    def abort(self) -> None: ...


def failed(
    kind: type[UpstreamError] = UpstreamDisconnected,
    *,
    phase: UpstreamPhase = UpstreamPhase.HEAD,
    reused: bool = True,
    received: int = 0,
) -> Failure:
    facts = CallFacts(bytes_written=9, connection_reused=reused, bytes_received=received)
    return lambda: kind("x", phase=phase, facts=facts)


@pytest.mark.parametrize("phase", [UpstreamPhase.SEND, UpstreamPhase.HEAD])
async def test_a_kept_connection_that_ended_without_a_byte_is_tried_once_more_on_a_new_one(
    phase: UpstreamPhase,
) -> None:
    script = Script(failed(phase=phase))
    _, head = await open_call(script, REQUEST)
    assert head.status == 200
    assert script.fresh == [False, True]


async def test_a_second_failure_is_the_last() -> None:
    script = Script(failed(), failed(reused=True), failed())
    with pytest.raises(UpstreamDisconnected):
        await open_call(script, REQUEST)
    assert script.fresh == [False, True]


@pytest.mark.parametrize(
    "failure",
    [
        failed(reused=False),
        failed(received=1),
        failed(UpstreamTimeout),
        failed(UpstreamProtocolError),
        failed(phase=UpstreamPhase.CONNECT),
    ],
)
async def test_what_the_server_may_have_begun_is_not_sent_again(failure: Failure) -> None:
    script = Script(failure)
    with pytest.raises(UpstreamError):
        await open_call(script, REQUEST)
    assert script.fresh == [False]


async def test_a_body_in_pieces_is_not_sent_again() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    script = Script(failed())
    with pytest.raises(UpstreamDisconnected):
        await open_call(script, UpstreamRequest(method="POST", url="http://a/", headers={}, body=body()))
    assert script.fresh == [False]
