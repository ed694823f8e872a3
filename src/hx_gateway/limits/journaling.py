"""Writes down what becomes of calls, before it is acted on; what must not be lost and is refused, is written later."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from hx_gateway.journal.errors import JournalClosed, JournalRefused
from hx_gateway.kit.clock import Clock
from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.admission import Admission
from hx_gateway.limits.calls import CallAsk, CallDone, CallRefused
from hx_gateway.limits.decisions import as_json
from hx_gateway.limits.model import Lapsed
from hx_gateway.limits.records import DONE, LAPSED, CallFacts, Done, Refused, Sent, encode

LAPSED_CODE = "lease_lapsed"


class CallJournal:
    """The records of calls. ``append`` writes one payload and raises ``JournalRefused``; ``None``: nothing is kept.

    ``drained`` returns whether all that was written before is applied to the ledger. With ``together``, which writes
    several payloads at once or says that it cannot, what calls that go on together have to say is written together, at
    the end of the event loop's turn: a write costs the same whatever it carries.
    """

    def __init__(
        self,
        append: Callable[[bytes], object] | None,
        stream_id: UUID,
        *,
        drained: Callable[[], Awaitable[bool]],
        clock: Clock,
        together: Callable[[Sequence[bytes]], bool] | None = None,
    ) -> None:
        self.refused_records = 0
        self._append = append
        self._together = together
        # What is written at the end of this turn, and whose call goes out once it is.
        self._due: deque[tuple[bytes, Admission | None]] = deque()
        self._stream_id = str(stream_id)
        self._is_drained = drained
        self._clock = clock
        self._unwritten: deque[bytes] = deque()

    @property
    def unwritten(self) -> int:
        """How many records wait for a journal that takes them; no more than calls were open."""
        return len(self._unwritten) + len(self._due)

    async def drained(self) -> bool:
        """Return whether all that happened before this call is in the ledger."""
        return self.write_again() and await self._is_drained()

    def sent(self, admission: Admission, upstream: str | None, provider: str | None) -> None:
        """Write that a call is about to go out. Raises ``JournalRefused``: then it may not.

        Where records are written together, ``admission`` says a turn later whether it is ``recorded`` or ``refused``.
        """
        payload = encode(Sent(self._facts(admission), upstream, provider))
        if self._together is not None:
            self._write_soon(payload, admission)
            return
        self._write(payload)
        _is_on_record(admission)

    def done(self, admission: Admission, done: CallDone) -> None:
        """Write how a call ended; never raises. Without a record that it was sent, only if the journal takes it."""
        if not admission.recorded:
            # That it was sent may be due: a reservation that is written after its end would stay open.
            self._write_due()
        record = Done(
            self._facts(admission),
            status=done.status,
            ending=done.ending,
            cost_nano=done.cost_nano,
            error_code=done.error_code,
            error_message=done.message,
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            cached_tokens=done.cached_tokens,
            usage_source=done.usage_source,
            duration_ms=done.duration_ms,
            attempts=done.attempts,
            upstream=done.upstream,
            provider=done.provider,
            model=done.model,
            cache=done.cache,
            settled_by=DONE,
            route=admission.call.route,
            decision=admission.decision,
        )
        (self._must_write if admission.recorded else self._write_if_taken)(encode(record))

    def given_up(self, call: CallAsk, code: str, message: str, *, status: int, decision: dict[str, Any]) -> None:
        """Write that a call does not begin though something may be reserved for it; never raises."""
        self._must_write(encode(self._refusal(call, code, message, status=status, decision=decision)))

    def refused(self, refused: CallRefused) -> None:
        """Write that a call never began, if the journal takes it; never raises."""
        record = self._refusal(
            refused,
            refused.code,
            refused.message,
            status=refused.status,
            decision=refused.decision,
            ending=refused.ending,
        )
        self._write_if_taken(encode(record))

    def lapsed(self, lapsed: Lapsed) -> None:
        """Write that a call whose owner may be gone was charged at its estimate; never raises."""
        facts = CallFacts(
            call_id=lapsed.call_id,
            stream_id=self._stream_id,
            request_id="",
            tenant_id=lapsed.tenant_id,
            key_id="",
            team_id=None,
            user_id=None,
            operation="",
            requested_model="",
            model="",
            stream=False,
            admitted_us=self._now_us(),
            reserved_nano=lapsed.cost_nano,
            charges=tuple(lapsed.windows),
        )
        record = Done(
            facts,
            status=0,
            ending="error",
            cost_nano=lapsed.cost_nano,
            error_code=LAPSED_CODE,
            usage_source="estimate",
            settled_by=LAPSED,
        )
        self._must_write(encode(record))

    def write_again(self) -> bool:
        """Write what is due and what was refused; return whether all of it is written."""
        self._write_due()
        return self._write_unwritten()

    def _write(self, payload: bytes) -> None:
        if self._append is not None:
            self._append(payload)

    def _write_if_taken(self, payload: bytes) -> None:
        try:
            self._write(payload)
        except (JournalRefused, JournalClosed):
            self.refused_records += 1

    def _must_write(self, payload: bytes) -> None:
        if self._together is not None:
            self._write_soon(payload, None)
        else:
            self._write_or_keep(payload)

    def _write_soon(self, payload: bytes, admission: Admission | None) -> None:
        if not self._due:
            # Comes before all that is woken in this turn: whoever waits for the next one finds it done.
            asyncio.get_running_loop().call_soon(self._write_due)
        self._due.append((payload, admission))

    def _write_due(self) -> None:
        due = self._due
        # In the order of events: not before what was refused.
        if due and not self._unwritten and self._together is not None and self._together([record for record, _ in due]):
            for _, admission in due:
                if admission is not None:
                    _is_on_record(admission)
            due.clear()
        while due:
            payload, admission = due.popleft()
            if admission is None:
                self._write_or_keep(payload)
                continue
            try:
                self._write(payload)
                _is_on_record(admission)
            except (JournalRefused, JournalClosed) as error:
                admission.refused = error

    def _write_or_keep(self, payload: bytes) -> None:
        try:
            # In the order of events.
            if not self._unwritten or self._write_unwritten():
                self._write(payload)
                return
        except (JournalRefused, JournalClosed):
            pass
        self.refused_records += 1
        self._unwritten.append(payload)

    def _write_unwritten(self) -> bool:
        while self._unwritten:
            try:
                self._write(self._unwritten[0])
            except (JournalRefused, JournalClosed):
                return False
            self._unwritten.popleft()
        return True

    def _refusal(
        self,
        call: CallAsk | CallRefused,
        code: str,
        message: str,
        *,
        status: int,
        decision: Mapping[str, Any],
        ending: str = "refused",
    ) -> Refused:
        return Refused(
            call_id=call.call_id,
            request_id=call.request_id,
            tenant_id=call.tenant_id,
            key_id=call.key_id,
            team_id=call.team_id,
            user_id=call.user_id,
            operation=call.operation,
            requested_model=call.requested_model,
            model=call.model,
            status=status,
            code=code,
            message=message,
            at_us=self._now_us(),
            route=call.route,
            ending=ending,
            decision=as_json(decision),
        )

    def _facts(self, admission: Admission) -> CallFacts:
        known, call = admission.facts, admission.call
        if known is not None and known.reserved_nano == admission.reserved_nano:
            return known
        admission.facts = facts = CallFacts(
            call_id=call.call_id,
            stream_id=self._stream_id,
            request_id=call.request_id,
            tenant_id=call.tenant_id,
            key_id=call.key_id,
            team_id=call.team_id,
            user_id=call.user_id,
            operation=call.operation,
            requested_model=call.requested_model,
            model=call.model,
            stream=call.stream,
            admitted_us=admission.admitted_us,
            reserved_nano=admission.reserved_nano,
            charges=admission.charge_keys,
            tags=call.tags,
            price_source=call.price_source,
            price_version=call.price_version,
            input_pico=call.input_pico,
            output_pico=call.output_pico,
        )
        return facts

    def _now_us(self) -> int:
        return unix_us(self._clock.now())


def _is_on_record(admission: Admission) -> None:
    """Take note that it is written that a call goes out: the next term finds what this one granted it."""
    admission.recorded, admission.term = True, None


def lapsed_windows(lapsed: Sequence[Lapsed]) -> list[str]:
    """Return the windows that lapsed calls are charged to, each once."""
    return list(dict.fromkeys(window for call in lapsed for window in call.windows))
