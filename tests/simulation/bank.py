"""The durable ledger without a database: the code that reckons what records come to is the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from hx_gateway.kit.epochs import unix_us
from hx_gateway.limits.durable import Authority, EpochState
from hx_gateway.limits.model import Ask, Outcome, Verdict, WindowSeed
from hx_gateway.limits.netting import gives_way, lost, net
from hx_gateway.limits.records import Done, Sent, decode
from tests.simulation.virtual_time import TrueClock


@dataclass(slots=True)
class Held:
    """A row of reservations."""

    state: str
    stream: str
    amount: int
    charges: tuple[str, ...]
    sent: Sent | None = None


@dataclass(slots=True)
class Bank:
    """Everything here happens at once, or not at all. ``dead`` and ``length`` tell of a stream's writer and journal."""

    clock: TrueClock
    wanted: Authority
    dead: Callable[[str], bool]
    length: Callable[[str], int]
    epoch: int = 0
    authority: Authority = Authority.REDIS
    members: dict[str, int] = field(default_factory=dict)
    tenants: dict[str, int] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    rows: dict[str, Done] = field(default_factory=dict)
    posted: dict[str, int] = field(default_factory=dict)
    cursors: dict[str, int] = field(default_factory=dict)

    # Epochs

    def join(self, stream: UUID) -> EpochState:
        if not self.epoch:
            self.epoch, self.authority = 1, self.wanted
        self.members.setdefault(str(stream), self.epoch)
        return self.state()

    def leave(self, stream: UUID) -> None:
        self._end(str(stream))

    def state(self) -> EpochState:
        behind = sum(epoch < self.epoch for epoch in self.members.values())
        return EpochState(epoch=self.epoch, authority=self.authority, acknowledged=not behind, behind=behind)

    def turn(self, seen: int, authority: Authority) -> EpochState:
        if seen == self.epoch:
            self.epoch, self.authority = seen + 1, authority
        return self.state()

    def acknowledge(self, stream: UUID, epoch: int) -> EpochState:
        self.members[str(stream)] = max(epoch, self.members.get(str(stream), 0))
        return self.state()

    def beat(self, stream: UUID, acknowledged: int) -> EpochState:
        self.members.setdefault(str(stream), acknowledged)
        return self.state()

    def touch_tenant(self, tenant: str, epoch: int) -> bool:
        if epoch != self.epoch or self.tenants.get(tenant, 0) >= epoch:
            return False
        self.tenants[tenant] = epoch
        return True

    # Money

    def windows(self, keys: Sequence[str]) -> Mapping[str, WindowSeed]:
        return {
            key: WindowSeed(
                key=key,
                posted_nano=self.posted.get(key, 0),
                reserved={
                    call: held.amount
                    for call, held in self.held.items()
                    if held.state != "void" and key in held.charges
                },
            )
            for key in keys
        }

    def reserve(self, stream: str, ask: Ask, epoch: int) -> Verdict:
        return self._take(stream, ask, epoch, opens=True)

    def raise_reservation(self, stream: str, ask: Ask, epoch: int) -> Verdict:
        return self._take(stream, ask, epoch, opens=False)

    def _take(self, stream: str, ask: Ask, epoch: int, *, opens: bool) -> Verdict:
        now = unix_us(self.clock.now())
        if epoch != self.epoch or self.authority is not Authority.POSTGRES or not self.state().acknowledged:
            return Verdict(outcome=Outcome.STALE, now_us=now)
        held = self.held.get(ask.call_id)
        if stream not in self.members or (held is None and not opens) or (held is not None and held.state == "void"):
            return Verdict(outcome=Outcome.STALE, now_us=now)
        own = held.amount if held is not None else 0
        known = opens and held is not None
        wanted = own if known else max(own, ask.cost_nano)
        lefts = [charge.budget.limit_nano - self.used(charge.key) + own for charge in ask.charges]
        for index, left in enumerate(lefts):
            if left < wanted and not known:
                return Verdict(outcome=Outcome.BUDGET, now_us=now, refused_by=index, left=max(0, left))
        if held is None:
            self.held[ask.call_id] = Held("reserved", stream, wanted, tuple(charge.key for charge in ask.charges))
        elif not known:
            held.amount = wanted
        return Verdict(outcome=Outcome.ADMITTED, now_us=now, money=tuple(left - wanted for left in lefts))

    def release(self, stream: str, call: str) -> None:
        held = self.held.get(call)
        if held is None or held.state == "reserved":
            self.held[call] = Held("void", stream, 0, ())

    def used(self, key: str) -> int:
        open_there = sum(held.amount for held in self.held.values() if key in held.charges)
        return self.posted.get(key, 0) + open_there

    # Records

    def apply(self, stream: str, first: int, payloads: Sequence[bytes]) -> None:
        """Apply what a stream holds from ``first`` on; what is applied already is left out."""
        cursor = self.cursors.get(stream, 0)
        fresh = payloads[max(0, cursor - first) :]
        if fresh:
            self.cursors[stream] = first + len(payloads)
            self._apply([decode(payload) for payload in fresh])

    def _apply(self, records: Sequence[object]) -> None:
        effect = net(records)  # type: ignore[arg-type]
        for call in effect.ended:
            self.held.pop(call, None)
        for hold in effect.holds:
            facts = hold.sent.facts
            before = self.held.get(facts.call_id)
            if before is None:
                self.held[facts.call_id] = Held("sent", facts.stream_id, hold.amount_nano, facts.charges, hold.sent)
            elif before.state != "void":
                before.amount = max(before.amount, hold.amount_nano)
                before.state, before.sent = "sent", hold.sent
        for done in effect.spends:
            self.spend(done)

    def spend(self, done: Done) -> None:
        """Keep the end of a call."""
        known = self.rows.get(done.facts.call_id)
        if known is not None:
            if not gives_way(known.settled_by, done.settled_by):
                return
            self.post(known, -1)
        self.rows[done.facts.call_id] = done
        self.post(done)

    def post(self, done: Done, sign: int = 1) -> None:
        """Count a row in its windows."""
        for key in done.facts.charges:
            self.posted[key] = self.posted.get(key, 0) + sign * done.cost_nano

    def settle_orphans(self) -> int:
        gone = [stream for stream in self.members if self.dead(stream) and self._applied(stream)]
        return sum(self._end(stream) for stream in gone)

    def _applied(self, stream: str) -> bool:
        return self.cursors.get(stream, 0) >= self.length(stream)

    def _end(self, stream: str) -> int:
        if self.members.pop(stream, None) is None:
            return 0
        left = [(call, held) for call, held in self.held.items() if held.stream == stream and held.state != "void"]
        for call, held in left:
            del self.held[call]
            if held.state == "sent":
                assert held.sent is not None
                self.spend(lost(held.sent, held.amount))
        return len(left)
