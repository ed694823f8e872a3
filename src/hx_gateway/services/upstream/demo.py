"""The demo models: a chat and an embedding model that live in the process, need no key and always say the same."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import re
import struct
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec

from hx_gateway.services.upstream.base import (
    CallFacts,
    Deployment,
    UpstreamCall,
    UpstreamDisconnected,
    UpstreamHead,
    UpstreamKind,
    UpstreamPhase,
    UpstreamRequest,
)

CHAT_MODEL = "hx-chat"
EMBEDDING_MODEL = "emb-premium"
DIMENSIONS = 384
BASE_URL = "demo://hx/v1"

DEMO_DEPLOYMENTS = tuple(
    Deployment(name=f"demo/{model}", kind=UpstreamKind.DEMO, model=model, base_url=BASE_URL)
    for model in (CHAT_MODEL, EMBEDDING_MODEL)
)

# Made up, so that budgets can be tried: pico-dollars a token, which are dollars for a million of them.
DEMO_PICO = {CHAT_MODEL: (1_000_000, 2_000_000), EMBEDDING_MODEL: (100_000, 0)}

_EXACTLY = re.compile(r"return exactly the text:\s*(.+)", re.IGNORECASE | re.DOTALL)
# A token of the demo models: a word with the white space before it, or a single other character.
_TOKEN = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")
_WORD = re.compile(r"\w+")
_NOT_FOUND = 404
_BAD_REQUEST = 400


class DemoUpstream:
    """Answers like a server that speaks OpenAI's API, without one."""

    def call(self, request: UpstreamRequest, *, fresh: bool = False) -> UpstreamCall:
        """Prepare a call; ``fresh`` means nothing here."""
        return DemoCall(request)

    async def close(self) -> None:
        """Nothing to close."""


class DemoCall:
    """One call; its facts are those of a server that answered on a new connection."""

    def __init__(self, request: UpstreamRequest) -> None:
        self.facts = CallFacts()
        self._request = request
        self._chunks: Iterable[bytes] = ()
        self._aborted = False

    async def head(self) -> UpstreamHead:
        """Work out the answer."""
        self._check()
        body = self._request.body
        data = body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])
        self.facts.bytes_written = max(1, len(data))
        status, content_type, self._chunks = _answer(self._request.url, data)
        self.facts.head_seen = True
        self.facts.bytes_received = 1
        return UpstreamHead(status, (("content-type", content_type),))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the answer, giving way to other tasks after each chunk."""
        for chunk in self._chunks:
            self._check()
            self.facts.bytes_received += len(chunk)
            yield chunk
            await asyncio.sleep(0)

    def abort(self) -> None:
        """End the call."""
        self._aborted = True

    def _check(self) -> None:
        if self._aborted:
            phase = UpstreamPhase.BODY if self.facts.head_seen else UpstreamPhase.CONNECT
            raise UpstreamDisconnected("the call was aborted", phase=phase, facts=self.facts)


Answer = tuple[int, str, Iterable[bytes]]


def _answer(url: str, data: bytes) -> Answer:
    body = msgspec.json.decode(data, type=dict[str, Any])
    if body.get("model") == EMBEDDING_MODEL and url.endswith("/embeddings"):
        return _embeddings(body)
    if body.get("model") == CHAT_MODEL and url.endswith("/chat/completions"):
        return _chat(body)
    if body.get("model") == CHAT_MODEL and url.endswith("/completions"):
        return _completion(body)
    operation = url.removeprefix(BASE_URL)
    return _error(_NOT_FOUND, f"The demo model {body.get('model')!r} does not serve {operation}.", "model")


def _error(status: int, message: str, param: str | None) -> Answer:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": "invalid_value"}
    return status, "application/json", (msgspec.json.encode({"error": error}),)


def _chat(body: dict[str, Any]) -> Answer:
    prompts = [_text_of(message.get("content")) for message in body["messages"]]
    asked = next(
        (
            text
            for text, message in zip(reversed(prompts), reversed(body["messages"]), strict=True)
            if message.get("role") == "user"
        ),
        prompts[-1],
    )
    words, finish = _cap(tokens(reply_to(asked)), body)
    usage = _usage(sum(len(tokens(prompt)) for prompt in prompts), len(words) * _count(body))
    head = _envelope(body, "chatcmpl")
    if body.get("stream"):
        return 200, "text/event-stream", _chat_events(head, body, words, finish, usage)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(words), "refusal": None},
            "logprobs": None,
            "finish_reason": finish,
        }
        for index in range(_count(body))
    ]
    return (
        200,
        "application/json",
        (_json({**head, "object": "chat.completion", "choices": choices, "usage": usage}),),
    )


def _chat_events(
    head: dict[str, Any], body: dict[str, Any], words: list[str], finish: str, usage: dict[str, int]
) -> Iterator[bytes]:
    chunk = {**head, "object": "chat.completion.chunk"}
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    extra = {"usage": None} if with_usage else {}

    def event(index: int, delta: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _event({**chunk, "choices": [choice], **extra})

    for index in range(_count(body)):
        yield event(index, {"role": "assistant", "content": ""}, None)
        for word in words:
            yield event(index, {"content": word}, None)
        yield event(index, {}, finish)
    if with_usage:
        yield _event({**chunk, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _completion(body: dict[str, Any]) -> Answer:
    prompt = body["prompt"]
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not all(isinstance(item, str) for item in prompts):
        return _error(_BAD_REQUEST, "The demo model reads text, not tokens.", "prompt")
    outputs = [_cap(tokens(reply_to(item)), body) for item in prompts for _ in range(_count(body))]
    usage = _usage(sum(len(tokens(item)) for item in prompts), sum(len(words) for words, _ in outputs))
    head = {**_envelope(body, "cmpl"), "object": "text_completion"}
    if body.get("stream"):
        return 200, "text/event-stream", _completion_events(head, body, outputs, usage)
    choices = [
        {"index": index, "text": "".join(words), "logprobs": None, "finish_reason": finish}
        for index, (words, finish) in enumerate(outputs)
    ]
    return 200, "application/json", (_json({**head, "choices": choices, "usage": usage}),)


def _completion_events(
    head: dict[str, Any], body: dict[str, Any], outputs: list[tuple[list[str], str]], usage: dict[str, int]
) -> Iterator[bytes]:
    def event(index: int, text: str, reason: str | None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        return _event({**head, "choices": [choice]})

    for index, (words, finish) in enumerate(outputs):
        for word in words:
            yield event(index, word, None)
        yield event(index, "", finish)
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def reply_to(prompt: str) -> str:
    """Return what the chat model says: the text it is told to return, else a sentence about the prompt."""
    exact = _EXACTLY.search(prompt)
    if exact:
        return exact[1].strip().strip("\"'")
    count = len(_WORD.findall(prompt))
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"This is the built-in demo model. It read {count} words (digest {digest}) and needs no upstream."


def tokens(text: str) -> list[str]:
    """Return ``text`` cut into the demo models' tokens; joined they are the text again."""
    return _TOKEN.findall(text)


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def _cap(words: list[str], body: dict[str, Any]) -> tuple[list[str], str]:
    caps = [body[field] for field in ("max_tokens", "max_completion_tokens") if isinstance(body.get(field), int)]
    cap = min(caps, default=len(words))
    return words[:cap], "length" if cap < len(words) else "stop"


