"""Who follows changes goes on where it was cut off, and says when the gateway is away and when it is back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hx_gateway.cli.client import Refused
from hx_gateway.cli.registry.changes import RETRY_SECONDS, ChangeFollower
from hx_gateway.kit.backoff import Backoff
from hx_gateway.services.upstream.base import CallFacts, UpstreamDisconnected, UpstreamPhase, UpstreamRefused


def failed(kind: type[UpstreamDisconnected] | type[UpstreamRefused], says: str) -> Exception:
    return kind(says, phase=UpstreamPhase.BODY, facts=CallFacts())


CUT = failed(UpstreamDisconnected, "cut off")
AWAY = failed(UpstreamRefused, "refused")


class Script:
    """Streams that go as they are written: bytes are told, an error ends one early. After the last, ``Refused``."""

    def __init__(self, *streams: list[bytes | Exception]) -> None:
        self.streams: list[list[bytes | Exception]] = [*streams, [Refused("404: The end.", 404)]]
        self.places: list[str | None] = []

    async def stream(
        self, _path: str, _parameters: Any = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        self.places.append((headers or {}).get("last-event-id"))
        for step in self.streams.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step


async def followed(script: Script) -> tuple[list[str], list[str], list[float]]:
    """Return the data of events, what was said aside, and how long was waited, until the script's end."""
    said, waits, told = list[str](), list[float](), list[str]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    follower = ChangeFollower(
        script,
        {},
        on_away=said.append,
        on_back=lambda: said.append("back"),
        backoff=Backoff(first=1, most=4, draw=lambda: 0.0),
        sleep=sleep,
    )

    async def follow() -> None:
        async for event in follower.events():
            told.append(event.data)

    with pytest.raises(Refused, match="The end"):
        await follow()
    return told, said, waits


async def test_a_stream_that_ended_is_asked_for_again_from_its_last_place() -> None:
    script = Script([b"retry: 500\nid: 3\n\n", b"id: 4\ndata: a\n\n"], [b"id: 5\ndata: b\n\n"])
    assert await followed(script) == (["a", "b"], [], [0.5, RETRY_SECONDS])
    assert script.places == [None, "4", "5"]


async def test_a_place_that_is_told_without_an_event_is_gone_on_from() -> None:
    script = Script([b"id: 3\n\n", CUT], [b"id: 9\n\n", CUT], [b"id: 9\n\n"])
    await followed(script)
    assert script.places == [None, "3", "9", "9"]


async def test_half_an_event_is_told_once_it_came_whole() -> None:
    script = Script([b"id: 3\n\n", b"id: 4\ndata: a", CUT], [b"id: 4\ndata: a\n\n"])
    told, _, _ = await followed(script)
    assert (told, script.places) == (["a"], [None, "3", "4"])


async def test_it_is_said_once_that_the_gateway_is_away_and_once_that_it_is_back() -> None:
    starting = Refused("503: starting", 503)
    script = Script([b"id: 3\n\n", CUT], [AWAY], [starting], [AWAY], [b"id: 3\n\n"])
    _, said, waits = await followed(script)
    assert said == ["the connection ended", "back"]
    assert waits == [0.5, 1.0, 2.0, 2.0, RETRY_SECONDS]


async def test_waiting_begins_anew_after_the_gateway_was_back() -> None:
    script = Script([b"id: 3\n\n", CUT], [AWAY], [b"id: 3\n\n", CUT], [b"id: 3\n\n"])
    _, said, waits = await followed(script)
    assert (said, waits[:3]) == (["the connection ended", "back"] * 2, [0.5, 1.0, 0.5])


async def test_a_gateway_that_was_never_there_is_not_waited_for() -> None:
    follower = ChangeFollower(Script([AWAY]), {}, on_away=print, on_back=print)
    with pytest.raises(UpstreamRefused):
        await anext(follower.events())


async def test_a_refusal_that_waiting_does_not_change_is_not_waited_for() -> None:
    script = Script([b"id: 3\n\n"], [Refused("401: no such key", 401)])
    follower = ChangeFollower(script, {}, on_away=print, on_back=print, sleep=nothing)
    with pytest.raises(Refused, match="no such key"):
        await anext(follower.events())


async def nothing(_seconds: float) -> None:
    """Wait for nothing."""
