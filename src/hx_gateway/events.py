"""What happened, as plain data: the planes meet here instead of importing each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec


class Ending(StrEnum):
    """How a request ended; exactly one of these for each request."""

    COMPLETE = "complete"
    ERROR = "error"
    CLIENT_GONE = "client_gone"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one call. ``estimated`` is true where the upstream did not say; ``cached_tokens`` are of the prompt."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    cached_tokens: int = 0


class OperationFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One operation on the database that somebody asked for. ``ended_ns`` as in :class:`RequestFinished`.

    ``operation`` is one of a few names, as ``services.create``; ``error_code`` is why it was refused, or ``None``.
    """

    operation: str
    seconds: float
    ended_ns: int
    error_code: str | None
    tenant_id: str
    request_id: str
    traceparent: str | None = None


class RequestFinished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request, seen from the gateway. Durations in seconds; ``None`` where a phase was not reached.

    ``ended_ns`` is the wall time of its end, in nanoseconds since 1970. ``model_call``: its route is one that calls a
    model, whether or not it came so far. ``requested_model`` is the name the client used, ``model`` the one it stands
    for. ``upstream`` is the deployment that was called, ``alternatives`` are the other candidates, and
    ``routing_seconds`` is what choosing took. ``upstream_address`` is ``host:port``, never with a credential;
    ``translation`` names the change of wire format, where there was one. ``traceparent`` is the client's own
    (W3C Trace Context), unchecked. ``call_id`` is the ledger's, ``admitted`` whether limits let the call begin,
    ``cost_nano`` what it cost, where a price is known. ``refusal`` tells which limits were looked at when one refused.
    ``cache`` is ``hit``, ``miss`` or ``bypass``, ``None`` where the response cache is off.
    """

    request_id: str
    route: str
    method: str
    status: int
    ending: Ending
    duration: float
    client: str
    ended_ns: int = 0
    tenant_id: str | None = None
    key_id: str | None = None
    error_code: str | None = None
    model_call: bool = False
    operation: str | None = None
    requested_model: str | None = None
    model: str | None = None
    upstream: str | None = None
    provider: str | None = None
    upstream_address: str | None = None
    alternatives: tuple[str, ...] = ()
    translation: str | None = None
    routing_seconds: float | None = None
    upstream_seconds: float | None = None
    first_byte_seconds: float | None = None
    attempts: int = 0
    stream: bool = False
    bytes_sent: int = 0
    usage: TokenUsage | None = None
    traceparent: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    call_id: str | None = None
    admitted: bool = False
    cost_nano: int | None = None
    error_message: str | None = None
    refusal: Mapping[str, Any] | None = None
    cache: str | None = None


class EventSink(Protocol):
    """Takes events. ``emit`` returns at once and never raises: a record must not decide a request's fate."""

    def emit(self, event: RequestFinished) -> None: ...


class NullSink:
    """Forgets every event."""

    def emit(self, event: RequestFinished) -> None:
        """Drop ``event``."""
