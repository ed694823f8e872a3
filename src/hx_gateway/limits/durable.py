"""The durable side of budgets as those who meter see it: whose word counts for money, and what was spent.

One authority admits money at a time. It changes by epochs: a number in the database that only grows. A worker that
sees a new one admits nothing under the old one any more, drains its journal up to that moment and acknowledges; only
when all have done so is all of the old epoch's money in the database, and the new authority may be told and asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from hx_gateway.limits.model import Ask, Verdict, WindowSeed

# Not heard of for so long, a member may be gone: one whose journal is here is looked after.
SILENT_SECONDS = 15.0
# For so long a member whose journal is elsewhere may hold up an epoch.
GIVE_UP_SECONDS = 60.0


class Authority(StrEnum):
    """Who says whether a budget has room: Redis, PostgreSQL, or the one process that there is."""

    REDIS = "redis"
    POSTGRES = "postgres"
    PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochState:
    """The current epoch. ``acknowledged``: by all members but those given up, so that money may be admitted in it.

    ``behind`` is how many have yet to acknowledge.
    """

    epoch: int
    authority: Authority
    acknowledged: bool
    behind: int = 0


class DurableLedger(Protocol):
    """Raises ``DependencyError`` when the database cannot answer: then it is not known whether it did what was asked.

    All may be repeated. Ids of calls are UUIDs in canonical form, here as in the records, and a
    :class:`~hx_gateway.limits.model.WindowSeed` has them so.
    """

    async def join(self, stream_id: UUID) -> EpochState:
        """Register this worker, whose journal's stream it is, as one that has acknowledged the current epoch.

        One that is known already acknowledges for itself: this may be an earlier attempt, which arrives late.
        Makes the first epoch, with the authority that is wanted, where there is none. What is admitted from now on
        belongs to the stream.
        """
        ...

    async def leave(self, stream_id: UUID) -> None:
        """Unregister, once all that the worker wrote into its journal is applied."""
        ...

    async def state(self) -> EpochState:
        """Return where things stand."""
        ...

    async def turn(self, seen: int, authority: Authority) -> EpochState:
        """Begin the epoch after ``seen`` under ``authority``; where somebody has, return what is there."""
        ...

    async def acknowledge(self, stream_id: UUID, epoch: int) -> EpochState:
        """Say that this worker admits nothing in earlier epochs, and that what it did is applied."""
        ...

    async def beat(self, stream_id: UUID) -> EpochState:
        """Say that this worker lives: more often than every :data:`SILENT_SECONDS`. Returns the state."""
        ...

    async def touch_tenant(self, tenant_id: str, epoch: int) -> bool:
        """Return whether nobody has used the tenant's money in this epoch before: then the store may begin with it.

        ``False`` too where ``epoch`` is over. A store that knows nothing of a tenant somebody used has lost it: turn.
        """
        ...

    async def windows(self, keys: Sequence[str]) -> Mapping[str, WindowSeed]:
        """Return what was spent in each window, in one moment: posted, and what is still open by call."""
        ...

    async def reserve(self, ask: Ask, epoch: int) -> Verdict:
        """Reserve ``ask.cost_nano`` in each window of its charges, or nothing. Only under ``Authority.POSTGRES``.

        The reservation is its own record. ``ADMITTED``, again too for a call that was admitted before; ``BUDGET``;
        ``STALE`` in any other epoch, before it is acknowledged, or after ``release``. Rates are not looked at.
        """
        ...

    async def raise_reservation(self, ask: Ask, epoch: int) -> Verdict:
        """Bring an open reservation up to ``ask.cost_nano``, whoever admitted it. ``STALE`` where there is none."""
        ...

    async def release(self, call_id: str) -> None:
        """Void a reservation of :meth:`reserve` that was never sent, or whose answer was lost.

        The call is remembered for a while and refused: what is still on its way to the database finds that out.
        """
        ...

    async def settle_orphans(self) -> int:
        """End the calls of members that are gone and whose journals, on this root, are applied; return how many.

        What was sent is charged at its estimate, what was not is void.
        """
        ...
