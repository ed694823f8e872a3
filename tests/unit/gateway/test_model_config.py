"""LiteLLM's own files work as they are; what is not done is named, and what is wrong is found by its line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hx_gateway.cache_rules import CacheMode, CacheRule, CacheScope
from hx_gateway.gateway.model_config import ModelConfig, ModelConfigError, load_model_config
from hx_gateway.services.upstream.base import Deployment, UpstreamKind

TYPICAL = """
# a file as teams have it
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 100
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o-2024
      api_base: https://eu.example.org/v1/
      api_key: sk-second
      timeout: 30
      stream_timeout: 12.5
      organization: org-1
      extra_headers: {X-Team: search}
  - model_name: local
    litellm_params:
      model: ollama_chat/llama3.1
      api_base: http://ollama:11434/
    model_info: {mode: chat}
  - model_name: vllm
    litellm_params:
      model: hosted_vllm/meta-llama/Llama-3
      api_base: http://vllm:8000/v1
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet
      api_key: os.environ/ANTHROPIC_API_KEY
litellm_settings:
  callbacks: [langfuse]
  drop_params: true
general_settings:
  master_key: sk-1234
router_settings:
  routing_strategy: simple-shuffle
  model_group_alias:
    gpt-4: gpt-4o
    secret-alias: {model: local, hidden: true}
