"""A real LiteLLM proxy behind the gateway, its models answering without a provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import openai
import pytest

from tests.fixtures.gateway import Gateway
from tests.fixtures.litellm import MASTER_KEY, running_litellm

pytestmark = pytest.mark.peers

CONFIG = """
model_list:
  - model_name: mocked
    litellm_params:
      model: openai/gpt-4o-mini
      api_key: made-up
      mock_response: "Hello from behind the proxy."
"""


@pytest.fixture(scope="module")
def litellm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("litellm")
    (folder / "config.yaml").write_text(CONFIG)
    with running_litellm(folder / "config.yaml", folder, {}) as port:
        yield port


@pytest.fixture
def client(start_gateway: Callable[..., Gateway], litellm: int) -> Iterator[openai.OpenAI]:
    gateway = start_gateway({"LITELLM_BASE_URL": f"http://127.0.0.1:{litellm}", "LITELLM_API_KEY": MASTER_KEY})
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as made:
        yield made


def test_the_proxys_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mocked"]


def test_a_chat_goes_through_both(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="mocked", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "Hello from behind the proxy."
    assert answer.usage is not None


def test_a_stream_goes_through_both(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="mocked", messages=[{"role": "user", "content": "hi"}], stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello from behind the proxy."


def test_an_unknown_model_is_the_proxys_own_refusal(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hi"}])
