"""Rates and slots while Redis is away: each process counts its share of them by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from hx_gateway.limits.memory import MemoryCounterStore
from hx_gateway.limits.model import Ask, Settlement, Verdict


class LocalShares:
    """Counts at a limit divided by the processes that live; ``instances`` tells how many, at least one.

    No money: charges are left out. All together admit what the limits say, but for what is at least one each: a burst
    of fewer requests, or fewer slots, than there are processes. A share begins full: losing Redis gives one more burst.
    """

    def __init__(self, store: MemoryCounterStore, instances: Callable[[], int]) -> None:
        self._store = store
        self._instances = instances

    async def admit(self, ask: Ask) -> Verdict:
        """Take this process's share of what ``ask`` wants, or nothing."""
        self._divide()
        return await self._store.admit(_without_money(ask))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """End calls. One that was admitted elsewhere is no error."""
        self.end(settlements)

    def end(self, settlements: Sequence[Settlement]) -> None:
        """End calls, as :meth:`settle` does."""
        self._divide()
        self._store.end(settlements)

    async def renew(self, tenant_id: str, asks: Sequence[Ask]) -> None:
        """Give the leases of calls that were admitted here ``lease_seconds`` from now."""
        await self._store.renew(tenant_id, [_without_money(ask) for ask in asks])

    def _divide(self) -> None:
        self._store.share = max(1, self._instances())


def _without_money(ask: Ask) -> Ask:
    return msgspec.structs.replace(ask, charges=()) if ask.charges else ask
