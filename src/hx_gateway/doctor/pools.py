"""Connections to PostgreSQL: what the gateway's pools may open, beside what the server allows."""

from __future__ import annotations

from hx_gateway.doctor.findings import Finding, Subject, ok, problem
from hx_gateway.settings import Settings

# Rooms that a PostgreSQL keeps for its superuser and for ours (migrations, `psql`).
RESERVED_CONNECTIONS = 5
# Beside the pools, a worker has a connection that watches, and for the record two that write events, one that writes
# the gateway's own, one that watches and one for upkeep.
WATCHING, WRITING = 1, 5
LISTENING = 2


def connections_of_worker(settings: Settings) -> int:
    """Return how many connections to PostgreSQL a worker opens, most."""
    entities = settings.pool_size + settings.pool_overflow
    return settings.pg_max_connections + WATCHING + settings.record_connections + WRITING + entities + LISTENING


def judge_pools(settings: Settings, allowed: int) -> Finding:
    """Compare what all pools of all workers may open with what the server allows."""
    each = connections_of_worker(settings)
    most = settings.workers * each
    detail = f"{settings.workers} x {each} = {most} of {allowed} connections"
    if most > allowed - RESERVED_CONNECTIONS:
        remedy = (
            "Lower POOL_OVERFLOW, PG_MAX_CONNECTIONS, HX_RECORD_CONNECTIONS or HX_WORKERS, or raise max_connections."
        )
        return problem(Subject.POOLS, detail, remedy)
    return ok(Subject.POOLS, detail)
