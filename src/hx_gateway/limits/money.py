"""The money of one tenant in memory: windows, reservations, and what became of those whose lease ran out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from hx_gateway.limits.model import Charge, Lapsed, WindowSeed, WindowState
from hx_gateway.limits.windows import TOTAL

SECOND_US = 1_000_000
# How long a call that lapsed may still come back and be corrected.
LAPSED_US = 48 * 3600 * SECOND_US
# A window is forgotten so long after it was set; all but those of all time are over by then.
WINDOW_US = 40 * 24 * 3600 * SECOND_US
# One that still holds a reservation then is looked at again after this.
POSTPONED_US = 24 * 3600 * SECOND_US
LAPSE_BATCH = 200

# What is due at a moment, by the first letters of its name in the scripts: an open call, a lapsed call, a window.
OPEN, LAPSED, WINDOW = "i:", "x:", "w:"


class Reservation(msgspec.Struct, gc=False):
    """What a call holds in each of its windows, in nano-dollars, and until when its lease is."""

    amount: int
    windows: tuple[str, ...]
    expires_us: int


@dataclass(slots=True)
class TenantMoney:
    """The state that the scripts keep in one hash and one sorted set; the names are theirs.

    ``due`` has the moments of lapsed calls and of windows; an open call has its own.
    """

    epoch: int
    posted: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    open: dict[str, Reservation] = field(default_factory=dict)
    lapsed: dict[str, Reservation] = field(default_factory=dict)
    due: dict[str, int] = field(default_factory=dict)

    def left(self, charge: Charge) -> int:
        """Return what is left of a budget in a window; less than nothing where more was posted than reserved."""
        return charge.budget.limit_nano - self.posted.get(charge.key, 0) - self.reserved.get(charge.key, 0)

    def left_after(self, charges: Sequence[Charge], cost: int) -> list[int] | None:
        """Return what is left in windows that are known when ``cost`` is taken; ``None`` where one of them is short."""
        posted, reserved = self.posted, self.reserved
        left = []
        for charge in charges:
            key = charge.key
            rest = charge.budget.limit_nano - posted[key] - reserved[key] - cost
            if rest < 0:
                return None
            left.append(rest)
        return left

    def reserve(self, call_id: str, amount: int, windows: tuple[str, ...], expires_us: int) -> None:
        """Hold ``amount`` in each window for a call that holds nothing yet."""
        self.open[call_id] = Reservation(amount, windows, expires_us)
        reserved = self.reserved
        for window in windows:
            reserved[window] = reserved.get(window, 0) + amount

    def raise_to(self, call_id: str, amount: int) -> None:
        """Bring a reservation up to ``amount``."""
        held = self.open[call_id]
        for window in held.windows:
            self.reserved[window] = self.reserved.get(window, 0) + amount - held.amount
        held.amount = amount

    def settle(self, call_id: str, cost: int) -> bool:
        """Post what a call cost in place of what it held, or was posted at. Return whether it was known."""
        held, lapsed = self.open.pop(call_id, None), self.lapsed.pop(call_id, None)
        if held is not None:
            self._post(held.windows, cost, released=held.amount)
        if lapsed is not None:
            del self.due[LAPSED + call_id]
            self._post(lapsed.windows, cost - lapsed.amount)
        return held is not None or lapsed is not None

    def lapse(self, tenant_id: str, now_us: int) -> list[Lapsed]:
        """Do what is due, up to :data:`LAPSE_BATCH`; return the calls whose lease ran out."""
        due = [
            (held.expires_us, (OPEN + call).encode()) for call, held in self.open.items() if held.expires_us <= now_us
        ]
        due += [(moment, name.encode()) for name, moment in self.due.items() if moment <= now_us]
        ended: list[Lapsed] = []
        for _, encoded in sorted(due)[:LAPSE_BATCH]:
            name = encoded.decode()
            kind, rest = name[:2], name[2:]
            if kind == OPEN:
                ended.append(self._expire(tenant_id, rest, now_us))
                continue
            del self.due[name]
            if kind == LAPSED:
                del self.lapsed[rest]
            elif self.reserved.get(rest, 0) > 0:
                self.due[name] = now_us + POSTPONED_US
            else:
                self.posted.pop(rest, None)
                self.reserved.pop(rest, None)
        return ended

    def seed(self, windows: Sequence[WindowSeed], now_us: int, lease_us: int) -> None:
        """Set the windows that are cold."""
        for seed in windows:
            if seed.key in self.posted:
                continue
            self.posted[seed.key] = seed.posted_nano
            self.reserved[seed.key] = 0
            if not seed.key.endswith(f":{TOTAL}"):
                self.due[WINDOW + seed.key] = now_us + WINDOW_US
            for call_id, amount in seed.reserved.items():
                self._seed_call(call_id, amount, seed.key, now_us + lease_us)

    def states(self, keys: Sequence[str]) -> dict[str, WindowState]:
        """Return the windows that are not cold."""
        return {
            key: WindowState(posted_nano=self.posted[key], reserved_nano=self.reserved.get(key, 0))
            for key in keys
            if key in self.posted
        }

    def repost(self, posted: Mapping[str, tuple[int, int]]) -> None:
        """Correct windows in which the value that was seen still stands."""
        for key, (seen, true) in posted.items():
            if self.posted.get(key) == seen:
                self.posted[key] = true

    def _seed_call(self, call_id: str, amount: int, window: str, expires_us: int) -> None:
        held = self.open.get(call_id)
        if held is None:
            self.reserve(call_id, amount, (window,), expires_us)
            return
        # One amount a call: what its windows were told at different times, the most of it holds in all.
        if held.amount < amount:
            self.raise_to(call_id, amount)
        if window not in held.windows:
            held.windows = (*held.windows, window)
            self.reserved[window] += held.amount

    def _expire(self, tenant_id: str, call_id: str, now_us: int) -> Lapsed:
        held = self.open.pop(call_id)
        self._post(held.windows, held.amount, released=held.amount)
        known = self.lapsed.get(call_id)
        if known is None:
            self.lapsed[call_id] = held
        else:
            # It lapsed before, and was then seeded into other windows.
            self.lapsed[call_id] = Reservation(known.amount, (*known.windows, *held.windows), 0)
        self.due[LAPSED + call_id] = now_us + LAPSED_US
        return Lapsed(call_id=call_id, tenant_id=tenant_id, cost_nano=held.amount, windows=held.windows)

    def _post(self, windows: tuple[str, ...], amount: int, released: int = 0) -> None:
        for window in windows:
            # One that was forgotten is not begun again by a late call: the durable record has it.
            if window in self.posted:
                self.posted[window] += amount
                self.reserved[window] -= released
