"""How often a service is probed, for how long, and how many findings in a row change its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hx_gateway.db.models.health_config import HealthConfig
from hx_gateway.db.models.registry_items import ServicePriority, ServiceProtocol

FAILURES = 3
SUCCESSES = 2
JITTER = 0.15
BACKOFF_FACTOR = 1.5
# To start a server only to ask it costs more than to ask one that runs.
STDIO_INTERVAL_SECONDS = 300.0
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


_BY_PRIORITY = {
    ServicePriority.CRITICAL: Rules(interval=15, slowest=60, reach_seconds=3, ready_seconds=5),
    ServicePriority.HIGH: Rules(interval=30, slowest=120, reach_seconds=3, ready_seconds=5),
    ServicePriority.MEDIUM: Rules(interval=60, slowest=300, reach_seconds=5, ready_seconds=10),
    ServicePriority.LOW: Rules(interval=120, slowest=600, reach_seconds=5, ready_seconds=10),
}


def rules_for(priority: ServicePriority, protocol: ServiceProtocol, config: HealthConfig) -> Rules:
    """Return the rules of a service: its own where it has any, else those of its priority."""
    usual = _BY_PRIORITY[priority]
    starts = protocol is ServiceProtocol.STDIO
    interval = max(usual.interval, STDIO_INTERVAL_SECONDS) if starts else usual.interval
    tools_seconds = STDIO_TOOLS_SECONDS if starts else TOOLS_SECONDS
    return Rules(
        interval=config.interval or interval,
        slowest=usual.slowest,
        reach_seconds=config.timeout or usual.reach_seconds,
        ready_seconds=config.timeout or usual.ready_seconds,
        failures=config.failures or usual.failures,
        successes=config.successes or usual.successes,
        tools_seconds=tools_seconds if config.tools_seconds is None else config.tools_seconds,
    )


def jittered(seconds: float, draw: Callable[[], float]) -> float:
    """Return ``seconds`` give or take 15 %; ``draw`` returns a number from 0 to below 1."""
    return seconds * (1 + JITTER * (2 * draw() - 1))
