"""What is called how in the database: schemas and the tables that are partitioned by time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GATEWAY_SCHEMA = "hx_gateway"
REGISTRY_SCHEMA = "hx_registry"
OBSERVABILITY_SCHEMA = "agent_observability"
VERSION_TABLE = "alembic_version"

Interval = Literal["day", "week"]


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A table of :data:`OBSERVABILITY_SCHEMA`, partitioned by its column ``timestamp`` in UTC days or weeks."""

    name: str
    interval: Interval

    @property
    def qualified(self) -> str:
        """The table's name with its schema, for SQL. Both are ours and need no quotes."""
        return f"{OBSERVABILITY_SCHEMA}.{self.name}"


TRACE_EVENTS = PartitionedTable("trace_events", "day")
ROUTING_DECISIONS = PartitionedTable("routing_decisions", "week")
PERFORMANCE_METRICS = PartitionedTable("performance_metrics", "week")
TRANSFORMATION_EVENTS = PartitionedTable("transformation_events", "week")
PARTITIONED_TABLES = (TRACE_EVENTS, ROUTING_DECISIONS, PERFORMANCE_METRICS, TRANSFORMATION_EVENTS)
