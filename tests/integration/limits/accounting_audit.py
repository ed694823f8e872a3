"""What must be true of the ledger and the counters: at every moment, and once all calls came to their ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import asyncpg

from hx_gateway.limits.records import DONE, ESTIMATES, LAPSED
from hx_gateway.services.redis_pipe import RedisPipe
from tests.integration.limits.accounting_machine import ALLOWANCES, BUDGET_LIMITS, Books, Call, Worker
from tests.integration.limits.ledger_samples import assert_sums_agree, windows

TENANTS = sorted({allowance.tenant_id for allowance in ALLOWANCES})


class Audit:
    """Looks at both stores over connections of its own."""

    def __init__(self, connection: asyncpg.Connection[Any], pipe: RedisPipe, books: Books) -> None:
        self._connection = connection
        self.pipe = pipe
        self._books = books

    async def always(self, *, redis: bool) -> None:
        """Assert what holds at every moment; of the counters if they are there."""
        for key, spent in self._books.spent.items():
            assert spent <= BUDGET_LIMITS[key.partition(":")[0]], f"{spent} are spent in {key}"
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            await assert_sums_agree(self._connection)
            kept = await windows(self._connection)
            unproven = await self._unproven()
        for key, (posted, reserved) in kept.items():
            assert type(posted) is type(reserved) is int
            assert 0 <= posted <= BUDGET_LIMITS[key.partition(":")[0]] + unproven[key], f"{posted} are posted in {key}"
            assert reserved >= 0
        for tenant in TENANTS if redis else ():
            await self._counted(tenant)

    async def _unproven(self) -> Counter[str]:
        """Return what estimates may charge beyond what was reserved: more was asked for, or a lease ran out late."""
        more: Counter[str] = Counter()
        for row in await self._rows():
            call = self._books.calls.get(str(row["call_id"]))
            if row["settled_by"] in ESTIMATES:
                held = 0 if call is None or call.true is None else call.admission.reserved_nano
                more.update(dict.fromkeys(row["charges"], row["cost_nano"] - held))
        return more

    async def _counted(self, tenant: str) -> tuple[int, dict[str, tuple[int, int]], list[str]]:
        """Return a tenant's epoch in the counters, what is posted and reserved by window, and open calls."""
        reply: list[bytes] = await self.pipe.command("HGETALL", f"hx:{{{tenant}}}:money")
        money = {key.decode(): value.decode() for key, value in zip(reply[::2], reply[1::2], strict=True)}
        held: Counter[str] = Counter()
        for name, value in money.items():
            if name.startswith("i:"):
                amount, *names = value.split("|")
                held.update(dict.fromkeys(names, int(amount)))
        found = {
            name[2:]: (int(value), int(money[f"r:{name[2:]}"])) for name, value in money.items() if name[:2] == "p:"
        }
        for key, (posted, reserved) in found.items():
            assert posted >= 0
            assert reserved == held[key], f"{reserved} are reserved in {key}, by calls {held[key]}"
        return int(money.get("e", "0")), found, [name for name in money if name.startswith("i:")]

    # At rest

    async def unrest(self, workers: list[Worker]) -> list[str]:
        """Return what has not come to its end yet, or differs between the stores."""
        found = [f"a worker {what}" for worker in workers for what in _busy(worker)]
        ledger = await self._connection.fetchrow("SELECT epoch, authority FROM hx_gateway.ledger_epoch")
        members = await self._connection.fetchval("SELECT count(*) FROM hx_gateway.ledger_members")
        held = await self._connection.fetch(
            "SELECT call_id, state, charges FROM hx_gateway.ledger_reservations WHERE state <> 'void'"
        )
        kept = await windows(self._connection)
        found += [f"{dict(row)} is open on record" for row in held]
        found += [f"{reserved} are reserved in {key}" for key, (_, reserved) in kept.items() if reserved]
        if members != len(workers):
            found.append(f"{members} members, {len(workers)} workers")
        if ledger is None or ledger["authority"] != "redis":
            return [*found, f"the ledger is at {ledger}"]
        for tenant in TENANTS:
            found += await self._differences(tenant, ledger["epoch"], kept)
        return found

    async def _differences(self, tenant: str, epoch: int, kept: Mapping[str, tuple[int, int]]) -> list[str]:
        counted_in, counted, held = await self._counted(tenant)
        if counted_in != epoch:
            return [f"{tenant} is counted in epoch {counted_in} of {epoch}"]
        found = [f"{tenant} has {name} in the counters" for name in held]
        for key, (posted, reserved) in counted.items():
            true, _ = kept.get(key, (0, 0))
            if (posted, reserved) != (true, 0):
                found.append(f"{key}: {posted} posted and {reserved} reserved in the counters, {true} on record")
        return found

    async def at_rest(self) -> None:
        """Assert that each call is on record as it was."""
        await self.always(redis=True)
        rows = {str(row["call_id"]): row for row in await self._rows()}
        for call_id, call in self._books.calls.items():
            _check(call, rows.pop(call_id, None))
        # Whoever asked was gone before the answer came, and its worker too: only then may a stranger be charged.
        assert [dict(row) for row in rows.values() if row["settled_by"] != LAPSED] == []

    async def _rows(self) -> list[Any]:
        return list(
            await self._connection.fetch("SELECT call_id, cost_nano, settled_by, charges FROM hx_gateway.spend_logs")
        )


def _check(call: Call, row: Any) -> None:
    said = f"{call.admission.call_id}: {call.true} of {call.asked}, settled {call.settled}, lost {call.lost}: {row}"
    if row is None:
        assert call.true is None, said
        assert call.settled is None, said
        return
    charged, wanted = set(row["charges"]), set(call.admission.charge_keys)
    if call.settled is not None:
        assert (row["cost_nano"], row["settled_by"]) == (call.settled, DONE), said
        assert charged == wanted, said
        assert call.settled >= (call.true or 0), said
        return
    assert call.lost, said
    assert row["settled_by"] in ESTIMATES, said
    assert (call.true or 0) <= row["cost_nano"] <= call.asked, said
    # One that was never sent, and is charged because its lease ran out, may be charged in a part of its windows.
    assert charged == wanted or (call.true is None and charged < wanted), said


def _busy(worker: Worker) -> list[str]:
    meter = worker.meter
    states = {
        "has calls open": meter.open_calls,
        "has ends to tell": meter.settling,
        "has records to write": meter.journal.unwritten,
        "has records to apply": not worker.drain.idle,
        "may not admit": meter.authority.term is None,
        "is being called": len(worker.calling),
    }
    return [f"{what} ({value})" for what, value in states.items() if value]
