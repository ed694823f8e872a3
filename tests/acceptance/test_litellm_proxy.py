"""A real LiteLLM proxy behind the gateway, its models answering without a provider."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from hx_gateway.doctor.findings import Surroundings
from hx_gateway.doctor.litellm import examine_litellm
from hx_gateway.settings import Settings
from hx_gateway.wiring.litellm_config import LITELLM_VERSION
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


async def test_the_doctor_reads_from_this_litellm_which_langfuse_it_needs(litellm: int, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("litellm_settings:\n  success_callback: [langfuse]\n")
    given = {"LITELLM_BASE_URL": f"http://127.0.0.1:{litellm}", "LITELLM_API_KEY": MASTER_KEY}
    python = Path(os.environ["HX_TEST_LITELLM"]).parent / "python"
    around = Surroundings(settings=Settings.model_validate(given), litellm_python=python, litellm_config=config)
    pair, langfuse = await examine_litellm(around)
    assert (pair.state, pair.detail) == ("ok", f"{LITELLM_VERSION} in {python}")
    assert (langfuse.state, "is not installed" in langfuse.detail) == ("problem", True)
    assert "'langfuse>=4.7,<5'" in langfuse.remedy


async def test_the_proxy_tells_the_doctor_its_version(litellm: int) -> None:
    given = {"LITELLM_BASE_URL": f"http://127.0.0.1:{litellm}", "LITELLM_API_KEY": MASTER_KEY}
    (told,) = await examine_litellm(Surroundings(settings=Settings.model_validate(given)))
    assert (told.state, told.detail) == ("ok", f"{LITELLM_VERSION} says the upstream")
