"""Ends reach their store in order, once it takes them; and those in doubt are voided when their end is on record."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from hx_gateway.limits.model import Settlement
from hx_gateway.limits.settling import BATCH, Releasing, Settling
from tests.unit.limits.stand_ins import HandClock, away, turns


class Store:
    """Takes settlements, or not; ``hold`` makes it take its time."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.failures = 0
        self.hold: asyncio.Event | None = None

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.failures:
            self.failures -= 1
            raise away()
        self.batches.append([settlement.call_id for settlement in settlements])


def settlement(name: object) -> Settlement:
    return Settlement(call_id=str(name), tenant_id="t")


async def finish(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_ends_go_out_in_batches_and_in_their_order() -> None:
    store = Store()
    queue = Settling(store.settle, HandClock())
    for number in range(BATCH + 1):
        queue.put(settlement(number))
    running = asyncio.ensure_future(queue.run())
    await turns()
    assert [len(batch) for batch in store.batches] == [BATCH, 1]
    assert store.batches[0][:2] == ["0", "1"]
    await asyncio.wait_for(queue.emptied(), 1)
    queue.put(settlement("later"))
    await turns()
    assert store.batches[-1] == ["later"]
    await finish(running)


async def test_what_the_store_does_not_take_is_sent_again() -> None:
    clock, store = HandClock(), Store()
    store.failures = 3
    queue = Settling(store.settle, clock)
    queue.put(settlement("a"))
    running = asyncio.ensure_future(queue.run())
    await turns()
    queue.put(settlement("b"))
    assert (store.batches, len(queue), queue.failures) == ([], 2, 1)
    await clock.pass_by(5.0)
    assert (store.batches, len(queue), queue.failures) == ([["a", "b"]], 0, 3)
    await finish(running)


async def test_what_is_forgotten_on_its_way_takes_nothing_with_it() -> None:
    store = Store()
    store.hold = asyncio.Event()
    queue = Settling(store.settle, HandClock())
    queue.put(settlement("a"))
    running = asyncio.ensure_future(queue.run())
    await turns()
    queue.forget()
    queue.put(settlement("b"))
    store.hold.set()
    await turns()
    assert (store.batches, len(queue), queue.dropped) == ([["a"], ["b"]], 0, 1)
    await finish(running)


async def test_a_reservation_in_doubt_is_voided_once_its_end_is_on_record() -> None:
    released: list[str] = []
    on_record = False

    async def release(call_id: str) -> None:
        released.append(call_id)

    async def drained() -> bool:
        return on_record

    releasing = Releasing(release, drained=drained)
    releasing.put("a")
    await releasing.step()
    assert (released, len(releasing)) == ([], 1)
    on_record = True
    await releasing.step()
    assert (released, len(releasing)) == (["a"], 0)


async def test_a_reservation_in_doubt_waits_for_the_database() -> None:
    failures, released = [True], []

    async def release(call_id: str) -> None:
        if failures:
            failures.clear()
            raise away("PostgreSQL")
        released.append(call_id)

    async def drained() -> bool:
        return True

    releasing = Releasing(release, drained=drained)
    releasing.put("a")
    releasing.put("b")
    await releasing.step()
    assert (released, len(releasing)) == ([], 2)
    await releasing.step()
    assert released == ["a", "b"]
