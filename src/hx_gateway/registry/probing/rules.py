"""How often a service is probed, for how long, and how many findings in a row change its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hx_gateway.db.models.health_config import HealthConfig
from hx_gateway.db.models.registry_items import ServicePriority, ServiceProtocol
from hx_gateway.registry.intervals import usual_interval

FAILURES = 3
SUCCESSES = 2
JITTER = 0.15
BACKOFF_FACTOR = 1.5
# Tools change seldom, and a server that has to be started for them is asked for them less often still.
TOOLS_SECONDS = 300.0
STDIO_TOOLS_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for one service. Times are seconds.

    ``reach_seconds`` is what a connection or a plain check may take, ``ready_seconds`` what a server of MCP may.
    ``slowest`` is the longest interval while it is unhealthy. ``tools_seconds`` is how often it is asked for its tools,
    0 for never.
    """

    interval: float
    slowest: float
    reach_seconds: float
    ready_seconds: float
    failures: int = FAILURES
    successes: int = SUCCESSES
    tools_seconds: float = TOOLS_SECONDS

    def unhealthy_interval(self, failures_beyond: int) -> float:
        """Return the interval after so many failures more than it took to call it unhealthy."""
        # Far beyond, the power alone would overflow.
        grown = self.interval * BACKOFF_FACTOR ** min(failures_beyond, 32)
        return max(self.interval, min(grown, self.slowest))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    slowest: float
    reach_seconds: float
    ready_seconds: float


_BY_PRIORITY = {
    ServicePriority.CRITICAL: _Times(slowest=60, reach_seconds=3, ready_seconds=5),
    ServicePriority.HIGH: _Times(slowest=120, reach_seconds=3, ready_seconds=5),
    ServicePriority.MEDIUM: _Times(slowest=300, reach_seconds=5, ready_seconds=10),
    ServicePriority.LOW: _Times(slowest=600, reach_seconds=5, ready_seconds=10),
}


def rules_for(
    priority: ServicePriority, protocol: ServiceProtocol, config: HealthConfig, *, by_beats: bool = False
) -> Rules:
    """Return the rules of a service: its own where it has any, else those of its priority.

    Of one that lives by its heartbeats one word is enough that it is not well: nobody asks again.
    """
    usual = _BY_PRIORITY[priority]
    tools_seconds = STDIO_TOOLS_SECONDS if protocol is ServiceProtocol.STDIO else TOOLS_SECONDS
    return Rules(
        interval=config.interval or usual_interval(priority, protocol),
        slowest=usual.slowest,
        reach_seconds=config.timeout or usual.reach_seconds,
        ready_seconds=config.timeout or usual.ready_seconds,
        failures=1 if by_beats else config.failures or FAILURES,
        successes=config.successes or SUCCESSES,
        tools_seconds=tools_seconds if config.tools_seconds is None else config.tools_seconds,
    )


def jittered(seconds: float, draw: Callable[[], float]) -> float:
    """Return ``seconds`` give or take 15 %; ``draw`` returns a number from 0 to below 1."""
    return seconds * (1 + JITTER * (2 * draw() - 1))
