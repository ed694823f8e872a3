"""Each model name leads to the servers meant for it, and to no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from hx_gateway.errors import HXError
from hx_gateway.gateway.model_config import ModelConfig, load_model_config
from hx_gateway.gateway.model_table import ModelTable, build_model_table
from hx_gateway.services.upstream.base import Timeouts, UpstreamKind

FILE = """
model_list:
  - {model_name: gpt-4o, litellm_params: {model: openai/gpt-4o, api_key: k, timeout: 7}}
  - {model_name: gpt-4o, litellm_params: {model: openai/other, api_base: 'http://h/v1'}}
  - {model_name: claude, litellm_params: {model: anthropic/claude}}
  - {model_name: later, litellm_params: {model: openai/x, api_key: os.environ/SECRET_NAME}}
  - {model_name: 'openai/*', litellm_params: {model: 'openai/*', api_key: k}}
  - {model_name: 'openai/gpt-4*', litellm_params: {model: 'openai/gpt-4*', api_base: 'http://four/v1'}}
  - {model_name: 'anthropic/*', litellm_params: {model: 'anthropic/*'}}
router_settings: {model_group_alias: {smart: gpt-4o, quiet: {model: gpt-4o, hidden: true}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return load_model_config(path, {})


def build(
    *,
    config: ModelConfig | None = None,
    litellm: str | None = None,
    openai: str | None = None,
    demo: bool = False,
    timeouts: Timeouts | None = None,
) -> ModelTable:
    return build_model_table(
        litellm_base_url=litellm,
        litellm_api_key="sk-proxy" if litellm else None,
        config=config,
        openai_api_key=openai,
        demo=demo,
        timeouts=timeouts,
    )


def refusal(table: ModelTable, model: str) -> HXError:
    with pytest.raises(HXError) as caught:
        table.resolve(model)
    return caught.value


def test_without_anything_else_the_demo_models_are_served() -> None:
    table = build(demo=True)
    assert table.names() == ("hx-chat", "emb-premium")
    assert table.resolve("hx-chat")[0].kind is UpstreamKind.DEMO


def test_a_name_that_nobody_knows_is_not_found() -> None:
    error = refusal(build(demo=True), "gpt-4o")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")


def test_openai_s_key_adds_its_models_and_replaces_none() -> None:
    table = build(demo=True, openai="sk-openai")
    assert table.resolve("gpt-4o")[0].api_key == "sk-openai"
    assert table.resolve("o3-mini")[0].model == "o3-mini"
    assert table.resolve("hx-chat")[0].kind is UpstreamKind.DEMO
    assert refusal(table, "ollama/x").code == "model_not_found"


def test_openai_s_key_takes_no_name_from_a_file(config: ModelConfig) -> None:
    table = build(config=config, openai="sk-openai")
    assert table.resolve("gpt-4o")[0].api_key == "k"
    assert table.resolve("openai/gpt-4o")[0].base_url == "http://four/v1"
    assert table.resolve("gpt-3.5-turbo")[0].api_key == "sk-openai"


def test_all_entries_of_a_name_are_kept_in_order(config: ModelConfig) -> None:
    assert [deployment.model for deployment in build(config=config).resolve("gpt-4o")] == ["gpt-4o", "other"]


def test_the_file_s_time_outs_go_before_the_server_s(config: ModelConfig) -> None:
    first, second = build(config=config, timeouts=Timeouts(head=99, idle=88)).resolve("gpt-4o")
    assert (first.timeouts.head, first.timeouts.idle) == (7, 88)
    assert second.timeouts.head == 99


def test_a_wildcard_s_star_becomes_what_it_matched(config: ModelConfig) -> None:
    assert build(config=config).resolve("openai/o1")[0].model == "o1"


def test_the_more_precise_wildcard_is_taken(config: ModelConfig) -> None:
    (deployment,) = build(config=config).resolve("openai/gpt-4o")
    assert (deployment.base_url, deployment.model) == ("http://four/v1", "gpt-4o")


@pytest.mark.parametrize("model", ["claude", "anthropic/claude-3"])
def test_a_provider_that_is_not_called_answers_501(config: ModelConfig, model: str) -> None:
    error = refusal(build(config=config), model)
    assert (error.status, error.code) == (501, "unsupported_provider")


def test_a_model_without_its_variable_answers_503_and_does_not_name_it(config: ModelConfig) -> None:
    error = refusal(build(config=config), "later")
    assert (error.status, error.code) == (503, "model_not_configured")
    assert "SECRET_NAME" not in error.message


def test_names_are_models_and_visible_aliases_without_patterns(config: ModelConfig) -> None:
    assert build(config=config).names() == ("gpt-4o", "smart")


def test_a_proxy_without_a_file_serves_any_name() -> None:
    table = build(litellm="http://proxy:4000/", demo=True, openai="sk-openai")
    (deployment,) = table.resolve("hx-chat")
    assert table.open_ended
    assert (deployment.base_url, deployment.model, deployment.api_key) == (
        "http://proxy:4000/v1",
        "hx-chat",
        "sk-proxy",
    )
    assert table.names() == ()


def test_a_proxy_with_a_file_serves_its_names_and_no_others(config: ModelConfig) -> None:
    table = build(litellm="http://proxy:4000/v1", config=config)
    (deployment,) = table.resolve("claude")
    assert (deployment.base_url, deployment.model) == ("http://proxy:4000/v1", "claude")
    assert table.resolve("anthropic/claude-3")[0].model == "anthropic/claude-3"
    assert refusal(table, "unknown").code == "model_not_found"
    assert not table.open_ended


def test_only_names_written_down_are_fit_for_labels(config: ModelConfig) -> None:
    table = build(config=config)
    assert table.knows("gpt-4o")
    assert not table.knows("openai/anything")
    assert not build(litellm="http://proxy").knows("anything")


@pytest.mark.parametrize("litellm", [None, "http://proxy"])
def test_a_table_shows_no_key(config: ModelConfig, litellm: str | None) -> None:
    assert "sk-" not in repr(build(config=config, litellm=litellm, openai="sk-openai"))
