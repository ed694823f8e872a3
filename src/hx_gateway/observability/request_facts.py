"""A finished model request as the journal keeps it, and how it is judged: its level, and whether it is recorded."""

from __future__ import annotations

from zlib import crc32

import msgspec

from hx_gateway.events import Ending, RequestFinished

_ALL = 1 << 32


class RequestFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is kept of a request: never a text of the client's or the model's, and not the client's address.

    The fields' order is the format on disk: new ones go to the end and have a default. Times in seconds.
    """

    request_id: str
    tenant_id: str | None
    key_id: str | None
    route: str
    method: str
    status: int
    ending: str
    duration: float
    error_code: str | None
    operation: str | None
    requested_model: str | None
    model: str | None
    upstream: str | None
    provider: str | None
    alternatives: tuple[str, ...]
    translation: str | None
    routing_seconds: float | None
    upstream_seconds: float | None
    first_byte_seconds: float | None
    attempts: int
    stream: bool
    bytes_sent: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_estimated: bool = False
    cache: str | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RequestFacts).decode


def encode_facts(event: RequestFinished) -> bytes:
    """Return the payload of a request's record."""
    usage = event.usage
    return _encode(
        RequestFacts(
            event.request_id,
            event.tenant_id,
            event.key_id,
            event.route,
            event.method,
            event.status,
            event.ending,
            event.duration,
            event.error_code,
            event.operation,
            event.requested_model,
            event.model,
            event.upstream,
            event.provider,
            event.alternatives,
            event.translation,
            event.routing_seconds,
            event.upstream_seconds,
            event.first_byte_seconds,
            event.attempts,
            event.stream,
            event.bytes_sent,
            usage.prompt_tokens if usage is not None else None,
            usage.completion_tokens if usage is not None else None,
            usage.estimated if usage is not None else False,
            event.cache,
        )
    )


def decode_facts(payload: bytes) -> RequestFacts | None:
    """Return what :func:`encode_facts` kept, ``None`` for bytes that it did not make."""
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def level_of(status: int, ending: str) -> str:
    """Return a request's level: ERROR where the gateway or the model's server failed, an answer that broke off too;
    WARN where the client was refused, went away or was cut off by a stop.
    """
    if status >= 500 or (ending == Ending.ERROR and status < 400):
        return "ERROR"
    return "INFO" if status < 400 and ending == Ending.COMPLETE else "WARN"


class Sample:
    """Chooses requests by their ids: all workers, and every look at the same request, choose alike."""

    def __init__(self, share: float) -> None:
        self._below = round(share * _ALL)

    def takes(self, request_id: str) -> bool:
        """Return whether the request is among the share."""
        return self._below >= _ALL or crc32(request_id.encode()) < self._below
