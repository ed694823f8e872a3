"""Old rows of calls and errors taken away, in small batches; the sums that are kept of them stay."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hx_gateway.db.schemas import GATEWAY_SCHEMA

BATCH_ROWS = 5000


# By table, the time that a row is as old as.
_TIMES = {"spend_logs": "admitted_at", "error_logs": "at"}
# One look into the index for each tenant, not one for each row.
_TENANTS = """
WITH RECURSIVE tenants AS (
    (SELECT tenant_id FROM {table} ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT tenant_id FROM {table} WHERE tenant_id > tenants.tenant_id ORDER BY tenant_id LIMIT 1)
    FROM tenants WHERE tenants.tenant_id IS NOT NULL
)
SELECT tenant_id FROM tenants WHERE tenant_id IS NOT NULL
"""
_TRIM = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {table} WHERE tenant_id = $1 AND {time} < $2 ORDER BY {time} LIMIT $3
))
"""


async def trim_spend_logs(connection: Any, cutoff: datetime, *, batch_rows: int = BATCH_ROWS) -> int:
    """Delete calls that were admitted before ``cutoff``; return how many. Days and windows keep their sums.

    Each batch is a transaction of its own, one that fails leaves those before it done: not inside a transaction.
    """
    return await _trim(connection, "spend_logs", cutoff, batch_rows)


async def trim_error_logs(connection: Any, cutoff: datetime, *, batch_rows: int = BATCH_ROWS) -> int:
    """Delete errors from before ``cutoff``; return how many. As :func:`trim_spend_logs`."""
    return await _trim(connection, "error_logs", cutoff, batch_rows)


async def _trim(connection: Any, name: str, cutoff: datetime, batch_rows: int) -> int:
    table = f"{GATEWAY_SCHEMA}.{name}"
    statement = _TRIM.format(table=table, time=_TIMES[name])
    deleted = 0
    for row in await connection.fetch(_TENANTS.format(table=table)):
        gone = batch_rows
        while gone >= batch_rows:
            done = await connection.execute(statement, row["tenant_id"], cutoff, batch_rows)
            gone = int(done.rpartition(" ")[2])
            deleted += gone
    return deleted
