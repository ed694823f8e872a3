"""Embeddings by a model that the gateway serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from hx_gateway.cache.meaning.embedding import EmbeddingFailed
from hx_gateway.cache.meaning.upstream_embedder import EMBED_SECONDS, MAX_ANSWER_BYTES, UpstreamEmbedder
from hx_gateway.errors import NotFound
from hx_gateway.services.upstream.base import Deployment, UpstreamKind
from hx_gateway.services.upstream.demo import DEMO_DEPLOYMENTS, DemoUpstream, embed
from tests.unit.translate.test_embeddings import Answer, Server

OPENAI = Deployment(
    name="e",
    kind=UpstreamKind.OPENAI,
    model="embed-small",
    base_url="http://e/v1",
    api_key="the-gateways",
    headers={"openai-organization": "org"},
)
VECTOR = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}], "model": "x"}


def embedder(answer: Answer, *deployments: Deployment) -> tuple[UpstreamEmbedder, Server]:
    server = Server(answer)
    served = deployments or (OPENAI,)
    return UpstreamEmbedder("e", lambda _: served, {deployment.kind: server for deployment in served}), server


async def test_a_text_goes_out_with_the_gateways_own_credential_and_nothing_of_a_clients() -> None:
    made, server = embedder(lambda path, body: (200, VECTOR))
    assert await made.embed("héllo") == [0.5, -0.5]
    (request,) = server.requests
    assert request.url == "http://e/v1/embeddings"
    assert isinstance(request.body, bytes)
    assert msgspec.json.decode(request.body) == {"model": "embed-small", "input": "héllo", "encoding_format": "float"}
    assert request.headers.keys() == {
        "content-type", "accept-encoding", "user-agent", "authorization", "openai-organization"
    }  # fmt: skip
    assert request.headers["authorization"] == "Bearer the-gateways"
    assert request.timeouts.total == EMBED_SECONDS


async def test_the_demo_model_and_ollama_embed_too() -> None:
    demo = UpstreamEmbedder("emb-premium", lambda _: DEMO_DEPLOYMENTS[1:], {UpstreamKind.DEMO: DemoUpstream()})
    assert await demo.embed("hello") == pytest.approx(embed("hello"))
    ollama = Deployment(name="o", kind=UpstreamKind.OLLAMA, model="nomic", base_url="http://o")
    made, server = embedder(lambda path, body: (200, {"embeddings": [[1.0, 2.0]]}), ollama)
    assert await made.embed("hello") == [1.0, 2.0]
    assert server.requests[0].url == "http://o/api/embed"


async def test_its_name_tells_which_model_it_is() -> None:
    other = Deployment(name="e", kind=UpstreamKind.OPENAI, model="embed-large", base_url="http://e/v1")
    names = {embedder(lambda path, body: (200, VECTOR), deployment)[0].name for deployment in (OPENAI, other)}
    assert names == {"e (openai embed-small)", "e (openai embed-large)"}


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"error": "x"}),
        (401, {"error": "x"}),
        (302, {}),
        (200, {"data": []}),
        (200, {"data": [{"embedding": "AAAA"}]}),
        (200, {"data": [{"embedding": [None]}]}),
        (200, []),
        (200, {"data": [{"embedding": [1.0]}], "junk": "x" * MAX_ANSWER_BYTES}),
    ],
)
async def test_whatever_else_comes_is_a_failure(answer: tuple[int, Any]) -> None:
    made, server = embedder(lambda path, body: answer)
    with pytest.raises(EmbeddingFailed):
        await made.embed("hello")
    assert server.aborted == len(server.requests) == 1


async def test_a_model_that_nobody_serves_is_a_failure() -> None:
    def resolve(model: str) -> Sequence[Deployment]:
        raise NotFound("There is none.")

    made = UpstreamEmbedder("gone", resolve, {})
    assert made.name == "gone"
    with pytest.raises(EmbeddingFailed):
        await made.embed("hello")
