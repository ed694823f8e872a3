"""What clients of OpenAI's API send: decoded as far as the gateway needs it, and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw

from hx_gateway.cache_rules import MAX_NAMESPACE_CHARS, MAX_TTL_SECONDS, CacheAsk
from hx_gateway.errors import InvalidRequest
from hx_gateway.kit.json_object import JSONObjectError, decode_object

MAX_MODEL_LENGTH = 256
MAX_MESSAGES = 10_000
MAX_INPUTS = 2048
MAX_CHOICES = 128
MAX_CAP = 2**31 - 1


class Operation(StrEnum):
    """What a request asks a model to do."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request to a model. ``body`` holds every field the client sent, as it was written, but for ``cache``.

    ``include_usage``: the client of a stream asked for the usage event. ``max_tokens``: the output cap, the
    larger one where a request has two; ``n``: how many answers are made, those of ``best_of`` included. ``cache`` is
    what it asks of the gateway's cache, which no upstream is told: one of its own may be shared by all who call here.
    """

    operation: Operation
    model: str
    body: dict[str, Raw]
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    n: int = 1
    cache: CacheAsk | None = None


# Where a request goes, with whose credential and what is recorded of it is not for the body to decide.
_SERVER_FIELDS = frozenset(
    {
        "api_base",
        "api_key",
        "api_type",
        "api_version",
        "base_url",
        "client",
        "credentials",
        "custom_llm_provider",
    }
    | {
        "default_headers",
        "extra_body",
        "extra_headers",
        "extra_query",
        "headers",
        "hf_model_name",
        "http_client",
    }
    | {
        "caching",
        "fallbacks",
        "content_policy_fallbacks",
        "context_window_fallbacks",
        "default_fallbacks",
    }
    | {"input_cost_per_token", "output_cost_per_token", "input_cost_per_second", "output_cost_per_second"}
    | {
        "mock_response",
        "mock_timeout",
        "mock_tool_calls",
        "model_info",
        "model_list",
        "no-log",
        "organization",
    }
    | {"proxy_server_request", "region_name", "secret_fields", "ssl_verify", "use_litellm_proxy"}
)
_SERVER_PREFIXES = ("aws_", "azure_", "gcs_", "litellm_", "s3_", "user_api_key", "vertex_", "watsonx_")
_METADATA_FIELDS = ("metadata", "litellm_metadata")
_METADATA_PREFIX = "user_api_key"

_Count = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
_Cap = Annotated[int, Meta(ge=1, le=MAX_CAP)]
_Token = Annotated[int, Meta(ge=0, le=MAX_CAP)]
_Names = Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_LENGTH)]


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class _Call(msgspec.Struct, gc=False):
    """The fields that all operations share."""

    model: _Names


class _Generation(_Call):
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Cap | None = None
    n: _Count | None = None
    temperature: float | None = None
    top_p: float | None = None


class _Message(msgspec.Struct, gc=False):
    role: Annotated[str, Meta(min_length=1)]


class _Chat(_Generation, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: _Cap | None = None


class _Completion(_Generation, kw_only=True):
    prompt: str | list[str | _Token | list[_Token]]
    best_of: _Count | None = None


class _Embedding(_Call, kw_only=True):
    input: str | list[str | _Token | list[_Token]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: _Cap | None = None


_T = TypeVar("_T", bound=_Call)

_CHAT = msgspec.json.Decoder(_Chat)
_COMPLETION = msgspec.json.Decoder(_Completion)
_EMBEDDING = msgspec.json.Decoder(_Embedding)
_METADATA = msgspec.json.Decoder(dict[str, Raw])
_CACHE = msgspec.json.Decoder(CacheAsk | None)

_CAP_RULE = f"must be an integer from 1 to {MAX_CAP}"
_RULES = {
    "model": f"must be a string of 1 to {MAX_MODEL_LENGTH} printable characters",
    "messages": f"must be a list of 1 to {MAX_MESSAGES:,} objects, each with a 'role'",
    "stream": "must be true or false",
    "stream_options": "must be an object like {'include_usage': true}",
    "max_tokens": _CAP_RULE,
    "max_completion_tokens": _CAP_RULE,
    "n": f"must be an integer from 1 to {MAX_CHOICES}",
    "best_of": f"must be an integer from 1 to {MAX_CHOICES}",
    "temperature": "must be a finite number",
    "top_p": "must be a finite number",
    "prompt": "must be a string, a list of strings, a list of tokens or a list of token lists",
    "input": (
        f"must be a string, a list of 1 to {MAX_INPUTS} strings, a list of tokens or a list of token lists, "
        "not empty and not mixed"
    ),
    "encoding_format": "must be 'float' or 'base64'",
    "dimensions": _CAP_RULE,
}
_CACHE_RULE = (
    "must be an object of 'no-cache', 'no-store' and 'use-cache' (true or false), 'ttl' and 's-maxage' (seconds, up to "
    f"{MAX_TTL_SECONDS:,}) and 'namespace' (1 to {MAX_NAMESPACE_CHARS} characters)"
)
_SCALARS = frozenset(_RULES) - {"messages", "stream_options", "prompt", "input"}
_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_SHOWN_BYTES = 40


def decode_chat(data: bytes) -> ModelRequest:
    """Decode the body of ``/v1/chat/completions``. Raises :class:`InvalidRequest`."""
    body = _decode_body(data)
    call = _decode_fields(_CHAT, data, body)
    caps = [cap for cap in (call.max_tokens, call.max_completion_tokens) if cap is not None]
    return _generation(Operation.CHAT, body, call, max(caps, default=None), call.n or 1)


def decode_completion(data: bytes) -> ModelRequest:
    """Decode the body of ``/v1/completions``. Raises :class:`InvalidRequest`."""
    body = _decode_body(data)
    call = _decode_fields(_COMPLETION, data, body)
    if call.prompt == [] or not _is_uniform(call.prompt):
        raise _refusal("prompt", body)
    return _generation(Operation.COMPLETION, body, call, call.max_tokens, max(call.n or 1, call.best_of or 1))


def decode_embedding(data: bytes) -> ModelRequest:
    """Decode the body of ``/v1/embeddings``. Raises :class:`InvalidRequest`."""
    body = _decode_body(data)
    call = _decode_fields(_EMBEDDING, data, body)
    if not call.input or not _is_uniform(call.input):
        raise _refusal("input", body)
    if isinstance(call.input, list) and not isinstance(call.input[0], int) and not _is_batch(call.input):
        raise _refusal("input", body)
    return ModelRequest(Operation.EMBEDDING, call.model, body, cache=_cache_ask(body))


def _generation(
    operation: Operation, body: dict[str, Raw], call: _Generation, max_tokens: int | None, n: int
) -> ModelRequest:
    stream = call.stream is True
    options = call.stream_options
    include_usage = stream and options is not None and options.include_usage is True
    return ModelRequest(operation, call.model, body, stream, include_usage, max_tokens, n, _cache_ask(body))


def _cache_ask(body: dict[str, Raw]) -> CacheAsk | None:
    """Take out of ``body`` what is asked of the cache."""
    given = body.pop("cache", None)
    if given is None:
        return None
    try:
        asked: CacheAsk | None = _CACHE.decode(given)
    except msgspec.ValidationError as error:
        at = _AT.search(str(error))
        path = f"cache.{at.group(1)}" if at and at.group(1) else "cache"
        raise InvalidRequest(f"'cache' {_CACHE_RULE}.", param=path, code="invalid_value") from error
    return asked


def _decode_body(data: bytes) -> dict[str, Raw]:
    try:
        body = decode_object(data)
    except JSONObjectError as error:
        raise InvalidRequest(error.message, code=error.code) from error
    if not _SERVER_FIELDS.isdisjoint(body):
        raise _server_field(min(_SERVER_FIELDS & body.keys()))
    for name in body:
        if name.startswith(_SERVER_PREFIXES) and name not in _METADATA_FIELDS:
            raise _server_field(name)
    for name in _METADATA_FIELDS:
        if name in body:
            _check_metadata(name, body[name])
    return body


def _check_metadata(name: str, value: Raw) -> None:
    if not bytes(value).startswith(b"{"):
        return
    for key in _METADATA.decode(value):
        if key.startswith(_METADATA_PREFIX):
            raise _server_field(f"{name}.{key[:64]}")


def _server_field(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"The field {name!r} belongs to the gateway's configuration; remove it from the request.",
        param=name,
        code="unsupported_parameter",
    )


def _decode_fields(decoder: msgspec.json.Decoder[_T], data: bytes, body: dict[str, Raw]) -> _T:
    try:
        call = decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _explain(str(error), body) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from error
    if not call.model.isprintable() or not call.model.strip():
        raise _refusal("model", body)
    return call


def _explain(text: str, body: dict[str, Raw]) -> InvalidRequest:
    """Return the refusal for the decoder's text: it ends with a path, and says when a field is missing."""
    at = _AT.search(text)
    path = at.group(1) if at else ""
    missing = _MISSING.search(text)
    if missing:
        path = f"{path}.{missing.group(1)}" if path else missing.group(1)
    return _refusal(path, body)


def _refusal(path: str, body: dict[str, Raw]) -> InvalidRequest:
    field = re.split(r"[.\[]", path, maxsplit=1)[0]
    if field not in body:
        return InvalidRequest(f"{field!r} is missing: it {_RULES[field]}.", param=field, code="missing_parameter")
    given = ""
    if field in _SCALARS:
        raw = bytes(body[field])
        given = f", not {raw[:_SHOWN_BYTES].decode(errors='replace')}{'…' if len(raw) > _SHOWN_BYTES else ''}"
    return InvalidRequest(f"{field!r} {_RULES[field]}{given}.", param=path, code="invalid_value")


def _is_uniform(value: str | list[str | int | list[int]]) -> bool:
    """Return whether ``value`` is one text or a list of texts only, of tokens only or of token lists only."""
    return isinstance(value, str) or len(set(map(type, value))) == 1


def _is_batch(items: list[str | int | list[int]]) -> bool:
    return len(items) <= MAX_INPUTS and all(items)
