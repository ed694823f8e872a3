"""Changes that a test makes up, and a store of them that loses nothing and can be away."""

from __future__ import annotations

import asyncio
from typing import Any

from hx_gateway.kit.epochs import from_unix_us
from hx_gateway.registry.feed.changes import Change, ChangeType
from hx_gateway.services.base import DependencyError, FailureKind

TENANT = "tn-made-up"


def change(seq: int, **fields: Any) -> Change:
    """Return a change."""
    return Change(
        **{
            "seq": seq,
            "type": ChangeType.UPDATED,
            "at": from_unix_us(1_764_000_000_000_000 + seq),
            "service_id": "5b0e0f3e-6f6b-4a51-9e5c-0d9f2f6d9a11",
            "name": "weather",
            "actor_key": "key-ann",
            "actor_user": None,
            "request_id": "req_test",
            "before": {"version": "1"},
            "after": {"version": "2"},
            "tags": frozenset(),
            "is_required": False,
            **fields,
        }
    )


class Store:
    """What the database holds. ``others`` are numbers of changes that are no service's; ``reads`` counts questions."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.others = 0
        self.reads = 0
        self.away = False

    def add(self, *seqs: int) -> None:
        self.changes += [change(seq) for seq in seqs]

    async def after(self, tenant_id: str, seq: int, limit: int) -> list[Change]:
        await self._ask(tenant_id)
        return [one for one in self.changes if one.seq > seq][:limit]

    async def newest(self, tenant_id: str) -> int:
        await self._ask(tenant_id)
        return max([0, self.others, *(one.seq for one in self.changes)])

    async def _ask(self, tenant_id: str) -> None:
        assert tenant_id == TENANT
        self.reads += 1
        if self.away:
            raise DependencyError("PostgreSQL", FailureKind.REFUSED)
        await asyncio.sleep(0)
