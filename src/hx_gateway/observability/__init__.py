"""The record: traces, decisions, metrics and transformations, written and read.

A library of its own: it needs a PostgreSQL, an event loop and a folder for its journal, not the server.
"""

from hx_gateway.journal.errors import JournalRefused
from hx_gateway.journal.sync import Durability
from hx_gateway.kit.breaker import CircuitBreaker, CircuitState
from hx_gateway.observability.buffer import BatchWriteBuffer
from hx_gateway.observability.config import ConfigError, DatabaseConfig
from hx_gateway.observability.fields import InvalidEvent
from hx_gateway.observability.health import DatabaseHealthMetrics, DatabaseHealthStatus
from hx_gateway.observability.layer import DatabaseIntegrationLayer, get_database_layer
from hx_gateway.observability.trace_logger import TraceLogger, get_trace_logger

__all__ = [
    "BatchWriteBuffer",
    "CircuitBreaker",
    "CircuitState",
    "ConfigError",
    "DatabaseConfig",
    "DatabaseHealthMetrics",
    "DatabaseHealthStatus",
    "DatabaseIntegrationLayer",
    "Durability",
    "InvalidEvent",
    "JournalRefused",
    "TraceLogger",
    "get_database_layer",
    "get_trace_logger",
]
