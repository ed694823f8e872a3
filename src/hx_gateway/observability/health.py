"""The health of the record, in one word and in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from hx_gateway.journal.space import Pressure
from hx_gateway.kit.breaker import CircuitState


class DatabaseHealthStatus(StrEnum):
    """``UNHEALTHY``: the circuit is open, events wait on disk. ``RECOVERING``: it is being tried again.

    ``DEGRADED``: everything works, but something will not for long: see ``reasons``.
    """

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    RECOVERING = "recovering"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseHealthMetrics:
    """Figures of one process. Times in milliseconds or seconds as named, averages over the last 1000.

    ``last_error`` is a SQLSTATE or the class of an error, never a driver's text. ``accepting`` says whether events are
    taken, ``durable`` whether they survive the end of the process, ``waiting`` how many are not in the database yet.
    """

    status: DatabaseHealthStatus
    reasons: tuple[str, ...]
    pool_size: int
    pool_free: int
    pool_utilization_pct: float
    total_queries: int
    failed_queries: int
    failure_rate_pct: float
    avg_query_time_ms: float
    circuit_state: CircuitState
    last_error: str | None
    last_error_time: datetime | None
    recovery_attempts: int
    uptime_seconds: float
    accepting: bool
    durable: bool
    waiting: int
    journal_bytes: int
    journal_pressure: Pressure

    def to_dict(self) -> dict[str, Any]:
        """Return the figures ready for JSON."""
        values = asdict(self)
        if self.last_error_time is not None:
            values["last_error_time"] = self.last_error_time.isoformat()
        return values
