"""Which server a model of LiteLLM's configuration lives on, and what is sent there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hx_gateway.services.upstream.base import UpstreamKind

OPENAI_BASE_URL = "https://api.openai.com/v1"
OLLAMA_BASE_URL = "http://127.0.0.1:11434"
# Names that OpenAI serves: what a bare model name means, and what its key adds.
OPENAI_NAMES = ("gpt-*", "chatgpt-*", "text-embedding-*", "ft:*", *(f"o{digit}*" for digit in range(1, 10)))

_OPENAI = frozenset({"openai", "text-completion-openai"})
_OLLAMA = frozenset({"ollama", "ollama_chat"})
# Servers that speak OpenAI's API but have no address of their own here.
_COMPATIBLE = frozenset(
    {
        "custom_openai",
        "hosted_vllm",
        "vllm",
        "litellm_proxy",
        "openai_like",
        "lm_studio",
        "llamafile",
        "xinference",
    }
    | {"anyscale", "cerebras", "deepinfra", "deepseek", "fireworks_ai", "groq", "mistral", "nvidia_nim"}
    | {"openrouter", "perplexity", "sambanova", "together_ai", "xai"}
)
# Of these, the ones that are nobody's service: without an address the entry is a mistake.
_SELF_HOSTED = frozenset({"custom_openai", "hosted_vllm", "litellm_proxy", "openai_like", "vllm"})
# Providers with a wire format of their own, whatever address stands beside them.
_FOREIGN = frozenset(
    {
        "ai21",
        "aleph_alpha",
        "anthropic",
        "anthropic_text",
        "azure",
        "azure_ai",
        "azure_text",
        "bedrock",
        "cohere",
    }
    | {
        "bedrock_converse",
        "cloudflare",
        "cohere_chat",
        "databricks",
        "gemini",
        "github_copilot",
        "huggingface",
    }
    | {
        "jina_ai",
        "maritalk",
        "nlp_cloud",
        "oobabooga",
        "palm",
        "petals",
        "predibase",
        "replicate",
        "sagemaker",
    }
    | {"sagemaker_chat", "snowflake", "topaz", "triton", "vertex_ai", "vertex_ai_beta", "voyage", "watsonx"}
    | {"watsonx_text", "baseten", "clarifai", "infinity", "assemblyai", "deepgram", "elevenlabs", "recraft"}
)
_KNOWN = _OPENAI | _OLLAMA | _COMPATIBLE | _FOREIGN
_ENDPOINT = re.compile(r"/(?:chat/completions|completions|embeddings)$")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model lives; ``base_url`` is ``None`` when nothing says so, ``provider`` is LiteLLM's name."""

    provider: str
    kind: UpstreamKind
    model: str
    base_url: str | None


def find_target(model: str, provider: str | None, api_base: str | None) -> Target | str:
    """Return where ``litellm_params.model`` lives, or why it cannot be called from here.

    ``provider`` is ``custom_llm_provider``; without it the prefix of ``model`` names the provider, as in
    LiteLLM.
    """
    prefix, separator, rest = model.partition("/")
    if provider is None and separator and prefix in _KNOWN:
        provider, model = prefix, rest
    elif provider is not None and prefix == provider and separator:
        model = rest
    if provider is None:
        if api_base is None and not is_openai_name(model):
            return "names no provider"
        provider = "openai"
    if provider in _OLLAMA:
        return Target(provider, UpstreamKind.OLLAMA, model, _ollama_root(api_base))
    if provider in _OPENAI:
        return Target(provider, UpstreamKind.OPENAI, model, _openai_root(api_base) or OPENAI_BASE_URL)
    if provider in _FOREIGN or (api_base is None and provider not in _COMPATIBLE):
        return f"provider {provider!r}"
    if api_base is None and provider not in (
        "hosted_vllm",
        "custom_openai",
        "openai_like",
        "litellm_proxy",
        "vllm",
    ):
        return f"provider {provider!r} without an 'api_base'"
    return Target(provider, UpstreamKind.OPENAI, model, _openai_root(api_base))


def is_openai_name(model: str) -> bool:
    """Return whether a model without a prefix is one of OpenAI's own; ``*`` stands for them all."""
    return model == "*" or any(model.startswith(pattern[:-1]) for pattern in OPENAI_NAMES)


def _openai_root(api_base: str | None) -> str | None:
    return _ENDPOINT.sub("", api_base.rstrip("/")) if api_base else None


def _ollama_root(api_base: str | None) -> str:
    return api_base.rstrip("/").removesuffix("/v1") if api_base else OLLAMA_BASE_URL
