"""OpenAI's embeddings from a server that speaks Ollama's, whichever of its two calls it has."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from hx_gateway.errors import InvalidRequest
from hx_gateway.services.upstream.base import (
    CallFacts,
    Deployment,
    UpstreamCall,
    UpstreamHead,
    UpstreamKind,
    UpstreamPhase,
    UpstreamRefused,
    UpstreamRequest,
)
from hx_gateway.translate.embeddings import CONCURRENCY, EmbeddingAnswer, embed_with_ollama
from hx_gateway.translate.errors import UnreadableAnswer, UpstreamStatusError
from hx_gateway.translate.openai import decode_embedding

DEPLOYMENT = Deployment(name="o", kind=UpstreamKind.OLLAMA, model="nomic", base_url="http://o", api_key="k")
Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


class Server:
    """Answers by a function of path and body; counts what runs at once."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[UpstreamRequest] = []
        self.running = 0
        self.most = 0
        self.aborted = 0

    def call(self, request: UpstreamRequest, *, fresh: bool = False) -> UpstreamCall:
        self.requests.append(request)
        return Call(self, request)

    async def close(self) -> None:
        pass


class Call:
    def __init__(self, server: Server, request: UpstreamRequest) -> None:
        self.server = server
        self.request = request
        self.facts = CallFacts()
        self.body: Any = None

    async def head(self) -> UpstreamHead:
        self.server.running += 1
        self.server.most = max(self.server.most, self.server.running)
        try:
            await asyncio.sleep(0)
        finally:
            self.server.running -= 1
        assert isinstance(self.request.body, bytes)
        path = self.request.url.removeprefix("http://o")
        status, self.body = self.server.answer(path, json.loads(self.request.body))
        return UpstreamHead(status, ())

    async def chunks(self) -> AsyncIterator[bytes]:
        yield json.dumps(self.body).encode()

    def abort(self) -> None:
        self.server.aborted += 1


def vector(text: str) -> list[float]:
    return [float(len(text)), 0.5]


def modern(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    assert path == "/api/embed"
    return 200, {"embeddings": [vector(text) for text in body["input"]], "prompt_eval_count": 7}


def old(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    return (404, {}) if path == "/api/embed" else (200, {"embedding": vector(body["prompt"])})


async def embed(server: Server, **fields: Any) -> EmbeddingAnswer:
    request = decode_embedding(json.dumps({"model": "m", **fields}).encode())
    return await embed_with_ollama(server, DEPLOYMENT, request)


async def test_a_list_goes_in_one_call_and_is_counted_by_the_server() -> None:
    server = Server(modern)
    answer = await embed(server, input=["a", "bbb"])
    body = json.loads(answer.body)
    assert [item["embedding"] for item in body["data"]] == [vector("a"), vector("bbb")]
    assert (body["object"], body["model"], body["usage"]["prompt_tokens"]) == ("list", "m", 7)
    assert (len(server.requests), answer.usage.estimated) == (1, False)


async def test_the_deployment_s_credential_is_sent() -> None:
    server = Server(modern)
    await embed(server, input="a")
    assert server.requests[0].headers["authorization"] == "Bearer k"


async def test_an_older_server_gets_one_text_a_call_in_order_and_a_few_at_once() -> None:
    server = Server(old)
    texts = ["x" * size for size in range(1, 31)]
    answer = await embed(server, input=texts)
    data = json.loads(answer.body)["data"]
    assert [item["embedding"] for item in data] == [vector(text) for text in texts]
    assert [item["index"] for item in data] == list(range(30))
    assert 1 < server.most <= CONCURRENCY
    assert answer.usage.estimated


async def test_base64_is_little_endian_single_precision() -> None:
    answer = await embed(Server(modern), input="abc", encoding_format="base64")
    encoded = json.loads(answer.body)["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (3.0, 0.5)


async def test_tokens_are_refused_before_anything_is_sent() -> None:
    server = Server(modern)
    with pytest.raises(InvalidRequest) as caught:
        await embed(server, input=[1, 2])
    assert caught.value.param == "input"
    assert not server.requests


async def test_dimensions_are_refused_where_only_the_older_call_exists() -> None:
    with pytest.raises(InvalidRequest) as caught:
        await embed(Server(old), input="a", dimensions=8)
    assert caught.value.param == "dimensions"


async def test_one_refusal_is_raised_as_it_is() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (500, {"error": "x"}) if body.get("prompt") == "b" else old(path, body)

    with pytest.raises(UpstreamStatusError) as caught:
        await embed(Server(answer), input=["a", "b", "c"])
    assert caught.value.head.status == 500


async def test_a_connection_that_fails_in_one_of_many_calls_is_raised_as_it_is() -> None:
    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/api/embed":
            return 404, {}
        raise UpstreamRefused("away", phase=UpstreamPhase.CONNECT, facts=CallFacts())

    with pytest.raises(UpstreamRefused):
        await embed(Server(answer), input=["a", "b"])


async def test_an_answer_with_too_few_vectors_is_unreadable() -> None:
    with pytest.raises(UnreadableAnswer):
        await embed(Server(lambda path, body: (200, {"embeddings": [[1.0]]})), input=["a", "b"])
