"""The official OpenAI client against a running gateway with its demo models."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.fixtures.gateway import Gateway

EXACT = "Return exactly the text: HX-OK"


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


def test_the_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["emb-premium", "hx-chat"]
    assert client.models.retrieve("hx-chat").id == "hx-chat"


def test_the_demo_chat_says_exactly_what_it_is_told(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="hx-chat", messages=[{"role": "user", "content": EXACT}], max_tokens=10, temperature=0
    )
    assert answer.choices[0].message.content == "HX-OK"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_arrives_word_by_word_without_a_usage_nobody_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="hx-chat", messages=[{"role": "user", "content": "Tell me something."}], stream=True
    )
    chunks = list(stream)
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) > 5
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_ends_with_the_usage_that_was_asked_for(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="hx-chat",
        messages=[{"role": "user", "content": EXACT}],
        stream=True,
        stream_options={"include_usage": True},
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0


def test_embeddings_come_in_the_base64_that_the_client_asks_for(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="emb-premium", input=["the cat sat", "the cat sits", "tax law"])
    vectors = [entry.embedding for entry in answer.data]
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert {len(vector) for vector in vectors} == {384}
    assert all(math.isclose(sum(x * x for x in vector), 1.0, rel_tol=1e-5) for vector in vectors)
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert near > far + 0.3


def test_legacy_completions_work(client: openai.OpenAI) -> None:
    assert client.completions.create(model="hx-chat", prompt=EXACT).choices[0].text == "HX-OK"


async def test_the_async_client_chats_streams_and_embeds(async_client: openai.AsyncOpenAI) -> None:
    answer = await async_client.chat.completions.create(model="hx-chat", messages=[{"role": "user", "content": EXACT}])
    assert answer.choices[0].message.content == "HX-OK"
    stream = await async_client.chat.completions.create(
        model="hx-chat", messages=[{"role": "user", "content": EXACT}], stream=True
    )
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "HX-OK"
    embedded = await async_client.embeddings.create(model="emb-premium", input="hello")
    assert len(embedded.data[0].embedding) == 384


def test_a_wrong_key_is_an_authentication_error(gateway: Gateway) -> None:
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_an_unknown_model_is_a_not_found_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


def test_a_bad_parameter_is_a_bad_request_error_that_names_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="hx-chat", messages=[{"role": "user", "content": "x"}], n=0)
    assert caught.value.param == "n"
