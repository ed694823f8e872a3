"""What is compared by its meaning, and what must be the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.cache.meaning.questions import MAX_TEXT_BYTES, Wording, numbers_in, take_apart
from hx_gateway.kit.json_object import encode_object
from hx_gateway.translate.openai import ModelRequest, decode_chat, decode_completion, decode_embedding


def call(*messages: Any, **fields: Any) -> ModelRequest:
    return decode_chat(json.dumps({"model": "m", "messages": messages, **fields}).encode())


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def text_of(request: ModelRequest) -> str | None:
    parts = take_apart(request)
    return parts[0] if parts is not None else None


def frame_of(request: ModelRequest) -> bytes:
    parts = take_apart(request)
    assert parts is not None
    return encode_object(parts[1].body)


SYSTEM = {"role": "system", "content": "Be brief."}


def test_the_text_is_the_last_message_and_the_rest_is_the_frame() -> None:
    request = call(SYSTEM, user("Hello"), {"role": "assistant", "content": "Hi"}, user("And in summer?"), seed=1)
    parts = take_apart(request)
    assert parts is not None
    text, rest = parts
    assert text == "And in summer?"
    assert json.loads(encode_object(rest.body)) == {
        "model": "m",
        "messages": [SYSTEM, user("Hello"), {"role": "assistant", "content": "Hi"}, user(None)],
        "seed": 1,
    }
    assert (rest.model, rest.operation) == (request.model, request.operation)


def test_a_text_alone_in_a_list_is_the_same_text() -> None:
    as_part = call(user([{"type": "text", "text": "Hello"}]))
    assert text_of(as_part) == "Hello"
    assert frame_of(as_part) == frame_of(call(user("Hello")))


@pytest.mark.parametrize(
    "other",
    [
        call({**SYSTEM, "content": "Be long."}, user("Hello")),
        call(user("Hello")),
        call(SYSTEM, user("Before"), user("Hello")),
        call(SYSTEM, user("Hello", name="ann")),
        call(SYSTEM, user("Hello"), temperature=0.5),
        call(SYSTEM, user("Hello"), tools=[{"type": "function", "function": {"name": "f"}}]),
        call(SYSTEM, user("Hello"), response_format={"type": "json_object"}),
    ],
)
def test_whatever_else_differs_makes_another_frame(other: ModelRequest) -> None:
    assert text_of(other) == "Hello"
    assert frame_of(other) != frame_of(call(SYSTEM, user("Hello")))


def test_the_text_alone_makes_no_difference_to_the_frame() -> None:
    assert frame_of(call(SYSTEM, user("Hello"))) == frame_of(call(SYSTEM, user("Good morning")))


@pytest.mark.parametrize(
    "request_",
    [
        call(user("Hello"), n=2),
        call(user("Hello"), {"role": "assistant", "content": "Hi"}),
        call(SYSTEM),
        call(user("Use it"), {"role": "tool", "tool_call_id": "c", "content": "42"}),
        call(user("")),
        call(user(" \n\t")),
        call(user(None)),
        call({"role": "user"}),
        call(user([])),
        call(user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])),
        call(user([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])),
        call(user([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:x"}}])),
        call(user([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}])),
        call(user([{"type": "text", "text": 7}])),
        call(user([{"type": "input_text", "text": "a"}])),
        call(user(["a"])),
        call(user({"text": "a"})),
        call(user(7)),
        call(user("é" * (MAX_TEXT_BYTES // 2) + "x")),
        call(user("Hello", junk="x" * 10_000)),
        decode_completion(b'{"model": "m", "prompt": "Hello"}'),
        decode_embedding(b'{"model": "m", "input": "Hello"}'),
    ],
)
def test_other_requests_are_not_compared(request_: ModelRequest) -> None:
    assert take_apart(request_) is None


def test_a_text_as_long_as_may_be_is_compared() -> None:
    assert text_of(call(user("é" * (MAX_TEXT_BYTES // 2)))) is not None


@pytest.mark.parametrize(
    "message",
    [
        '{"role": "user", "content": "asked", "content": "shown"}',
        '{"role": "assistant", "content": "x", "role": "user"}',
        '{"role": "user", "content": [{"type": "text", "text": "asked", "text": "shown"}]}',
    ],
)
def test_a_message_that_can_be_read_in_two_ways_is_not_compared(message: str) -> None:
    assert take_apart(decode_chat(f'{{"model": "m", "messages": [{message}]}}'.encode())) is None


def wording(text: str, identity: bytes = b"i") -> Wording:
    return Wording(identity=identity, text=text, similarity=0.9)


def test_a_number_of_any_size_beside_the_text_is_left_as_it_is() -> None:
    message = '{"role": "user", "content": "Hello", "more": [123456789012345678901234567890, 1e-400]}'
    request = decode_chat(f'{{"model": "m", "messages": [{message}]}}'.encode())
    assert b"[123456789012345678901234567890, 1e-400]" in frame_of(request)


def test_numbers_are_part_of_what_must_be_the_same() -> None:
    frames = {
        wording(text).frame for text in ("5 km to miles", "6 km to miles", "56 km to miles", "5 6 km", "km", "五 km")
    }
    assert len(frames) == 6
    assert wording("How far is 5 km?").frame == wording("5 km: how far is that?").frame


def test_numbers_are_found_in_any_script() -> None:
    assert numbers_in("٣ of ½ x² in 1.50, -7 and 十二") == ["٣", "½", "²", "1", ".50", "-7", "十二"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 5 °C in Fahrenheit?", "What is -5 °C in Fahrenheit?"),
        ("Convert 1.5 km", "Convert 1 to 5 km"),
        ("How much is 1,500?", "How much is 1.500?"),
        ("7 +3", "7 -3"),
        ("more than >5", "more than <5"),
        ("at 10:30", "at 10 30"),
    ],
)
def test_signs_and_points_are_part_of_a_number(one: str, other: str) -> None:
    assert wording(one).frame != wording(other).frame


def test_what_ends_a_sentence_is_no_part_of_the_number_after_it() -> None:
    assert numbers_in("5.7, or 5. 7, or a.7") == ["5", ".7", "5", "7", "7"]


@given(st.binary(), st.binary(), st.text(), st.text())
def test_frames_are_the_same_only_for_the_same_identity_and_numbers(a: bytes, b: bytes, one: str, two: str) -> None:
    digests = [hashlib.sha256(identity).digest() for identity in (a, b)]
    same = a == b and numbers_in(one) == numbers_in(two)
    assert (wording(one, digests[0]).frame == wording(two, digests[1]).frame) is same
