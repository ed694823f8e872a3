"""A streamed answer put together again, into the form it would have had unstreamed."""

from __future__ import annotations

from typing import Any

import msgspec

from hx_gateway.cache.answers import CHAT
from hx_gateway.kit.sse import event_data, event_ends

DONE = b"[DONE]"
# Padding that OpenAI adds to chunks against whoever watches the sizes of packets.
_PADDING = "obfuscation"
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class _Unclear(Exception):
    """A stream that nobody can say the whole of."""


class StreamAssembly:
    """Takes the bytes of a stream as they pass; :meth:`whole` is what they come to.

    It gives up on what it could only guess: parts that are no texts, such as calls of tools, events that are no JSON,
    an error, an end without ``[DONE]``, and an answer over ``max_bytes``.
    """

    def __init__(self, operation: str, max_bytes: int) -> None:
        self._is_chat = operation == CHAT
        self._room = max_bytes
        self._begun = b""
        self._head: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None
        self._done = False
        self._given_up = False

    def feed(self, chunk: bytes) -> None:
        """Take what came next."""
        if self._given_up or self._done:
            return
        data = self._begun + chunk if self._begun else chunk
        start = 0
        try:
            for end in event_ends(data):
                self._read(event_data(data[start:end]))
                start = end
            self._begun = data[start:]
            if len(self._begun) > self._room:
                raise _Unclear
        except (_Unclear, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._given_up = True
            self._begun = b""
            self._choices.clear()

    def whole(self) -> bytes | None:
        """Return the unary answer, ``None`` where there is none."""
        if self._given_up or not self._done or not self._choices:
            return None
        choices = [self._choices[index].whole(index, is_chat=self._is_chat) for index in sorted(self._choices)]
        kind = "chat.completion" if self._is_chat else "text_completion"
        answer = {**self._head, "object": kind, "choices": choices}
        if self._usage is not None:
            answer["usage"] = self._usage
        return _encode(answer)

    def _read(self, data: bytes | None) -> None:
        if data is None or self._done:
            return
        if data == DONE:
            self._done = True
            return
        event = _decode(data)
        if event.get("error") is not None:
            raise _Unclear
        choices, usage = event.pop("choices", None), event.pop("usage", None)
        event.pop(_PADDING, None)
        if usage is not None:
            self._usage = usage
        self._head.update({name: value for name, value in event.items() if name not in self._head or value is not None})
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict) or not isinstance(choice.get("index"), int):
                raise _Unclear
            part = self._choices.setdefault(choice["index"], _Choice())
            self._room -= part.add(choice, is_chat=self._is_chat)
        if self._room < 0:
            raise _Unclear


class _Choice:
    """One of the answers of a stream."""

    __slots__ = ("_finish_reason", "_log_probabilities", "_role", "_texts")

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._role = "assistant"
        self._log_probabilities: dict[str, Any] | None = None
        self._finish_reason: Any = None

    def add(self, choice: dict[str, Any], *, is_chat: bool) -> int:
        """Add a part; return how many characters it has."""
        said = choice.get("delta") if is_chat else {"text": choice.get("text")}
        if not isinstance(said, dict):
            raise _Unclear
        size = 0
        for name, value in said.items():
            if value is None or value == []:
                continue
            if not isinstance(value, str):
                raise _Unclear
            if name == "role":
                self._role = value
                continue
            self._texts.setdefault(name, []).append(value)
            size += len(value)
        size += self._add_log_probabilities(choice.get("logprobs"))
        if choice.get("finish_reason") is not None:
            self._finish_reason = choice["finish_reason"]
        return size

    def whole(self, index: int, *, is_chat: bool) -> dict[str, Any]:
        """Return the choice as one object."""
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        if is_chat:
            said: dict[str, Any] = {"message": {"role": self._role, "content": texts.pop("content", None), **texts}}
        else:
            said = {"text": texts.get("text", "")}
        return {"index": index, **said, "logprobs": self._log_probabilities, "finish_reason": self._finish_reason}

    def _add_log_probabilities(self, given: Any) -> int:
        """Join lists of the same name: those of chats are of tokens, those of completions run beside each other."""
        if given is None:
            return 0
        if not isinstance(given, dict) or not all(isinstance(value, list | None) for value in given.values()):
            raise _Unclear
        if self._log_probabilities is None:
            self._log_probabilities = {}
        for name, value in given.items():
            known = self._log_probabilities.get(name)
            if known is None:
                self._log_probabilities[name] = value
            elif value is not None:
                known += value
        return len(_encode(given))
