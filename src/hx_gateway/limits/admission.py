"""What an admitted call holds until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from hx_gateway.allowances import ScopeLimits
from hx_gateway.limits.authority import Term
from hx_gateway.limits.calls import CallAsk
from hx_gateway.limits.headers import Header, rate_headers
from hx_gateway.limits.model import Ask, Charge, Settlement, Verdict
from hx_gateway.limits.records import CallFacts


class Place(StrEnum):
    """Which counters know a call: nobody's, those of this process, or those that all workers share."""

    NOWHERE = "nowhere"
    LOCAL = "local"
    SHARED = "shared"


class Admission(msgspec.Struct, kw_only=True):
    """A call that may be sent. Its owner hands it to ``Meter.settle`` exactly once, whatever becomes of the call.

    ``reserved_nano`` is held in every window of ``charges``, in which ``left_nano`` are left. ``headers`` belong on the
    answer, ``decision`` (JSON) in the record of the call. The rest is the meter's: ``epoch`` is the one it was admitted
    in, ``term`` the one that granted what is not on record yet, until that is written; ``recorded`` says that something
    durable knows of it, ``in_ledger`` that PostgreSQL reserved it, ``doubtful`` that a lost ask may still arrive
    somewhere; ``refused`` is why the journal did not take that it is sent; ``facts`` are those of its last record.
    """

    call: CallAsk
    limits: tuple[ScopeLimits, ...] = ()
    charges: tuple[Charge, ...] = ()
    reserved_nano: int = 0
    admitted_us: int = 0
    left_nano: tuple[int, ...] = ()
    headers: Sequence[Header] = ()
    decision: bytes = b"{}"
    place: Place = Place.NOWHERE
    epoch: int = 0
    term: Term | None = None
    recorded: bool = False
    in_ledger: bool = False
    doubtful: bool = False
    settled: bool = False
    refused: Exception | None = None
    facts: CallFacts | None = None
    # The windows that the call is charged to, by name; they follow from the charges.
    charge_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.charge_keys = tuple([charge.key for charge in self.charges])

    @property
    def call_id(self) -> str:
        """The call's id, which is ours."""
        return self.call.call_id

    @property
    def tokens(self) -> int:
        """The estimate that was taken from the buckets of tokens."""
        return self.call.tokens

    def ask(self, epoch: int, lease_seconds: float, *, cost_nano: int | None = None) -> Ask:
        """Return an ask about this call: to renew what it holds, or to raise it to ``cost_nano``."""
        return Ask(
            call_id=self.call.call_id,
            tenant_id=self.call.tenant_id,
            limits=self.limits,
            charges=self.charges,
            tokens=self.call.tokens,
            cost_nano=self.reserved_nano if cost_nano is None else cost_nano,
            epoch=epoch,
            lease_seconds=lease_seconds,
        )

    def settlement(self, cost_nano: int, tokens: int) -> Settlement:
        """Return the end of this call for the counters: what it cost and how many tokens it really used."""
        return Settlement(
            call_id=self.call.call_id,
            tenant_id=self.call.tenant_id,
            cost_nano=cost_nano,
            limits=self.limits,
            tokens_delta=tokens - self.call.tokens,
            doubtful=self.doubtful,
        )


def ask_of(
    call: CallAsk,
    limits: tuple[ScopeLimits, ...],
    charges: tuple[Charge, ...] = (),
    *,
    epoch: int = 0,
    lease_seconds: float,
) -> Ask:
    """Return what a call asks for before it begins."""
    return Ask(
        call_id=call.call_id,
        tenant_id=call.tenant_id,
        limits=limits,
        charges=charges,
        tokens=call.tokens,
        cost_nano=call.cost_nano,
        epoch=epoch,
        lease_seconds=lease_seconds,
    )


def admission_of(call: CallAsk, ask: Ask, verdict: Verdict, *, place: Place, decision: bytes) -> Admission:
    """Return the admission of an ask that passed; ``decision`` is what was looked at."""
    return Admission(
        call=call,
        limits=ask.limits,
        charges=ask.charges,
        reserved_nano=ask.cost_nano if ask.charges else 0,
        admitted_us=verdict.now_us,
        left_nano=verdict.money,
        headers=rate_headers(ask.limits, verdict),
        decision=decision,
        place=place,
        epoch=ask.epoch,
    )
