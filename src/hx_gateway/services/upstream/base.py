"""The contract with a model's server: what is sent, what comes back, and the facts that accounting needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class UpstreamKind(StrEnum):
    """Which wire format a deployment speaks."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    DEMO = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Limits of one call in seconds.

    ``head`` runs from the request being written to the response's head; ``idle`` between two reads of the body;
    ``total`` over everything.
    """

    connect: float = 5.0
    head: float = 60.0
    idle: float = 60.0
    total: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """One HTTP request, complete. ``url`` is absolute; header names are lower-case; ``body`` is sent as it is."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterator[bytes] = b""
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(slots=True)
class CallFacts:
    """What is known of a call at any moment, in every phase and after every failure.

    ``bytes_written``: bytes of the request handed to the socket; 0 proves that the server saw nothing.
    ``connection_reused``: the connection had served an earlier call.
    ``bytes_received``: bytes of the response, the head's included; 0 proves that the server said nothing.
    ``head_seen``: the response's head is complete. ``unread``: what had come of the body, and nobody had read, when the
    call was cut off: the server may bill for it.
    """

    bytes_written: int = 0
    connection_reused: bool = False
    bytes_received: int = 0
    head_seen: bool = False
    unread: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamHead:
    """Status and headers of a response: names lower-case, order and repetition as they came."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """Return the first value of the lower-case ``name``."""
        return next((value for key, value in self.headers if key == name), None)


class UpstreamPhase(StrEnum):
    """Where a call failed."""

    CONNECT = "connect"
    SEND = "send"
    HEAD = "head"
    BODY = "body"


class UpstreamError(Exception):
    """A call failed below HTTP. ``facts`` are the call's; the text is for the log, never for a client."""

    def __init__(self, message: str, *, phase: UpstreamPhase, facts: CallFacts) -> None:
        super().__init__(message)
        self.phase = phase
        self.facts = facts


class UpstreamRefused(UpstreamError):
    """No connection: refused, unreachable, no such name."""


class UpstreamTlsError(UpstreamError):
    """The certificate is not valid for this server, or the handshake failed."""


class UpstreamTimeout(UpstreamError):
    """A limit of :class:`Timeouts` passed; ``phase`` says which."""


class UpstreamDisconnected(UpstreamError):
    """The connection ended before the response did."""


class UpstreamProtocolError(UpstreamError):
    """What came is not HTTP/1.1, or goes over a limit on sizes."""


class UpstreamCall(Protocol):
    """One call in flight. Used by one task; ``abort`` may come from anywhere."""

    @property
    def facts(self) -> CallFacts: ...

    async def head(self) -> UpstreamHead:
        """Send the request and wait for the response's head. Called once. Raises :class:`UpstreamError`."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive, undecoded. Ends after the last byte or raises."""
        ...

    def abort(self) -> None:
        """Close the connection now, in whatever phase; later calls raise or end. Harmless when all is over."""
        ...


class Upstream(Protocol):
    """Calls model servers. A task cancelled inside ``head`` or ``chunks`` aborts its call before it unwinds."""

    def call(self, request: UpstreamRequest, *, fresh: bool = False) -> UpstreamCall:
        """Prepare a call; nothing is sent before ``head``. ``fresh`` asks for a new connection."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One place that serves a model.

    ``base_url`` has no trailing slash and includes any ``/v1`` (OpenAI kind) or not (Ollama kind); ``model`` is the
    name sent there; ``api_key`` is its credential. ``usage_in_stream``: ``ask`` adds ``stream_options`` for a client
    that did not, ``never`` leaves the request alone. ``provider`` is whose prices hold, in LiteLLM's words, ``None``
    where the model's name alone tells.
    """

    name: str
    kind: UpstreamKind
    model: str
    base_url: str = ""
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeouts: Timeouts = field(default_factory=Timeouts)
    usage_in_stream: str = "ask"
    provider: str | None = None
