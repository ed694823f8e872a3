"""Which answers are kept: whole ones that may be given again, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hx_gateway.cache.answers import StoredAnswer, decode_answer, encode_answer, is_complete
from tests.unit.cache.questions import answer, question


def chat(finish_reason: Any = "stop", index: int = 0, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": "hello", **message}
    return {"index": index, "message": said, "finish_reason": finish_reason}


def kept(choices: Any, *, capped: bool = False, **more: Any) -> bool:
    return is_complete("chat", json.dumps({"choices": choices, **more}).encode(), capped=capped)


def test_an_answer_that_ended_by_itself_is_kept() -> None:
    assert kept([chat()])
    assert kept([chat(), chat(index=1)], usage={"prompt_tokens": 1}, error=None)
    assert kept([chat(refusal=None, tool_calls=[], annotations=[])])


@pytest.mark.parametrize(
    "choice",
    [
        chat("length"),
        chat("content_filter"),
        chat("tool_calls"),
        chat("function_call"),
        chat(None),
        chat(refusal="I cannot."),
        chat(tool_calls=[{"id": "c", "type": "function", "function": {"name": "pay", "arguments": "{}"}}]),
        chat(function_call={"name": "pay", "arguments": "{}"}),
        chat(content=None),
        chat(content=""),
        chat(content=[{"type": "text", "text": "x"}]),
        chat(audio={"id": "a"}),
    ],
)
def test_an_answer_that_must_not_be_given_again_is_not_kept(choice: dict[str, Any]) -> None:
    assert not kept([choice])
    assert not kept([chat(), {**choice, "index": 1}])


def test_an_answer_cut_at_the_cap_that_its_client_set_is_the_answer_as_asked() -> None:
    assert kept([chat("length")], capped=True)
    assert not kept([chat("content_filter")], capped=True)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b"{}", b'{"choices": []}', b'{"choices": null}', b"\xff"])
def test_what_is_no_answer_is_not_kept(body: bytes) -> None:
    assert not any(is_complete(operation, body, capped=False) for operation in ("chat", "completion", "embedding"))


def test_an_error_with_a_good_status_is_not_kept() -> None:
    assert not kept([chat()], error={"message": "overloaded"})
    assert not is_complete("embedding", b'{"error": {"message": "x"}, "data": []}', capped=False)


def test_completions_and_embeddings_are_kept_when_whole() -> None:
    texts = [{"index": 0, "text": "hello", "finish_reason": "stop"}]
    assert is_complete("completion", json.dumps({"choices": texts}).encode(), capped=False)
    texts[0]["finish_reason"] = "length"
    assert not is_complete("completion", json.dumps({"choices": texts}).encode(), capped=False)
    vectors = [{"object": "embedding", "index": 0, "embedding": "AAAA"}]
    assert is_complete("embedding", json.dumps({"data": vectors}).encode(), capped=False)


def test_what_is_kept_comes_back_as_it_was() -> None:
    made = answer(question(), b'{"choices": []}')
    assert decode_answer(encode_answer(made)) == made


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\x02\xa1a\xa1b", encode_answer(answer(question()))[:-3]])
def test_bytes_of_another_form_are_no_answer(data: bytes) -> None:
    assert decode_answer(data) is None


def test_a_later_version_is_not_read() -> None:
    later = bytearray(encode_answer(answer(question())))
    assert later[1] == 1
    later[1] = 2
    assert decode_answer(bytes(later)) is None
    assert isinstance(decode_answer(encode_answer(answer(question()))), StoredAnswer)
