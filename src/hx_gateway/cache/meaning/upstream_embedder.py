"""Embeddings by a model that the gateway serves: any upstream, or the demo model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from hx_gateway import __version__
from hx_gateway.cache.meaning.embedding import EmbeddingFailed
from hx_gateway.errors import HXError
from hx_gateway.services.upstream.base import Deployment, Upstream, UpstreamError, UpstreamKind, UpstreamRequest
from hx_gateway.services.upstream.retry import open_call
from hx_gateway.translate.embeddings import embed_with_ollama
from hx_gateway.translate.errors import UnreadableAnswer, UpstreamStatusError
from hx_gateway.translate.openai import ModelRequest, Operation

MAX_ANSWER_BYTES = 1024 * 1024
EMBED_SECONDS = 10.0


class _Embedding(msgspec.Struct):
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Embedding]


_ANSWER = msgspec.json.Decoder(_Answer)


class UpstreamEmbedder:
    """Asks the first of the deployments that serve ``model``.

    With the gateway's own credential there: no user's key is charged, limited or told of, and no header of a client's
    goes along. ``resolve`` finds the deployments anew for each call and may raise ``HXError``.
    """

    def __init__(
        self,
        model: str,
        resolve: Callable[[str], Sequence[Deployment]],
        upstreams: Mapping[UpstreamKind, Upstream],
    ) -> None:
        self._model = model
        self._resolve = resolve
        self._upstreams = upstreams

    @property
    def name(self) -> str:
        """The model's name here, and what it is called where it is served, if that can be known."""
        try:
            served = self._resolve(self._model)[0]
        except HXError:
            return self._model
        return f"{self._model} ({served.kind.value} {served.model})"

    async def embed(self, text: str) -> Sequence[float]:
        """Return the vector of ``text``."""
        try:
            deployment = self._resolve(self._model)[0]
            deployment = replace(deployment, timeouts=replace(deployment.timeouts, total=EMBED_SECONDS))
            body = await self._answer(deployment, text)
            return _ANSWER.decode(body).data[0].embedding
        except (HXError, UpstreamError, UpstreamStatusError, UnreadableAnswer) as error:
            raise EmbeddingFailed(type(error).__name__) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError) as error:
            raise EmbeddingFailed("an answer that is no embedding") from error

    async def close(self) -> None:
        """Nothing to close: the clients are the gateway's."""

    async def _answer(self, deployment: Deployment, text: str) -> bytes:
        upstream = self._upstreams[deployment.kind]
        fields = {"model": deployment.model, "input": text, "encoding_format": "float"}
        if deployment.kind is UpstreamKind.OLLAMA:
            body = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
            request = ModelRequest(Operation.EMBEDDING, deployment.model, body)
            return (await embed_with_ollama(upstream, deployment, request)).body
        return await _read(upstream, _request(deployment, fields))


def _request(deployment: Deployment, fields: Mapping[str, str]) -> UpstreamRequest:
    headers = {
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"hx-gateway/{__version__}",
    }
    if deployment.api_key is not None:
        headers["authorization"] = f"Bearer {deployment.api_key}"
    return UpstreamRequest(
        method="POST",
        url=f"{deployment.base_url}/embeddings",
        headers={**headers, **deployment.headers},
        body=msgspec.json.encode(fields),
        timeouts=deployment.timeouts,
    )


async def _read(upstream: Upstream, request: UpstreamRequest) -> bytes:
    call, head = await open_call(upstream, request)
    data = bytearray()
    try:
        if head.status != 200:
            raise EmbeddingFailed(f"the model's server answered {head.status}")
        async for chunk in call.chunks():
            data += chunk
            if len(data) > MAX_ANSWER_BYTES:
                raise EmbeddingFailed("an answer that is too large")
    finally:
        call.abort()
    return bytes(data)
