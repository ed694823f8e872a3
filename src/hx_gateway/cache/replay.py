"""A kept answer as the stream that its model's server would have sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from hx_gateway.cache.answers import CHAT

DONE = b"data: [DONE]\n\n"
# About what a few tokens are: whole words, and what stands between them.
_PIECE = re.compile(r"\S{1,24}\s{0,8}|\s{1,24}")
# A long answer comes in larger pieces, so that it is not made of more events than this.
MAX_PIECES = 256
_OBJECTS = {True: "chat.completion.chunk", False: "text_completion"}
_encode = msgspec.json.Encoder().encode


def as_stream(operation: str, body: bytes, *, include_usage: bool) -> bytes:
    """Return the events of the whole answer ``body``: role, text piece by piece, end, and the usage if asked for.

    Log-probabilities belong to tokens that nobody kept the bounds of: a text that has them comes in one piece.
    """
    answer: dict[str, Any] = msgspec.json.decode(body)
    is_chat = operation == CHAT
    usage = answer.pop("usage", None)
    choices = answer.pop("choices")
    head = {**answer, "object": _OBJECTS[is_chat]}
    tail = {"usage": None} if include_usage else {}
    make = _chat_choice if is_chat else _text_choice
    events = [_event({**head, "choices": [made], **tail}) for choice in choices for made in make(choice)]
    if include_usage and usage is not None:
        events.append(_event({**head, "choices": [], "usage": usage}))
    return b"".join([*events, DONE])


def _chat_choice(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message = dict(choice["message"])
    role = message.pop("role", "assistant")
    content = message.pop("content")
    # Whatever else was said comes before the text, as reasoning does.
    more = {name: value for name, value in message.items() if value is not None}
    index, log_probabilities = choice["index"], choice.get("logprobs")
    yield _part(index, {"delta": {"role": role, "content": "", **more}})
    if log_probabilities is not None:
        yield _part(index, {"delta": {"content": content}}, log_probabilities)
    else:
        for piece in pieces_of(content):
            yield _part(index, {"delta": {"content": piece}})
    yield {**_part(index, {"delta": {}}), "finish_reason": choice["finish_reason"]}


def _text_choice(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    index, log_probabilities = choice["index"], choice.get("logprobs")
    if log_probabilities is not None:
        yield _part(index, {"text": choice["text"]}, log_probabilities)
    else:
        for piece in pieces_of(choice["text"]):
            yield _part(index, {"text": piece})
    yield {**_part(index, {"text": ""}), "finish_reason": choice["finish_reason"]}


def _part(index: int, said: dict[str, Any], log_probabilities: Any = None) -> dict[str, Any]:
    return {"index": index, **said, "logprobs": log_probabilities, "finish_reason": None}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def pieces_of(text: str) -> list[str]:
    """Return ``text`` cut between words; joined, the pieces are the text."""
    pieces = _PIECE.findall(text)
    if len(pieces) <= MAX_PIECES:
        return pieces
    together = -(-len(pieces) // MAX_PIECES)
    return ["".join(pieces[start : start + together]) for start in range(0, len(pieces), together)]