def _count(body: dict[str, Any]) -> int:
    return body.get("n") or 1


def _envelope(body: dict[str, Any], prefix: str) -> dict[str, Any]:
    now = time.time_ns()
    return {
        "id": f"{prefix}-{now:x}",
        "created": now // 1_000_000_000,
        "model": body["model"],
        "system_fingerprint": "hx_demo",
    }


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _embeddings(body: dict[str, Any]) -> Answer:
    given = body["input"]
    single = isinstance(given, str) or isinstance(given[0], int)
    inputs = [given] if single else given
    dimensions = body.get("dimensions") or DIMENSIONS
    if dimensions > DIMENSIONS:
        return _error(_BAD_REQUEST, f"The demo model has {DIMENSIONS} dimensions at most.", "dimensions")
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(embed(item, dimensions) for item in inputs)
    ]
    count = sum(len(tokens(item)) if isinstance(item, str) else len(item) for item in inputs)
    usage = {"prompt_tokens": count, "total_tokens": count}
    answer = {"object": "list", "data": data, "model": body["model"], "usage": usage}
    return 200, "application/json", (_json(answer),)


def embed(item: str | list[int], dimensions: int = DIMENSIONS) -> list[float]:
    """Return a unit vector of ``dimensions`` numbers. Each word adds its hashed direction: similar texts are near."""
    words = _WORD.findall(item.lower()) or [item] if isinstance(item, str) else [str(token) for token in item]
    vector = [0.0] * DIMENSIONS
    for word in words:
        for feature in (word, word[:4]):
            digest = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            place, sign = int.from_bytes(digest[:4], "big") % DIMENSIONS, 1.0 if digest[4] & 1 else -1.0
            vector[place] += sign * (1.0 if feature is word else 0.5)
    shortened = vector[:dimensions]
    length = math.sqrt(sum(number * number for number in shortened))
    if length == 0.0:
        return [1.0] + [0.0] * (dimensions - 1)
    return [number / length for number in shortened]


def _base64(vector: list[float]) -> str:
    """Return little-endian 32-bit floats in base64: what OpenAI's clients ask for by default."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
