"""How often services are probed where they do not say so themselves, and how soon for the first time."""

from __future__ import annotations

from datetime import timedelta
from random import random

from hx_gateway.db.models.health_config import health_config
from hx_gateway.db.models.registry_items import RegistryItem, ServicePriority, ServiceProtocol

INTERVAL_SECONDS = {
    ServicePriority.CRITICAL: 15.0,
    ServicePriority.HIGH: 30.0,
    ServicePriority.MEDIUM: 60.0,
    ServicePriority.LOW: 120.0,
}
# To start a server only to ask it costs more than to ask one that runs.
STDIO_INTERVAL_SECONDS = 300.0


def usual_interval(priority: ServicePriority, protocol: ServiceProtocol) -> float:
    """Return the seconds between two probes of a service that says nothing of it."""
    interval = INTERVAL_SECONDS[priority]
    return max(interval, STDIO_INTERVAL_SECONDS) if protocol is ServiceProtocol.STDIO else interval


def first_wait(item: RegistryItem) -> timedelta:
    """Return how long a new service waits for its first probe: some part of its interval.

    Many that are registered together are not all asked in the same moment then, neither now nor ever after.
    """
    interval = health_config(item.config).interval or usual_interval(item.priority, item.protocol)
    return timedelta(seconds=interval * random())  # noqa: S311 - spreads, hides nothing
