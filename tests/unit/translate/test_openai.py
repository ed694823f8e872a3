"""What clients send is checked once, each refusal names its field, and unknown fields stay as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hx_gateway.errors import InvalidRequest
from hx_gateway.translate.openai import (
    MAX_INPUTS,
    ModelRequest,
    Operation,
    decode_chat,
    decode_completion,
    decode_embedding,
)

MESSAGES = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> ModelRequest:
    return decode_chat(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def completion(**fields: Any) -> ModelRequest:
    return decode_completion(json.dumps({"model": "m", "prompt": "p", **fields}).encode())


def embedding(**fields: Any) -> ModelRequest:
    return decode_embedding(json.dumps({"model": "m", "input": "text", **fields}).encode())


def refused(decode: Callable[..., ModelRequest], **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    return caught.value


def test_a_plain_chat_has_no_stream_no_cap_and_one_choice() -> None:
    request = chat()
    assert (request.operation, request.model) == (Operation.CHAT, "m")
    assert (request.stream, request.include_usage, request.max_tokens, request.n) == (False, False, None, 1)


def test_unknown_fields_stay_verbatim() -> None:
    data = b'{"model":"m","messages":[{"role":"user","x": 1.50}],"thinking":{"budget":  10}}'
    assert bytes(decode_chat(data).body["thinking"]) == b'{"budget":  10}'


def test_null_means_that_a_field_is_not_set() -> None:
    request = chat(n=None, max_tokens=None, stream=None, stream_options=None, temperature=None)
    assert (request.stream, request.max_tokens, request.n) == (False, None, 1)


def test_the_larger_of_two_caps_counts() -> None:
    assert chat(max_tokens=5, max_completion_tokens=9).max_tokens == 9


def test_usage_is_asked_for_in_streams_only() -> None:
    options = {"include_usage": True}
    assert chat(stream=True, stream_options=options).include_usage
    assert not chat(stream=False, stream_options=options).include_usage


def test_best_of_counts_as_answers_that_are_made() -> None:
    assert completion(n=2, best_of=5).n == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"model": 1}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": "a\u2028b"}, "model"),
        ({"model": " "}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user"}, {"content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": 1}]}, "messages[0].role"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": []}, "top_p"),
    ],
)
def test_a_chat_that_no_upstream_should_see_is_refused_by_field(fields: dict[str, Any], param: str) -> None:
    error = refused(chat, **fields)
    assert (error.status, error.param, error.code) == (400, param, "invalid_value")


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {"model": "m", "messages": MESSAGES}
    del body[field]
    with pytest.raises(InvalidRequest) as caught:
        decode_chat(json.dumps(body).encode())
    assert (caught.value.param, caught.value.code) == (field, "missing_parameter")


def test_what_is_wrong_with_the_json_itself_keeps_its_code() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_chat(b'{"model":"m","messages":[{"role":"user"}],"model":"n"}')
    assert caught.value.code == "duplicate_key"


@pytest.mark.parametrize(
    "field",
    [
        "api_base",
        "api_key",
        "base_url",
        "extra_headers",
        "custom_llm_provider",
        "user_api_key",
        "caching",
        "fallbacks",
        "aws_access_key_id",
        "vertex_project",
        "litellm_params",
        "mock_response",
        "no-log",
    ],
)
@pytest.mark.parametrize("decode", [chat, completion, embedding])
def test_a_field_of_the_server_s_own_is_refused_by_name(decode: Callable[..., ModelRequest], field: str) -> None:
    error = refused(decode, **{field: "http://169.254.169.254"})
    assert (error.param, error.code) == (field, "unsupported_parameter")


@pytest.mark.parametrize("field", ["metadata", "litellm_metadata"])
def test_metadata_cannot_name_a_key_of_the_gateway(field: str) -> None:
    error = refused(chat, **{field: {"user_api_key_team_id": "t"}})
    assert error.code == "unsupported_parameter"
    assert chat(metadata={"ticket": "t"}).body["metadata"]


@pytest.mark.parametrize("prompt", ["", "a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_a_prompt_is_text_or_tokens(prompt: object) -> None:
    assert completion(prompt=prompt).operation is Operation.COMPLETION


@pytest.mark.parametrize("prompt", [None, 1, {}, [], ["a", 1], [1, [1]], [[1], "a"], [True], [["a"]], [-1]])
def test_a_prompt_of_anything_else_is_refused(prompt: object) -> None:
    assert (refused(completion, prompt=prompt).param or "").startswith("prompt")


@pytest.mark.parametrize("value", ["a", ["a", "b"], [0, 1], [[0], [1, 2]], ["a"] * MAX_INPUTS, [7] * 8000])
def test_an_input_is_text_or_tokens(value: object) -> None:
    request = embedding(input=value, encoding_format="base64", dimensions=8)
    assert (request.operation, request.stream) == (Operation.EMBEDDING, False)


@pytest.mark.parametrize(
    "value",
    [None, "", [], [""], ["a", ""], ["a", 1], [1, "a"], [1, [1]], [[]], [[1], []], [1.5], {"a": 1}, [None]],
)
def test_an_input_of_anything_else_is_refused(value: object) -> None:
    error = refused(embedding, input=value)
    assert (error.param or "").startswith("input")


@pytest.mark.parametrize(("field", "value"), [("encoding_format", "hex"), ("dimensions", 0), ("dimensions", "8")])
def test_the_form_of_an_embedding_is_checked(field: str, value: object) -> None:
    assert refused(embedding, **{field: value}).param == field


def test_a_refusal_shows_what_was_sent_for_short_fields_only() -> None:
    assert "not 1000" in refused(chat, n=1000).message
    assert "secret" not in refused(chat, messages="a secret prompt").message
