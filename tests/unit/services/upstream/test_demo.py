"""The demo models answer as OpenAI's do, always the same, without a server."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from hx_gateway.services.upstream.base import UpstreamError, UpstreamRequest
from hx_gateway.services.upstream.demo import DEMO_DEPLOYMENTS, DIMENSIONS, DemoUpstream

EXACT = [{"role": "user", "content": "Return exactly the text: HX-OK"}]


async def ask(path: str, **body: Any) -> tuple[int, bytes]:
    url = f"{DEMO_DEPLOYMENTS[0].base_url}/{path}"
    call = DemoUpstream().call(UpstreamRequest(method="POST", url=url, headers={}, body=json.dumps(body).encode()))
    head = await call.head()
    return head.status, b"".join([chunk async for chunk in call.chunks()])


async def chat(**body: Any) -> dict[str, Any]:
    status, answer = await ask("chat/completions", **{"model": "hx-chat", "messages": EXACT, **body})
    assert status == 200
    return json.loads(answer)  # type: ignore[no-any-return]


async def embed(**body: Any) -> list[Any]:
    status, answer = await ask("embeddings", model="emb-premium", **body)
    assert status == 200
    return [item["embedding"] for item in json.loads(answer)["data"]]


async def test_the_text_asked_for_is_the_text_returned() -> None:
    answer = await chat(max_tokens=10)
    assert answer["choices"][0]["message"]["content"] == "HX-OK"
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_content_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "Return exactly the text: HX-OK"}]
    answer = await chat(messages=[{"role": "user", "content": parts}])
    assert answer["choices"][0]["message"]["content"] == "HX-OK"


async def test_a_cap_cuts_the_answer_and_says_so() -> None:
    answer = await chat(max_tokens=1)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 1


async def test_as_many_choices_come_as_were_asked_for() -> None:
    assert [choice["index"] for choice in (await chat(n=3))["choices"]] == [0, 1, 2]


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_spells_the_same_text_and_tells_usage_when_asked(asked: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asked else {}
    _, answer = await ask("chat/completions", model="hx-chat", messages=EXACT, stream=True, **options)
    lines = [line.removeprefix("data: ") for line in answer.decode().split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    events = [json.loads(line) for line in lines]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == "HX-OK"
    assert any(event.get("usage") for event in events) is asked


async def test_an_embedding_has_unit_length_and_is_always_the_same() -> None:
    first, second = await embed(input=["a quiet harbour", "a quiet harbour"])
    assert first == second
    assert len(first) == DIMENSIONS
    assert sum(value * value for value in first) == pytest.approx(1)


async def test_similar_texts_are_nearer_than_different_ones() -> None:
    one, near, far = await embed(input=["the cat sat on the mat", "the cat sat on a mat", "quarterly tax report"])
    assert sum(map(float.__mul__, one, near)) > sum(map(float.__mul__, one, far))


async def test_fewer_dimensions_are_still_of_unit_length() -> None:
    (short,) = await embed(input="a quiet harbour", dimensions=32)
    assert len(short) == 32
    assert sum(value * value for value in short) == pytest.approx(1)


async def test_base64_and_floats_say_the_same() -> None:
    (floats,) = await embed(input="a")
    (encoded,) = await embed(input="a", encoding_format="base64")
    assert struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(encoded)) == pytest.approx(floats)


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1], [2, 3]]])
async def test_tokens_are_embedded_too(tokens: list[Any]) -> None:
    assert len(await embed(input=tokens)) == (1 if isinstance(tokens[0], int) else 2)


async def test_an_aborted_call_ends() -> None:
    url = f"{DEMO_DEPLOYMENTS[0].base_url}/chat/completions"
    body = json.dumps({"model": "hx-chat", "messages": EXACT, "stream": True}).encode()
    call = DemoUpstream().call(UpstreamRequest(method="POST", url=url, headers={}, body=body))
    await call.head()
    call.abort()
    with pytest.raises(UpstreamError):
        [chunk async for chunk in call.chunks()]
