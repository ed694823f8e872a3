"""A kept answer as a stream, and a stream as an answer to keep: there and back nothing is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.cache.assembly import StreamAssembly
from hx_gateway.cache.replay import MAX_PIECES, as_stream, pieces_of
from hx_gateway.kit.sse import event_data, event_ends

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
HEAD = {"id": "chatcmpl-1", "created": 1_796_083_200, "model": "m", "system_fingerprint": "fp"}
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1)
LOG_PROBABILITIES = {"content": [{"token": "hi", "logprob": -0.1}], "refusal": None}


def chat(*texts: str, finish_reason: str = "stop", log_probabilities: Any = None, **message: Any) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, **message},
            "logprobs": log_probabilities,
            "finish_reason": finish_reason,
        }
        for index, text in enumerate(texts)
    ]
    return {**HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE}


def completion(*texts: str) -> dict[str, Any]:
    choices = [
        {"index": index, "text": text, "logprobs": None, "finish_reason": "stop"} for index, text in enumerate(texts)
    ]
    return {**HEAD, "object": "text_completion", "choices": choices, "usage": USAGE}


def streamed(operation: str, answer: dict[str, Any], *, include_usage: bool = True) -> bytes:
    return as_stream(operation, json.dumps(answer).encode(), include_usage=include_usage)


def events(stream: bytes) -> list[Any]:
    ends = event_ends(stream)
    data = [event_data(stream[start:end]) or b"" for start, end in zip([0, *ends], ends, strict=False)]
    assert data.pop() == b"[DONE]"
    return [json.loads(one) for one in data]


def together(operation: str, stream: bytes, cuts: int = 1, max_bytes: int = 10**6) -> Any:
    assembly = StreamAssembly(operation, max_bytes)
    for start in range(0, len(stream), cuts):
        assembly.feed(stream[start : start + cuts])
    whole = assembly.whole()
    return None if whole is None else json.loads(whole)


@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(1, 200))
def test_a_chat_comes_back_from_its_stream(texts: list[str], cuts: int) -> None:
    answer = chat(*texts, reasoning_content="because")
    assert together("chat", streamed("chat", answer), cuts) == answer


@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(1, 200))
def test_a_completion_comes_back_from_its_stream(texts: list[str], cuts: int) -> None:
    assert together("completion", streamed("completion", completion(*texts)), cuts) == completion(*texts)


def test_log_probabilities_stay_with_their_text() -> None:
    answer = chat("hi", log_probabilities=LOG_PROBABILITIES)
    assert together("chat", streamed("chat", answer)) == answer


def test_lists_of_log_probabilities_are_joined() -> None:
    parts = [{"tokens": ["a"], "top_logprobs": None}, None, {"tokens": ["b"], "top_logprobs": [{"b": 0}]}]
    stream = b"".join(
        b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "text": "x", "logprobs": part}]}).encode()
        for part in parts
    )
    found = together("completion", stream + b"data: [DONE]\n\n")
    assert found["choices"][0]["logprobs"] == {"tokens": ["a", "b"], "top_logprobs": [{"b": 0}]}


def test_a_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    found = events(streamed("chat", chat("one two three"), include_usage=False))
    deltas = [event["choices"][0]["delta"] for event in found]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == ["one ", "two ", "three"]
    assert (deltas[-1], found[-1]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert {event["object"] for event in found} == {"chat.completion.chunk"}
    assert not any("usage" in event for event in found)


def test_the_usage_comes_last_where_it_was_asked_for() -> None:
    *rest, last = events(streamed("chat", chat("one two")))
    assert all(event["usage"] is None for event in rest)
    assert (last["choices"], last["usage"]) == ([], USAGE)


@given(TEXTS)
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces_of(text)) == text


def test_a_long_text_comes_in_few_pieces() -> None:
    text = "word " * 50_000
    assert len(pieces_of(text)) <= MAX_PIECES
    assert "".join(pieces_of(text)) == text


GOOD = streamed("chat", chat("one two three"))
TOOL = b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]}}]}\n\n'


@pytest.mark.parametrize(
    "stream",
    [
        GOOD.removesuffix(b"data: [DONE]\n\n"),
        GOOD[: len(GOOD) // 2],
        b"data: [DONE]\n\n",
        TOOL + GOOD,
        b'data: {"error":{"message":"overloaded"}}\n\n' + GOOD,
        b"data: nonsense\n\n" + GOOD,
        b'data: {"choices":[{"delta":{}}]}\n\n' + GOOD,
        b'data: {"choices":[7]}\n\n' + GOOD,
        b'data: {"choices":[{"index":0,"delta":{"content":7}}]}\n\n' + GOOD,
        b'data: {"choices":[{"index":0,"delta":{},"logprobs":[1]}]}\n\n' + GOOD,
        b"data: \xff\n\n" + GOOD,
        b"",
    ],
)
def test_what_nobody_can_say_the_whole_of_is_given_up(stream: bytes) -> None:
    assert together("chat", GOOD) is not None
    assert together("chat", stream) is None


def test_a_stream_over_the_longest_answer_is_given_up() -> None:
    assert together("chat", streamed("chat", chat("x" * 500)), max_bytes=499) is None
    assert together("chat", b"data: " + b"x" * 600, 7, max_bytes=500) is None


def test_padding_and_comments_are_left_out_and_other_fields_stay() -> None:
    event = b'{"obfuscation":"aaaa","citations":["u"],"choices":[{"index":0,"delta":{"content":"x"}}]}'
    stream = b": waiting\n\ndata: %b\n\n" % event
    found = together("chat", stream + b"data: [DONE]\n\n")
    assert found["citations"] == ["u"]
    assert "obfuscation" not in found
