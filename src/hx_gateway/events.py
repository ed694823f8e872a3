"""What happened, as plain data: the planes meet here instead of importing each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Ending(StrEnum):
    """How a request ended; exactly one of these for each request."""

    COMPLETE = "complete"
    ERROR = "error"
    CLIENT_GONE = "client_gone"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one call. ``estimated`` is true where the upstream did not say."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """One request, seen from the gateway. Durations in seconds; ``None`` where a phase was not reached."""

    request_id: str
    route: str
    method: str
    status: int
    ending: Ending
    duration: float
    client: str
    key_id: str | None = None
    error_code: str | None = None
    model: str | None = None
    upstream: str | None = None
    upstream_seconds: float | None = None
    first_byte_seconds: float | None = None
    attempts: int = 0
    stream: bool = False
    bytes_sent: int = 0
    usage: TokenUsage | None = None


class EventSink(Protocol):
    """Takes events. ``emit`` returns at once and never raises: a record must not decide a request's fate."""

    def emit(self, event: RequestFinished) -> None: ...


class NullSink:
    """Forgets every event."""

    def emit(self, event: RequestFinished) -> None:
        """Drop ``event``."""
