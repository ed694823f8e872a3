"""OpenAI's embeddings for servers that speak Ollama's: ``/api/embed``, or ``/api/embeddings`` one text a call."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from hx_gateway.errors import InvalidRequest
from hx_gateway.events import TokenUsage
from hx_gateway.kit.token_estimate import BYTES_PER_TOKEN
from hx_gateway.services.upstream.base import (
    Deployment,
    Upstream,
    UpstreamError,
    UpstreamHead,
    UpstreamRequest,
)
from hx_gateway.services.upstream.retry import open_call
from hx_gateway.translate.errors import UnreadableAnswer, UpstreamStatusError
from hx_gateway.translate.openai import ModelRequest

CONCURRENCY = 8
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_NOT_FOUND = 404

Headers = Mapping[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EmbeddingAnswer:
    """One OpenAI response. The usage is estimated where the server does not count."""

    body: bytes
    usage: TokenUsage


class _Batch(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: int | None = None


class _Single(msgspec.Struct):
    embedding: list[float]


async def embed_with_ollama(
    upstream: Upstream, deployment: Deployment, request: ModelRequest, headers: Headers | None = None
) -> EmbeddingAnswer:
    """Return the embeddings of ``request`` in the order of its input.

    Raises ``InvalidRequest`` for tokens (Ollama reads text only) and for ``dimensions`` where the server has only the
    older call; ``UpstreamStatusError`` for a refusal, ``UnreadableAnswer``, and what :func:`open_call` raises.
    """
    texts = _texts(request)
    headers = _default_headers(deployment) if headers is None else headers
    dimensions = _optional(request, "dimensions", int)
    body: dict[str, object] = {"model": deployment.model, "input": texts}
    if dimensions is not None:
        body["dimensions"] = dimensions
    count: int | None
    try:
        batch = _decoded(await _post(upstream, deployment, headers, "/api/embed", body), _Batch)
        vectors, count = batch.embeddings, batch.prompt_eval_count
    except UpstreamStatusError as refusal:
        # 404 also means that the model is missing; the older call then says so in turn.
        if refusal.head.status != _NOT_FOUND:
            raise
        if dimensions is not None:
            raise InvalidRequest("'dimensions' is not supported by this model's server.", param="dimensions") from None
        vectors, count = await _one_by_one(upstream, deployment, headers, texts), None
    if len(vectors) != len(texts):
        raise UnreadableAnswer(f"{len(vectors)} embeddings for {len(texts)} texts")
    estimated = sum(len(text.encode()) for text in texts) // BYTES_PER_TOKEN + 1
    usage = TokenUsage(
        prompt_tokens=count if count is not None else estimated, completion_tokens=0, estimated=count is None
    )
    return EmbeddingAnswer(_response(request, vectors, usage), usage)


def _default_headers(deployment: Deployment) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    if deployment.api_key is not None:
        headers["authorization"] = f"Bearer {deployment.api_key}"
    return {**headers, **deployment.headers}


def _texts(request: ModelRequest) -> list[str]:
    value = msgspec.json.decode(request.body["input"])
    texts = [value] if isinstance(value, str) else value
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("'input' holds tokens; this model's server reads text only.", param="input")
    return texts


async def _one_by_one(
    upstream: Upstream, deployment: Deployment, headers: Headers, texts: list[str]
) -> list[list[float]]:
    """Embed each text in a call of its own, a few at a time; the first failure cancels the others."""
    slots = asyncio.Semaphore(CONCURRENCY)

    async def one(text: str) -> list[float]:
        async with slots:
            body = {"model": deployment.model, "prompt": text}
            return _decoded(await _post(upstream, deployment, headers, "/api/embeddings", body), _Single).embedding

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(text)) for text in texts]
    except* (UpstreamStatusError, UnreadableAnswer, UpstreamError) as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure


async def _post(
    upstream: Upstream, deployment: Deployment, headers: Headers, path: str, body: Mapping[str, object]
) -> bytes:
    request = UpstreamRequest(
        method="POST",
        url=deployment.base_url + path,
        headers=headers,
        body=msgspec.json.encode(body),
        timeouts=deployment.timeouts,
    )
    call, head = await open_call(upstream, request)
    parts: list[bytes] = []
    size = 0
    try:
        async for chunk in call.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise UnreadableAnswer("the answer is too large")
    finally:
        call.abort()
    return _checked(head, b"".join(parts))


def _checked(head: UpstreamHead, body: bytes) -> bytes:
    if not 200 <= head.status < 300:
        raise UpstreamStatusError(head, body)
    return body


def _decoded(data: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableAnswer(str(error)) from None


def _response(request: ModelRequest, vectors: list[list[float]], usage: TokenUsage) -> bytes:
    as_base64 = _optional(request, "encoding_format", str) == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    counted = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": request.model, "usage": counted})


def _base64(vector: list[float]) -> str:
    """Return little-endian 32-bit floats in base64, as OpenAI's clients read them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def _optional(request: ModelRequest, field: str, shape: type[T]) -> T | None:
    raw = request.body.get(field)
    return msgspec.json.decode(raw, type=shape | None) if raw is not None else None
