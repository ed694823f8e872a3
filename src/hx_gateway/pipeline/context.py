"""What the stages share about one request, and what they answer with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from hx_gateway.access.principal import Principal
from hx_gateway.errors import HXError
from hx_gateway.events import Ending, TokenUsage
from hx_gateway.services.upstream.base import Deployment
from hx_gateway.translate.openai import ModelRequest

if TYPE_CHECKING:
    from hx_gateway.limits.admission import Admission
    from hx_gateway.pipeline.caching import CacheUse
    from hx_gateway.pipeline.metering import Settling
    from hx_gateway.pipeline.repeated import Written
    from hx_gateway.pipeline.routes import RouteSpec

Headers = Sequence[tuple[bytes, bytes]]
Finisher = Callable[[Ending], Awaitable[None] | None]


class Body(Protocol):
    """The request's body. Either call may be made once."""

    async def read(self, limit: int) -> bytes:
        """Return the whole body. Raises ``BodyTooLarge`` beyond ``limit`` bytes, ``RequestTimeout`` when it stalls."""
        ...

    def stream(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""
        ...


@dataclass(slots=True)
class Reply:
    """An answer: ``body`` is bytes, or chunks that are closed (``aclose``) in every ending, begun or not.

    An iterator that cannot go on raises :class:`BrokenReply` after its last chunk.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | AsyncIterable[bytes] = b""


class StreamedBody:
    """A reply's chunks as they come. ``end`` is called when that is over, even if nobody has begun to read.

    A generator that was not begun is closed without a word to it: of a client that goes away just then, nobody would
    hang up on what it comes from, or know what it cost. ``end`` may be called several times.
    """

    def __init__(self, chunks: AsyncGenerator[bytes], end: Callable[[], object]) -> None:
        self._chunks = chunks
        self._end = end

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        """End it."""
        try:
            await self._chunks.aclose()
        finally:
            self._end()


class BrokenReply(Exception):
    """A reply that began and cannot end: the connection is closed without saying that it did."""

    def __init__(self, error: HXError) -> None:
        super().__init__(error.message)
        self.error = error


class CallState(StrEnum):
    """How far a call of a model came: what decides whether somebody may bill for it.

    ``NOT_SENT``: the model's server saw nothing. ``SENT``: it may have begun to work. ``REFUSED``: it said no.
    ``ANSWERED``: its answer began.
    """

    NOT_SENT = "not_sent"
    SENT = "sent"
    REFUSED = "refused"
    ANSWERED = "answered"


@dataclass(slots=True)
class Timings:
    """Monotonic moments and durations in seconds, ``None`` until reached."""

    started: float = field(default_factory=time.monotonic)
    first_byte: float | None = None
    upstream: float | None = None
    routing: float | None = None


@dataclass(slots=True, kw_only=True)
class Context:
    """One request on its way through the stages.

    Set by the edge: ``request_id``, ``method``, ``path`` (decoded), ``raw_path`` (as sent), ``query``, ``headers``
    (lower-case names), ``client`` (address, after trusted proxies), ``local`` (from this machine, not proxied),
    ``scope`` (the ASGI scope, for routes served by an ASGI application). Set by the stage named:
    ``route``, ``path_params`` (pipeline), ``principal`` (Security), ``decoded``, ``written`` (Validation),
    ``call`` (Transform), ``candidates``, ``cache`` (Routing), ``deployment``, ``attempts``, ``usage``, ``translation``,
    ``call_state``,
    ``output_estimate``, ``call_id``, ``admission``, ``settling``, ``cost_nano`` (Execution). ``translation`` names the
    change of wire format, where there was one; ``output_estimate`` is about how many tokens came, for answers without a
    usage; ``cost_nano`` is what the call cost, where its price is known. ``cache`` is what the response cache does for
    it, ``None`` where that is off. ``error`` is what was answered with,
    ``status`` what went out.
    """

    request_id: str
    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    client: str
    local: bool
    scope: Mapping[str, object]
    body: Body
    route: RouteSpec = field(init=False)
    path_params: Mapping[str, str] = field(default_factory=dict)
    principal: Principal | None = None
    decoded: ModelRequest | None = None
    written: Written | None = None
    call: ModelRequest | None = None
    candidates: tuple[Deployment, ...] = ()
    cache: CacheUse | None = None
    deployment: Deployment | None = None
    attempts: int = 0
    usage: TokenUsage | None = None
    translation: str | None = None
    call_state: CallState = CallState.NOT_SENT
    output_estimate: int = 0
    call_id: str | None = None
    admission: Admission | None = None
    settling: Settling | None = None
    cost_nano: int | None = None
    error: HXError | None = None
    status: int = 0
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    stopping: bool = False
    _finishers: list[Finisher] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of the lower-case ``name``."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def after(self, finisher: Finisher) -> None:
        """Call ``finisher`` once when the request is over, however it ends; the latest added goes first."""
        self._finishers.append(finisher)

    async def answered(self, status: int) -> None:
        """Say that a call's answer is whole, before its client has all of it; return once that is written down."""
        if self.settling is not None:
            await self.settling.whole(status)

    async def finish(self, ending: Ending) -> list[Exception]:
        """Run the finishers, each of them whatever the others do; return what they raised."""
        failures: list[Exception] = []
        while self._finishers:
            try:
                pending = self._finishers.pop()(ending)
                if pending is not None:
                    await asyncio.shield(pending)
            except Exception as error:  # noqa: BLE001 - one finisher's failure must not keep the next from settling
                failures.append(error)
        return failures