"""
KEYS = {"OPENAI_API_KEY": "sk-openai"}


def load(tmp_path: Path, text: str, environ: Mapping[str, str] = KEYS, *, direct: bool = True) -> ModelConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_model_config(path, environ, direct=direct)


def load_model(tmp_path: Path, params: str, environ: Mapping[str, str] = KEYS) -> ModelConfig:
    return load(tmp_path, f"model_list:\n  - model_name: m\n    litellm_params: {params}\n", environ)


def only(config: ModelConfig) -> Deployment:
    ((deployment,),) = config.deployments.values()
    return deployment


def test_a_typical_file_gives_every_model_that_can_be_called(tmp_path: Path) -> None:
    config = load(tmp_path, TYPICAL)
    first, second = config.deployments["gpt-4o"]
    assert (first.base_url, first.model, first.api_key) == (
        "https://api.openai.com/v1",
        "gpt-4o",
        "sk-openai",
    )
    assert (second.base_url, second.api_key) == ("https://eu.example.org/v1", "sk-second")
    assert second.headers == {"x-team": "search", "openai-organization": "org-1"}
    assert first.name != second.name
    assert list(config.deployments) == ["gpt-4o", "local", "vllm"]


def test_ollama_is_called_in_its_own_way(tmp_path: Path) -> None:
    (local,) = load(tmp_path, TYPICAL).deployments["local"]
    assert (local.kind, local.model, local.base_url) == (
        UpstreamKind.OLLAMA,
        "llama3.1",
        "http://ollama:11434",
    )


def test_only_the_provider_is_taken_off_a_model_s_name(tmp_path: Path) -> None:
    (vllm,) = load(tmp_path, TYPICAL).deployments["vllm"]
    assert (vllm.kind, vllm.model) == (UpstreamKind.OPENAI, "meta-llama/Llama-3")


def test_time_outs_of_the_file_are_kept_apart_from_those_it_leaves_open(tmp_path: Path) -> None:
    config = load(tmp_path, TYPICAL)
    first, second = config.deployments["gpt-4o"]
    assert config.timeouts[first.name] == {}
    assert config.timeouts[second.name] == {"head": 30.0, "idle": 12.5}


def test_aliases_are_read_and_hidden_ones_known(tmp_path: Path) -> None:
    config = load(tmp_path, TYPICAL)
    assert config.aliases == {"gpt-4": "gpt-4o", "secret-alias": "local"}
    assert config.hidden == {"secret-alias"}


def test_other_providers_are_listed_once_and_need_no_variable(tmp_path: Path) -> None:
    config = load(tmp_path, TYPICAL)
    assert config.unsupported == {"claude": "provider 'anthropic'"}
    assert sum("claude" in warning for warning in config.warnings) == 1
    assert "ANTHROPIC_API_KEY" not in " ".join(config.warnings)


@pytest.mark.parametrize(
    "setting",
    [
        "model_list[].litellm_params.rpm (gpt-4o)",
        "litellm_settings.callbacks",
        "litellm_settings.drop_params",
        "router_settings.routing_strategy",
        "general_settings.master_key",
    ],
)
def test_what_is_not_done_is_named(tmp_path: Path, setting: str) -> None:
    assert setting in " ".join(load(tmp_path, TYPICAL).warnings)


def test_no_warning_holds_a_secret(tmp_path: Path) -> None:
    warnings = " ".join(load(tmp_path, TYPICAL).warnings)
    assert "sk-" not in warnings


def test_unknown_sections_are_named(tmp_path: Path) -> None:
    config = load(tmp_path, "include: [other.yaml]\nguardrails: []\nenvironment_variables: {A: b}\n")
    (warning,) = config.warnings
    assert "include" in warning
    assert "guardrails" in warning
    assert "environment_variables (A)" in warning


def test_a_variable_that_is_not_set_makes_its_model_unusable_and_is_named(tmp_path: Path) -> None:
    config = load_model(tmp_path, "{model: openai/gpt-4o, api_key: os.environ/TEAM_KEY}")
    assert not config.deployments
    assert "TEAM_KEY" in config.unusable["m"]
    assert "'m'" in config.warnings[0]
    assert "TEAM_KEY" in config.warnings[0]


def test_a_model_with_one_usable_entry_is_usable(tmp_path: Path) -> None:
    text = TYPICAL.replace("api_key: sk-second", "api_key: os.environ/TEAM_KEY")
    config = load(tmp_path, text)
    assert len(config.deployments["gpt-4o"]) == 1
    assert "gpt-4o" not in config.unusable


def test_openai_without_any_key_is_unusable(tmp_path: Path) -> None:
    config = load_model(tmp_path, "{model: gpt-4o}", {})
    assert "OPENAI_API_KEY" in config.unusable["m"]


def test_openai_s_key_goes_to_no_other_address(tmp_path: Path) -> None:
    deployment = only(load_model(tmp_path, "{model: openai/x, api_base: http://elsewhere/v1}"))
    assert deployment.api_key is None


@pytest.mark.parametrize(
    ("params", "model", "base_url"),
    [
        ("{model: gpt-4o}", "gpt-4o", "https://api.openai.com/v1"),
        ("{model: text-completion-openai/davinci}", "davinci", "https://api.openai.com/v1"),
        ("{model: custom_openai/x, api_base: 'http://h/v1'}", "x", "http://h/v1"),
        ("{model: org/model, api_base: 'http://h/v1'}", "org/model", "http://h/v1"),
        (
            "{model: org/model, custom_llm_provider: openai, base_url: 'http://h/v1'}",
            "org/model",
            "http://h/v1",
        ),
        ("{model: deepseek/chat, api_base: 'http://h/v1'}", "chat", "http://h/v1"),
        ("{model: openai/x, api_base: 'http://h/v1/chat/completions'}", "x", "http://h/v1"),
        ("{model: openai/x, api_base: os.environ/BASE}", "x", "http://from-env/v1"),
        ("{model: ollama/nomic}", "nomic", "http://127.0.0.1:11434"),
        ("{model: ollama/nomic, api_base: 'http://o:11434/v1'}", "nomic", "http://o:11434"),
    ],
)
def test_a_model_is_found_where_litellm_finds_it(tmp_path: Path, params: str, model: str, base_url: str) -> None:
    deployment = only(load_model(tmp_path, params, {**KEYS, "BASE": "http://from-env/v1"}))
    assert (deployment.model, deployment.base_url) == (model, base_url)


@pytest.mark.parametrize("variable", ["HOSTED_VLLM_API_BASE", "OLLAMA_API_BASE"])
def test_a_provider_s_address_may_come_from_its_variable(tmp_path: Path, variable: str) -> None:
    provider = "ollama" if variable.startswith("OLLAMA") else "hosted_vllm"
    assert only(load_model(tmp_path, f"{{model: {provider}/x}}", {variable: "http://h:1"})).base_url == "http://h:1"


@pytest.mark.parametrize(
    "params",
    [
        "{model: anthropic/claude, api_base: 'http://h'}",
        "{model: azure/deployment, api_base: 'https://x.openai.azure.com'}",
        "{model: bedrock/anthropic.claude}",
        "{model: gemini/gemini-pro}",
        "{model: groq/llama}",
        "{model: claude-sonnet}",
        "{model: x, custom_llm_provider: vertex_ai}",
    ],
)
def test_a_provider_with_another_wire_format_is_unsupported(tmp_path: Path, params: str) -> None:
    config = load_model(tmp_path, params)
    assert list(config.unsupported) == ["m"]
    assert not config.deployments


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("model_list: {}\n", 1, "model_list"),
        ("model_list:\n  - gpt\n", 2, "model_list[0]"),
        ("model_list:\n  - litellm_params: {model: x}\n", 2, "model_list[0].model_name"),
        ("model_list:\n  - model_name: 4\n    litellm_params: {model: x}\n", 2, "model_list[0].model_name"),
        ("model_list:\n  - model_name: a\n", 2, "model_list[0].litellm_params"),
        ("model_list:\n  - model_name: a\n    litellm_params: x\n", 3, "model_list[0].litellm_params"),
        (
            "model_list:\n  - model_name: a\n    litellm_params:\n      model: [x]\n",
            4,
            "litellm_params.model",
        ),
        ("litellm_settings: []\n", 1, "litellm_settings"),
        ("router_settings:\n  model_group_alias: [a]\n", 2, "router_settings.model_group_alias"),
        ("router_settings:\n  model_group_alias:\n    a: 1\n", 3, "router_settings.model_group_alias.a"),
        ("- a\n", 1, "mapping"),
        ("a: 1\na: 2\n", 2, "duplicate key"),
        ("a:\n\tb: 1\n", 2, "\\t"),
        ("a: [1,\n", 2, ""),
    ],
)
def test_a_mistake_is_found_by_file_line_and_field(tmp_path: Path, text: str, line: int, field: str) -> None:
    with pytest.raises(ModelConfigError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'config.yaml'}:{line}: ")
    assert field in message


@pytest.mark.parametrize(
    ("param", "field"),
    [
        ("timeout: -1", "timeout"),
        ("timeout: soon", "timeout"),
        ("timeout: true", "timeout"),
        ("timeout: .inf", "timeout"),
        ("api_key: 5", "api_key"),
        ("api_key: 'sk a'", "api_key"),
        ("api_base: h:8000", "api_base"),
        ("api_base: 'ftp://h'", "api_base"),
        ("api_base: 'http://user:secret@h/v1'", "api_base"),
        ("api_base: 'http://h:99999/v1'", "api_base"),
        ("extra_headers: {host: x}", "extra_headers"),
        ('extra_headers: {a: "b\\r\\nc: d"}', "extra_headers"),
        ("extra_headers: {a: 1}", "extra_headers.a"),
    ],
)
def test_a_wrong_value_is_named_and_not_repeated(tmp_path: Path, param: str, field: str) -> None:
    with pytest.raises(ModelConfigError, match=field.replace(".", r"\.")) as caught:
        load_model(tmp_path, f"{{model: openai/x, {param}}}")
    assert "secret" not in str(caught.value)


def test_a_duplicate_key_does_not_show_its_values(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError) as caught:
        load(tmp_path, "api_key: sk-one\napi_key: sk-two\n")
    assert "sk-" not in str(caught.value)


def test_a_self_hosted_server_without_an_address_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match="api_base"):
        load_model(tmp_path, "{model: hosted_vllm/x}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"none\.yaml"):
        load_model_config(tmp_path / "none.yaml", {})


def test_a_tag_runs_nothing(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(ModelConfigError):
        load(tmp_path, f"model_list: !!python/object/apply:os.mkdir ['{target}']\n")
    assert not target.exists()


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = (
        "base: &base {api_base: 'http://h/v1', api_key: k}\n"
        "model_list:\n  - model_name: m\n    litellm_params:\n      <<: *base\n      model: openai/x\n"
    )
    assert only(load(tmp_path, text)).base_url == "http://h/v1"


def test_an_empty_file_has_no_models(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n") == ModelConfig()


def test_behind_a_proxy_only_names_and_aliases_matter(tmp_path: Path) -> None:
    config = load(tmp_path, TYPICAL, {}, direct=False)
    assert config.names == ("gpt-4o", "local", "vllm", "claude")
    assert not config.unsupported
    assert not config.unusable
    assert "OPENAI_API_KEY" not in " ".join(config.warnings)


def test_an_alias_to_nothing_is_named(tmp_path: Path) -> None:
    text = TYPICAL.replace("gpt-4: gpt-4o", "gpt-4: gone")
    assert any("'gone'" in warning for warning in load(tmp_path, text).warnings)


MODEL = "model_list:\n  - model_name: m\n    litellm_params: {model: ollama/x}\n"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("cache: exact", CacheRule(mode=CacheMode.EXACT)),
        ("cache: off", CacheRule(mode=CacheMode.OFF)),
        ("cache: {}", CacheRule()),
        (
            "cache: {mode: ask, ttl_seconds: 600, scope: team}",
            CacheRule(mode=CacheMode.ASK, ttl_seconds=600, scope=CacheScope.TEAM),
        ),
    ],
)
@pytest.mark.parametrize("direct", [True, False])
def test_a_model_says_how_the_cache_is_used_for_it(tmp_path: Path, text: str, rule: CacheRule, direct: bool) -> None:
    config = load(tmp_path, f"{MODEL}    model_info: {{mode: chat, {text}}}\n", direct=direct)
    assert config.cache_of_models == {"m": rule}
    assert config.cache is None
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("cache: always", "model_info.cache"),
        ("cache: true", "model_info.cache"),
        ("cache: [exact]", "model_info.cache"),
        ("cache: {mode: 1}", "model_info.cache.mode"),
        ("cache: {scope: everybody}", "model_info.cache.scope"),
        ("cache: {ttl_seconds: 0.5}", "model_info.cache.ttl_seconds"),
        ("cache: {ttl_seconds: 1e9}", "model_info.cache.ttl_seconds"),
        ("cache: {ttl: 5}", "model_info.cache.ttl"),
    ],
)
def test_a_cache_that_makes_no_sense_stops_the_start_by_name(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(ModelConfigError, match=rf"config.yaml:\d+: model_list\[0\]\.{field}: "):
        load(tmp_path, f"{MODEL}    model_info: {{{text}}}\n")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("cache: false", None),
        ("cache: true", CacheRule(mode=CacheMode.EXACT)),
        ("cache: true\n  cache_params: {type: redis, ttl: 60}", CacheRule(mode=CacheMode.EXACT, ttl_seconds=60)),
        ("cache: true\n  cache_params: {type: local, mode: default_off}", CacheRule(mode=CacheMode.ASK)),
    ],
)
def test_litellm_s_own_switch_turns_it_on(tmp_path: Path, text: str, rule: CacheRule | None) -> None:
    config = load(tmp_path, f"{MODEL}litellm_settings:\n  {text}\n")
    assert config.cache == rule
    assert config.warnings == ()


def test_what_says_where_litellm_keeps_answers_has_no_effect_and_is_named(tmp_path: Path) -> None:
    text = "litellm_settings:\n  cache: true\n  cache_params: {type: s3, host: redis.example.org, namespace: n}\n"
    config = load(tmp_path, MODEL + text)
    assert config.cache == CacheRule(mode=CacheMode.EXACT)
    assert "cache_params.type, litellm_settings.cache_params.host" in config.warnings[0]


def test_the_cache_of_a_proxy_is_the_proxy_s_own(tmp_path: Path) -> None:
    config = load(tmp_path, f"{MODEL}litellm_settings:\n  cache: true\n", direct=False)
    assert config.cache is None
    assert "litellm_settings.cache" in config.warnings[0]
