"""What calls that go on together have to say is written together, and no call goes out before its record is there."""

from __future__ import annotations

import asyncio

import pytest

from hx_gateway.journal.errors import JournalRefused
from hx_gateway.limits.admission import Admission
from hx_gateway.limits.meter import Meter
from tests.unit.limits.stand_ins import Bench, call, ended

FULL = JournalRefused("full", reason="disk_full")


@pytest.fixture
def bench() -> Bench:
    return Bench(groups=[])


async def admitted(meter: Meter, numbers: range) -> list[Admission]:
    return [await meter.admit(call(number, cost_nano=10)) for number in numbers]


async def test_what_happens_in_a_turn_is_written_at_its_end(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        first, second, third = await admitted(meter, range(3))
        meter.sent(first, "up", "openai")
        meter.sent(second, "up", "openai")
        assert (bench.kinds, meter.journal.unwritten, first.recorded) == ([], 2, False)
        await asyncio.sleep(0)
        meter.confirm(first)
        meter.confirm(second)
        assert (bench.kinds, bench.groups, meter.journal.unwritten) == (["Sent", "Sent"], [2], 0)
        meter.settle(first, ended(3))
        meter.sent(third, "up", "openai")
        meter.settle(second, ended(4))
        await asyncio.sleep(0)
        meter.confirm(third)
        assert (bench.kinds[2:], bench.groups) == (["Done", "Sent", "Done"], [2, 3])
        meter.settle(third, ended(5))
    # Whoever stops leaves nothing unwritten.
    assert bench.kinds[5:] == ["Done"]


async def test_whoever_wakes_in_the_next_turn_finds_it_written(bench: Bench) -> None:
    """However many there are, and whether they came before the turn's end was asked for or after."""
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)

        async def go(admission: Admission) -> bool:
            meter.sent(admission, "up", "openai")
            await asyncio.sleep(0)
            return admission.recorded

        admissions = await admitted(meter, range(20))
        assert all(await asyncio.gather(*(go(admission) for admission in admissions)))
        assert bench.groups == [20]
        for admission in admissions:
            meter.settle(admission, ended(1))


async def test_a_call_that_is_not_on_record_does_not_go_out(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        (admission,) = await admitted(meter, range(1))
        bench.refuses = FULL
        meter.sent(admission, "up", "openai")
        await asyncio.sleep(0)
        with pytest.raises(JournalRefused):
            meter.confirm(admission)
        assert not admission.recorded
        # What it was granted ends with the term that granted it: whoever counts after that knows nothing of it.
        assert admission.term is meter.authority.term is not None
        # It may try again.
        bench.refuses = None
        meter.sent(admission, "up", "openai")
        await asyncio.sleep(0)
        meter.confirm(admission)
        assert (admission.recorded, admission.term) == (True, None)
        meter.settle(admission, ended(2))


async def test_nobody_confirms_what_was_never_written(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        (admission,) = await admitted(meter, range(1))
        meter.sent(admission, "up", "openai")
        with pytest.raises(JournalRefused):
            meter.confirm(admission)
        meter.settle(admission, ended(2))


async def test_ends_that_are_refused_are_written_later_and_in_their_order(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admissions = await admitted(meter, range(3))
        for admission in admissions:
            meter.sent(admission, "up", "openai")
        await asyncio.sleep(0)
        bench.refuses = FULL
        for cost, admission in enumerate(admissions[:2]):
            meter.settle(admission, ended(cost))
        await asyncio.sleep(0)
        assert (meter.journal.unwritten, meter.journal.refused_records) == (2, 2)
        bench.refuses = None
        meter.settle(admissions[2], ended(2))
        assert await meter.journal.drained()
        assert [record.cost_nano for record in bench.records[3:]] == [0, 1, 2]


async def test_all_that_happened_before_is_written_before_it_is_said_to_be_drained(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        (admission,) = await admitted(meter, range(1))
        meter.sent(admission, "up", "openai")
        assert await meter.journal.drained()
        assert (bench.kinds, admission.recorded) == (["Sent"], True)
        meter.confirm(admission)
        meter.settle(admission, ended(2))


async def test_a_call_that_ends_in_the_turn_it_went_out_is_written_in_that_order(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        (admission,) = await admitted(meter, range(1))
        meter.sent(admission, "up", "openai")
        meter.settle(admission, ended(2))
    assert bench.kinds == ["Sent", "Done"]
