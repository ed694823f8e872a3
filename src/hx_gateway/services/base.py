"""What every data service offers, and what the health sampler keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from hx_gateway.errors import Unavailable


class FailureKind(StrEnum):
    """Why a dependency failed: the only thing about it that leaves the process."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    LOST = "connection_lost"
    AUTH = "auth_failed"
    TLS = "tls_error"
    OVERLOADED = "out_of_connections"
    READ_ONLY = "read_only"
    FULL = "disk_full"
    PROTOCOL = "protocol_error"
    UNKNOWN = "unknown"


class DependencyError(Unavailable):
    """A driver's error, translated once. ``dependency`` is the display name (``PostgreSQL``, ``Redis``, ``Qdrant``)."""

    def __init__(self, dependency: str, kind: FailureKind, *, retryable: bool = True) -> None:
        super().__init__(f"Gateway dependency unavailable: {dependency}.")
        self.dependency = dependency
        self.kind = kind
        self.retryable = retryable


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSample:
    """The last thing known of a service. Readers take it as it is; nobody probes for them.

    ``checked_at`` is monotonic seconds; ``latency_seconds`` is that of the last probe that succeeded.
    """

    healthy: bool
    checked_at: float
    latency_seconds: float | None = None
    failure: FailureKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFigures:
    """Connections of a pool: open, idle, in use, and the most there may be."""

    size: int
    checked_in: int
    checked_out: int
    maximum: int


class DataService(Protocol):
    """PostgreSQL, Redis or Qdrant, or the twin that stands in for one that is not configured.

    ``key`` is ``postgres``, ``redis`` or ``qdrant``; ``display_name`` is for people; ``configured`` is false for a
    twin, which counts as healthy. ``connect`` never raises because the store is away: it starts whatever heals it.
    ``healthy`` probes, returns a bool, never raises and never takes longer than its time-out. ``sample`` is the last
    known state and costs nothing to read. ``report_failure`` lets real traffic say at once what it saw.
    ``on_change`` is called with the new sample whenever ``healthy`` flips.
    """

    @property
    def key(self) -> str: ...
    @property
    def display_name(self) -> str: ...
    @property
    def configured(self) -> bool: ...
    @property
    def sample(self) -> HealthSample: ...
    @property
    def pool(self) -> PoolFigures | None: ...

    async def connect(self) -> None: ...
    async def healthy(self) -> bool: ...
    async def close(self) -> None: ...
    def report_failure(self, kind: FailureKind) -> None: ...
    def on_change(self, callback: Callable[[HealthSample], None]) -> None: ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
