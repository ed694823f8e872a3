"""Bodies that come again are read once, stay within their bytes, and are nobody else's."""

from __future__ import annotations

import json

from hx_gateway.pipeline.repeated import MAX_BODY_BYTES, RepeatedBodies, Written
from hx_gateway.pipeline.routes import ANYONE, BodyRule, RouteSpec
from hx_gateway.pipeline.stages.validation import ValidationStage
from hx_gateway.translate.openai import ModelRequest, decode_chat
from tests.unit.pipeline.doubles import context


def written(text: str = "hello", route: str = "chat") -> Written:
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    return Written(route, data, decode_chat(data), b"{}")


def test_a_body_is_known_by_all_of_its_bytes_and_its_route() -> None:
    bodies, one = RepeatedBodies(), written()
    bodies.keep(one)
    assert bodies.find("chat", bytes(one.data)) is one
    assert bodies.find("completions", one.data) is None
    assert bodies.find("chat", one.data + b" ") is None


def test_the_latest_used_stay_within_the_bytes() -> None:
    first, second, third = (written(text) for text in "abc")
    bodies = RepeatedBodies(2 * first.size)
    bodies.keep(first)
    bodies.keep(second)
    bodies.find("chat", first.data)
    bodies.keep(third)
    assert [bodies.find("chat", one.data) is not None for one in (first, second, third)] == [True, False, True]
    assert bodies.size == 2 * first.size
    for number in range(1000):
        bodies.keep(written(str(number)))
        assert bodies.size <= 2 * first.size + 20


def test_a_long_body_is_not_kept_and_one_that_is_known_not_twice() -> None:
    bodies = RepeatedBodies()
    bodies.keep(written("x" * MAX_BODY_BYTES))
    assert len(bodies) == 0
    bodies.keep(written())
    bodies.keep(written())
    assert (len(bodies), bodies.size) == (1, written().size)


async def test_a_known_body_is_not_read_again_and_another_is() -> None:
    read: list[bytes] = []

    def decoder(data: bytes) -> ModelRequest:
        read.append(data)
        return decode_chat(data)

    bodies, one = RepeatedBodies(), written()
    stage = ValidationStage(max_body_bytes=10_000, repeated=bodies)
    spec = RouteSpec(
        name="chat",
        methods=frozenset({"POST"}),
        path="/thing",
        policy=ANYONE,
        body=BodyRule.JSON,
        decoder=decoder,
    )
    first, second, other = (context(spec=spec, body=data) for data in (one.data, one.data, written("other").data))
    await stage(first)
    assert first.written is not None
    bodies.keep(first.written)
    await stage(second)
    await stage(other)
    assert read == [one.data, written("other").data]
    assert second.decoded is first.decoded
    assert other.decoded is not first.decoded
