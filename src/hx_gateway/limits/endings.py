"""Ends of calls: written down, and told to whoever counts them or may have been told that they are open."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from hx_gateway.errors import HXError
from hx_gateway.kit.clock import Clock
from hx_gateway.limits.admission import Admission, Place
from hx_gateway.limits.authority import AuthorityKeeper
from hx_gateway.limits.calls import CallAsk, CallDone
from hx_gateway.limits.durable import Authority, DurableLedger, EpochState
from hx_gateway.limits.journaling import CallJournal
from hx_gateway.limits.model import Ask, CounterStore, Settlement
from hx_gateway.limits.refusals import decision_in
from hx_gateway.limits.settling import Releasing, Settling
from hx_gateway.limits.upkeep import Stores

MOST_REMEMBERED = 10_000
CANCELLED_STATUS = 499
CANCELLED_CODE = "client_closed"
CANCELLED_MESSAGE = "The client closed the connection."


class Endings:
    """Nothing here waits or raises, but for :meth:`retry`, which is called now and then."""

    def __init__(
        self,
        stores: Stores,
        ledger: DurableLedger | None,
        authority: AuthorityKeeper,
        journal: CallJournal,
        clock: Clock,
    ) -> None:
        self._stores = stores
        self._authority = authority
        self._journal = journal
        self._queue = Settling(stores.shared.settle, clock) if stores.shared is not None else None
        self._releasing = Releasing(ledger.release if ledger is not None else _release_nothing, drained=journal.drained)
        self._later: deque[Settlement] = deque(maxlen=MOST_REMEMBERED)
        self._given_up: dict[str, None] = {}

    @property
    def waiting(self) -> int:
        """How many ends are on their way."""
        queued = len(self._queue) if self._queue is not None else 0
        return queued + len(self._releasing) + len(self._later)

    @property
    def jobs(self) -> list[Callable[[], Awaitable[None]]]:
        """What has to go on for ever."""
        return [self._queue.run] if self._queue is not None else []

    async def emptied(self) -> None:
        """Return once the counters have heard of all ends."""
        if self._queue is not None:
            await self._queue.emptied()

    def end(self, admission: Admission, done: CallDone) -> None:
        """Give back what an admitted call held, once its end is written down."""
        if admission.in_ledger and admission.doubtful:
            self._releasing.put(admission.call_id)
        settlement = admission.settlement(done.cost_nano, done.prompt_tokens + done.completion_tokens)
        self._put(admission.place, settlement)
        if admission.charges and self._authority.heading is Authority.REDIS:
            if admission.place is not Place.SHARED:
                # Whoever admitted it: a new epoch's counters may have been told that it is open, or may be yet.
                self._put(Place.SHARED, settlement)
            if admission.epoch != self._authority.heading_epoch:
                self._later.append(settlement)

    def undo(self, place: Place, ask: Ask, *, doubtful: bool = True) -> None:
        """Give back what an ask took; ``doubtful`` where it may yet arrive."""
        void = Settlement(
            call_id=ask.call_id,
            tenant_id=ask.tenant_id,
            limits=ask.limits,
            tokens_delta=-ask.tokens,
            doubtful=doubtful,
        )
        self._put(place, void)

    def give_up(self, call: CallAsk, error: BaseException) -> None:
        """Write that a call ends before it began, though something may be reserved for it."""
        status, code, message = CANCELLED_STATUS, CANCELLED_CODE, CANCELLED_MESSAGE
        if isinstance(error, HXError):
            status, code, message = error.status, error.code, error.message
        self._journal.given_up(call, code, message, status=status, decision=decision_in(error))
        if len(self._given_up) >= MOST_REMEMBERED:
            del self._given_up[next(iter(self._given_up))]
        self._given_up[call.call_id] = None

    def was_given_up(self, call_id: str) -> bool:
        """Return, once, whether a refusal is written already."""
        return self._given_up.pop(call_id, self) is None

    def release(self, call_id: str) -> None:
        """Void what PostgreSQL may reserve yet for a call that is over, on record too."""
        self._releasing.put(call_id)

    def put(self, store: CounterStore, settlement: Settlement) -> None:
        """Let a store know of an end."""
        self._put(Place.SHARED if store is self._stores.shared else Place.LOCAL, settlement)

    def epoch_began(self, state: EpochState) -> None:
        """Drop what the counters need not hear any more: it is on record, and slots and buckets right themselves."""
        if state.authority is Authority.POSTGRES and self._queue is not None:
            self._queue.forget()

    async def retry(self) -> None:
        """Do what could not be done at once."""
        self._journal.write_again()
        await self._releasing.step()
        due = len(self._later)
        if due and await self._journal.drained():
            # Nobody is told any more that they are open: those who were, hear it now.
            for _ in range(due):
                self._put(Place.SHARED, self._later.popleft())

    def _put(self, place: Place, settlement: Settlement) -> None:
        if place is Place.LOCAL:
            self._stores.local.end([settlement])
        elif place is Place.SHARED and self._queue is not None:
            self._queue.put(settlement)


async def _release_nothing(_call_id: str) -> None:
    return None
