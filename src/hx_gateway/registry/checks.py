"""Probes of many services that somebody asks for: they are due at once, and what came of them is told for a day."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

from hx_gateway.access.errors import no_such
from hx_gateway.access.resources import Actor
from hx_gateway.db.models.validation import identifier
from hx_gateway.registry.bulk import Selection, ids_of, refs_of
from hx_gateway.registry.errors import NotProbing
from hx_gateway.registry.probing.check_repository import KEPT, CheckRepository
from hx_gateway.registry.references import found
from hx_gateway.registry.repository import MAX_BULK
from hx_gateway.registry.transactions import Transaction, Transactions

CHECK = "check"


class Checks:
    """Named and confined as in :class:`~hx_gateway.registry.catalog.Catalog`; raises what that raises.

    Any gateway over the database may do the work, and tells of it. A gateway that does not probe itself (``probing``)
    takes none: :class:`NotProbing`.
    """

    def __init__(self, transactions: Transactions, *, probing: bool) -> None:
        self._transactions = transactions
        self._probing = probing

    def must_probe(self) -> None:
        """Raise :class:`NotProbing` in a gateway that does not probe."""
        if not self._probing:
            raise NotProbing

    async def ask_one(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Let one service be probed next; return the check. Raises ``NotFound``."""
        self.must_probe()
        async with self._transactions.open(actor, tenant_id, "checks.ask") as transaction:
            return await _asked(transaction, [(await found(transaction.items, ref)).id], [])

    async def ask(
        self, actor: Actor, selection: Selection, *, tenant_id: str | None = None, max_affected: int = MAX_BULK
    ) -> dict[str, Any]:
        """Let services be probed next, at most ``max_affected``; return the check: ``job``, ``due``, ``unknown``."""
        self.must_probe()
        async with self._transactions.open(actor, tenant_id, "checks.ask") as transaction:
            refs = await refs_of(transaction.items, selection, max_affected)
            ids = await ids_of(transaction.items, refs)
            await transaction.items.lock()
            return await _asked(transaction, list(dict.fromkeys(ids.values())), refs, ids)

    async def outcome(self, actor: Actor, check_id: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Return what came of a check so far. Raises ``NotFound`` also for one that is older than a day."""
        async with self._transactions.open(actor, tenant_id, "checks.outcome") as transaction:
            checks = CheckRepository(transaction.session, transaction.tenant_id)
            job = identifier(check_id)
            check = await checks.get(job, transaction.now) if isinstance(job, UUID) else None
            if check is None:
                raise no_such(CHECK, check_id, param="job")
            rows = await checks.found(check)
        return _told(check.id, len(check.item_ids), rows) | {
            "asked_at": check.asked_at.isoformat(),
            "expires_at": (check.asked_at + KEPT).isoformat(),
        }


async def _asked(
    transaction: Transaction, item_ids: list[UUID], refs: list[str], ids: dict[str, UUID] | None = None
) -> dict[str, Any]:
    checks, now = CheckRepository(transaction.session, transaction.tenant_id), transaction.now
    due = await checks.make_due(item_ids, now)
    check_id, living = uuid4(), set(due)
    await checks.keep(check_id, due, now)
    unknown = [ref for ref in refs if (ids or {}).get(ref) not in living]
    return {"job": str(check_id), "due": len(due), "unknown": unknown}


def _told(check_id: UUID, due: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    probed = [row for row in rows if row["probed_at"] is not None]
    return {
        "job": str(check_id),
        "due": due,
        "probed": len(probed),
        "pending": len(rows) - len(probed),
        "gone": due - len(rows),
        "by_status": dict(Counter(str(row["status"]) for row in probed)),
        "items": [
            {
                "service_id": str(row["id"]),
                "probed_at": None if row["probed_at"] is None else row["probed_at"].isoformat(),
                **{
                    name: row[name]
                    for name in ("name", "status", "observed", "failure_class", "last_error", "response_time_ms")
                },
            }
            for row in rows
        ],
    }
