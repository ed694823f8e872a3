"""Old calls and errors are taken away; what was summed of them stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg

from hx_gateway.limits.netting import moment
from hx_gateway.limits.retention import trim_error_logs, trim_spend_logs
from tests.integration.limits.ledger_samples import ADMITTED_US, WINDOW, apply, done, new_call, rows, windows

SECOND_US = 1_000_000


async def test_rows_from_before_the_cutoff_go_in_batches_of_every_tenant_and_the_sums_stay(
    connection: asyncpg.Connection[Any],
) -> None:
    for tenant in ("acme", "default"):
        calls = [new_call(tenant_id=tenant, admitted_us=ADMITTED_US + second * SECOND_US) for second in range(7)]
        await apply(connection, [done(facts, 10, status=500, ending="error") for facts in calls])
    cutoff = moment(ADMITTED_US) + timedelta(seconds=5)

    assert await trim_spend_logs(connection, cutoff, batch_rows=2) == 10
    assert await trim_error_logs(connection, cutoff, batch_rows=5) == 10
    assert await trim_spend_logs(connection, cutoff) == 0

    for table, time in (("spend_logs", "admitted_at"), ("error_logs", "at")):
        query = f"SELECT tenant_id, count(*), min({time}) FROM hx_gateway.{table} GROUP BY 1 ORDER BY 1"
        assert await rows(connection, query) == [("acme", 2, cutoff), ("default", 2, cutoff)]
    assert await windows(connection) == {WINDOW: (140, 0)}
    assert await rows(connection, "SELECT sum(requests)::int FROM hx_gateway.spend_daily") == [(14,)]
