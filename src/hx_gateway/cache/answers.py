"""What is kept of an answer, and which answers are kept at all."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# Beside the texts of an answer that is kept in this process.
OVERHEAD_BYTES = 512
CHAT, COMPLETION, EMBEDDING = "chat", "completion", "embedding"


class StoredAnswer(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=1):
    """An answer in its unary form. The fields' order and the tag are its form in a store: another one is not read.

    ``partition`` and ``digest`` say again what it was kept under, ``key_id`` whose call brought it; ``kept_at`` is in
    seconds since 1970.
    """

    partition: str
    digest: bytes
    model: str
    key_id: str
    kept_at: float
    body: bytes
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.body) + len(self.partition) + len(self.model) + OVERHEAD_BYTES


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredAnswer).decode


def encode_answer(answer: StoredAnswer) -> bytes:
    """Return the form that a store keeps."""
    return _encode(answer)


def decode_answer(data: bytes) -> StoredAnswer | None:
    """Return what :func:`encode_answer` made, ``None`` for anything else."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class _Message(msgspec.Struct):
    content: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class _ChatChoice(msgspec.Struct):
    message: _Message
    index: int
    finish_reason: str


class _TextChoice(msgspec.Struct):
    text: str
    index: int
    finish_reason: str


class _Embedding(msgspec.Struct):
    embedding: msgspec.Raw
    index: int
    object: Literal["embedding"]


class _Chat(msgspec.Struct):
    choices: list[_ChatChoice]
    error: Any = None


class _Completion(msgspec.Struct):
    choices: list[_TextChoice]
    error: Any = None


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    error: Any = None


_chat = msgspec.json.Decoder(_Chat).decode
_completion = msgspec.json.Decoder(_Completion).decode
_embeddings = msgspec.json.Decoder(_Embeddings).decode


def is_complete(operation: str, body: bytes, *, capped: bool) -> bool:
    """Return whether ``body`` is an answer that may be given again: whole, to the question, and nothing to act upon.

    Kept are answers that ended by themselves, or at the cap that the client itself set (``capped``): that is the
    answer as asked. Not kept are errors, refusals, filtered and empty answers, and those that call tools: what a call
    does was decided for that moment.
    """
    try:
        match operation:
            case "chat":
                chat = _chat(body)
                return chat.error is None and _ended(chat.choices, capped) and all(map(_is_text, chat.choices))
            case "completion":
                text = _completion(body)
                return text.error is None and _ended(text.choices, capped) and all(one.text for one in text.choices)
            case _:
                vectors = _embeddings(body)
                return vectors.error is None and bool(vectors.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _ended(choices: list[_ChatChoice] | list[_TextChoice], capped: bool) -> bool:
    reasons = ("stop", "length") if capped else ("stop",)
    return bool(choices) and all(choice.finish_reason in reasons for choice in choices)


def _is_text(choice: _ChatChoice) -> bool:
    said = choice.message
    acts = said.refusal or said.tool_calls or said.function_call or said.audio
    return isinstance(said.content, str) and bool(said.content) and not acts
