"""What a meter lets through, writes down and gives back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from hx_gateway.journal.errors import JournalRefused
from hx_gateway.limits.calls import CallRefused
from hx_gateway.limits.durable import Authority
from hx_gateway.limits.meter import Meter
from hx_gateway.limits.model import Outcome, Settlement
from hx_gateway.limits.refusals import BudgetUnknown, QuotaExceeded, RateLimited
from tests.unit.limits.stand_ins import (
    LIMITED,
    STREAM,
    WINDOW,
    Bench,
    HandClock,
    Ledger,
    call,
    ended,
    turns,
)

FULL = JournalRefused("full", reason="disk_full")


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def refused(bench: Bench, meter: Meter, number: int = 1, **more: Any) -> BaseException:
    """Return what a call is refused with; it may wait for an epoch first."""
    asking = asyncio.ensure_future(meter.admit(call(number, **more)))
    await bench.clock.pass_by(5.0)
    error = asking.exception()
    assert error is not None
    return error


async def money(bench: Bench) -> tuple[int, int]:
    state = (await bench.shared.windows("t", [WINDOW]))[WINDOW]
    return state.posted_nano, state.reserved_nano


async def test_a_call_without_limits_asks_nobody_and_is_on_record(bench: Bench) -> None:
    meter = bench.meter()
    admission = await meter.admit(call(allowance=None))
    meter.sent(admission, "up", "openai")
    meter.settle(admission, ended(7))
    assert (bench.kinds, bench.shared.asks, bench.local.asks) == (["Sent", "Done"], [], [])
    assert bench.records[1].cost_nano == 7


async def test_rates_are_refused_with_the_time_to_wait(bench: Bench) -> None:
    meter = bench.meter()
    for number in (1, 2):
        headers = dict((await meter.admit(call(number, LIMITED))).headers)
    assert headers[b"x-ratelimit-remaining-requests"] == b"0"
    with pytest.raises(RateLimited) as caught:
        await meter.admit(call(3, LIMITED))
    assert (caught.value.headers["retry-after"], caught.value.headers["retry-after-ms"]) == ("1", "1000")
    assert caught.value.explanation is not None
    assert caught.value.explanation["refused"]["by"] == "requests"
    assert meter.counts.refused == {"requests": 1}


async def test_rates_are_counted_here_at_once_while_the_store_fails(bench: Bench) -> None:
    async with bench.meter() as meter:
        bench.shared.failures = 1
        admission = await meter.admit(call(1, LIMITED))
        assert (admission.place, meter.counts.rate_fallbacks) == ("local", 1)
        await turns()
        # What may have arrived there is taken back.
        assert bench.shared.settled == [admission.call_id]


async def test_a_budget_admits_what_fits_and_refuses_the_rest(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call(1, cost_nano=900))
        error = await refused(bench, meter, 2, cost_nano=101)
        assert isinstance(error, QuotaExceeded)
        assert error.should_retry is False
        assert "$0.0000001 is left" in error.message
        meter.settle(admission, ended(300))
        await turns()
        assert await money(bench) == (300, 0)
    assert bench.kinds == ["Done"]


async def test_a_budget_continues_where_the_ledger_stands(bench: Bench) -> None:
    bench.ledger.posted[WINDOW] = 850
    bench.ledger.open = {"0197c1a0-0000-7000-8000-0000000000ff": 60}
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        assert isinstance(await refused(bench, meter, cost_nano=91), QuotaExceeded)
        await meter.admit(call(2, cost_nano=90))


async def test_nothing_is_written_before_a_call_goes_out(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        assert bench.kinds == []
        meter.sent(admission, "up", "openai")
        assert (bench.kinds, bench.records[0].facts.reserved_nano) == (["Sent"], 100)


async def test_a_journal_that_takes_nothing_lets_no_money_out(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        bench.refuses = FULL
        admission = await meter.admit(call())
        with pytest.raises(JournalRefused):
            meter.sent(admission, "up", "openai")
        meter.settle(admission, ended(0))
        await turns()
        # Nothing durable knows of the call: nobody keeps its end for later.
        assert (await money(bench), meter.journal.unwritten, meter.journal.refused_records) == ((0, 0), 0, 1)


@pytest.mark.parametrize("how", ["before it is sent", "before it is sent again"])
async def test_a_call_goes_out_in_the_epoch_that_granted_it_or_not_at_all(bench: Bench, how: str) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        if how == "before it is sent again":
            meter.sent(admission, "up", "openai")
            await meter.raise_to(admission, 700)
        meter.distrust()
        with pytest.raises(BudgetUnknown):
            meter.sent(admission, "up", "openai")
        await bench.clock.pass_by(2.0)
        assert meter.authority.term is not None
        with pytest.raises(BudgetUnknown):
            meter.sent(admission, "up", "openai")
        assert bench.kinds == (["Sent"] if how == "before it is sent again" else [])


async def test_what_the_journal_refused_goes_out_in_no_later_epoch(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        bench.refuses = FULL
        with pytest.raises(JournalRefused):
            meter.sent(admission, "up", "openai")
        bench.refuses = None
        meter.distrust()
        with pytest.raises(BudgetUnknown):
            meter.sent(admission, "up", "openai")
        assert bench.kinds == []


async def test_a_call_that_is_on_record_may_go_out_again_in_any_epoch(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        meter.sent(admission, "up", "openai")
        meter.distrust()
        await bench.clock.pass_by(2.0)
        meter.sent(admission, "another", "openai")
        assert bench.kinds == ["Sent", "Sent"]


async def test_shadow_lets_a_call_out_in_any_epoch(bench: Bench) -> None:
    async with bench.meter(mode="shadow") as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        meter.distrust()
        meter.sent(admission, "up", "openai")
        assert bench.kinds == ["Sent"]


async def test_a_lost_answer_is_asked_for_once_more(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        bench.shared.failures, bench.shared.after = 1, True
        admission = await meter.admit(call())
        assert [ask.again for ask in bench.shared.asks] == [False, True]
        assert await money(bench) == (0, 100)
        assert admission.doubtful
        meter.settle(admission, ended(40))
        await turns()
        # The first ask may arrive yet: it is not let in again.
        assert (await bench.shared.admit(bench.shared.asks[0])).outcome is Outcome.STALE


async def test_what_nobody_answers_is_given_up_and_given_back(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        bench.shared.failures, bench.shared.after = 2, True
        error = await refused(bench, meter)
        assert isinstance(error, BudgetUnknown)
        assert (error.status, error.code) == (503, "budget_unavailable")
        assert await money(bench) == (0, 0)
    assert bench.kinds == []
    assert meter.counts.budget_unavailable == 1


async def test_a_client_that_leaves_while_it_is_admitted_holds_nothing(bench: Bench) -> None:
    waiting = asyncio.Event()
    bench.shared.on_admit = waiting.wait
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        asking = asyncio.ensure_future(meter.admit(call()))
        await turns()
        asking.cancel()
        await turns()
        assert bench.kinds == []
        assert bench.shared.settled[-1] == call().call_id


async def test_a_refusal_is_written_once(bench: Bench) -> None:
    bench.ledger.authority, bench.healthy = Authority.POSTGRES, False
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        # What PostgreSQL may have reserved is given up in writing at once.
        bench.ledger.lost_answers = 2
        error = await refused(bench, meter)
        told = CallRefused(
            call_id=call().call_id,
            request_id="req",
            tenant_id="t",
            key_id="key1",
            operation="chat",
            requested_model="m",
            status=503,
            code=error.code,  # type: ignore[attr-defined]
            message="no",
        )
        meter.refuse(told)
        assert bench.kinds == ["Refused"]
        meter.refuse(told)
        assert bench.kinds == ["Refused", "Refused"]


async def test_without_an_epoch_only_budgets_are_refused(bench: Bench) -> None:
    bench.ledger.behind = True
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        assert isinstance(await refused(bench, meter), BudgetUnknown)
        await meter.admit(call(2, LIMITED))
        assert bench.payloads == []


async def test_shadow_lets_through_what_it_would_refuse_and_charges_it(bench: Bench) -> None:
    async with bench.meter(mode="shadow") as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call(cost_nano=5_000))
        decision = json.loads(admission.decision)
        assert decision["refused"]["by"] == "budget"
        assert decision["mode"] == "shadow"
        meter.settle(admission, ended(4_000))
        assert (bench.records[-1].facts.charges, bench.records[-1].cost_nano) == ((WINDOW,), 4_000)
        assert await money(bench) == (0, 0)
        assert meter.counts.shadow_refusals == 1


async def test_a_soft_limit_is_told_of_once_a_window(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        await meter.admit(call(1, cost_nano=500))
        assert bench.soft == []
        await meter.admit(call(2, cost_nano=100))
        await meter.admit(call(3, cost_nano=100))
    assert bench.soft == [("bg-1", "2026-11", 600)]


async def test_settling_twice_counts_once(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        meter.settle(admission, ended(30))
        meter.settle(admission, ended(50))
        await turns()
        assert await money(bench) == (30, 0)
        assert (bench.kinds.count("Done"), meter.open_calls) == (1, 0)


async def test_an_end_that_the_journal_refuses_is_written_later(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        meter.sent(admission, "up", "openai")
        bench.refuses = FULL
        meter.settle(admission, ended(30))
        assert (bench.kinds, meter.journal.unwritten) == (["Sent"], 1)
        # Nor is anything acknowledged meanwhile.
        assert not await meter.journal.drained()
        bench.refuses = None
        await bench.clock.pass_by(1.0)
        assert (bench.kinds, meter.journal.unwritten) == (["Sent", "Done"], 0)


async def test_a_dearer_candidate_raises_what_is_reserved(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        await meter.raise_to(admission, 700)
        assert (admission.reserved_nano, await money(bench)) == (700, (0, 700))
        with pytest.raises(QuotaExceeded):
            await meter.raise_to(admission, 1_001)
        assert (admission.reserved_nano, await money(bench)) == (700, (0, 700))
        meter.sent(admission, "up", "openai")
        assert bench.records[-1].facts.reserved_nano == 700


async def test_postgresql_reserves_while_it_has_the_word(bench: Bench) -> None:
    bench.ledger.authority, bench.healthy = Authority.POSTGRES, False
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        assert bench.ledger.reserved[admission.call_id].epoch == 1
        assert (bench.kinds, bench.shared.asks) == ([], [])
        bench.ledger.verdict = Outcome.BUDGET
        assert isinstance(await refused(bench, meter, 2), QuotaExceeded)


async def test_a_reservation_that_may_yet_arrive_in_postgresql_is_voided(bench: Bench) -> None:
    bench.ledger.authority, bench.healthy = Authority.POSTGRES, False
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        bench.ledger.lost_answers = 2
        bench.applied = False
        assert isinstance(await refused(bench, meter), BudgetUnknown)
        # Not before its end is on record, which would end the void too.
        assert (bench.kinds, bench.ledger.released) == (["Refused"], [])
        bench.applied = True
        await bench.clock.pass_by(1.0)
        assert bench.ledger.released == [call().call_id]


async def test_an_open_call_keeps_what_it_holds(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        admission = await meter.admit(call())
        await bench.clock.pass_by(300.0)
        assert (await money(bench), meter.lapsed) == ((0, 100), 0)
        meter.settle(admission, ended(10))


async def test_what_nobody_renews_is_charged_at_its_estimate(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        kept = await meter.admit(call())
        meter._open.clear()
        await bench.clock.pass_by(80.0)
        assert await money(bench) == (100, 0)
        lapsed = bench.records[-1]
        assert (lapsed.settled_by, lapsed.cost_nano, lapsed.facts.charges) == ("lapsed", 100, (WINDOW,))
        assert lapsed.facts.call_id == kept.call_id


async def test_what_the_ledger_has_open_is_left_to_it(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        kept = await meter.admit(call())
        meter._open.clear()
        bench.ledger.open = {kept.call_id: 100}
        await bench.clock.pass_by(80.0)
        assert (bench.kinds, meter.lapsed) == ([], 1)


async def test_counters_that_are_too_low_are_corrected_when_it_is_seen_twice(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        meter.settle(await meter.admit(call()), ended(10))
        bench.ledger.posted[WINDOW] = 25
        await bench.clock.pass_by(61.0)
        assert await money(bench) == (10, 0)
        await bench.clock.pass_by(60.0)
        assert (await money(bench), meter.corrections) == ((25, 0), 1)
    assert bench.drifts[:2] == [("bg-1", -15), ("bg-1", -15)]


async def test_counters_that_are_too_high_begin_a_new_epoch(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        meter.settle(await meter.admit(call()), ended(10))
        await bench.clock.pass_by(121.0)
        assert bench.ledger.epoch == 1
        await bench.clock.pass_by(61.0)
        assert (bench.ledger.turned, await money(bench)) == ([Authority.REDIS], (10, 0))
        await meter.admit(call(2))
        assert await money(bench) == (0, 100)


async def test_a_store_that_lost_everything_is_told_anew(bench: Bench) -> None:
    async with bench.meter() as meter:
        await bench.clock.pass_by(1.0)
        meter.settle(await meter.admit(call()), ended(10))
        await turns()
        bench.shared._tenants.clear()
        bench.ledger.posted[WINDOW] = 10
        assert isinstance(await refused(bench, meter, 2), BudgetUnknown)
        assert bench.ledger.turned == [Authority.REDIS]
        await meter.admit(call(3))
        assert await money(bench) == (10, 100)


async def test_a_process_alone_counts_by_itself_without_a_ledger() -> None:
    clock = HandClock()
    bench = Bench(clock=clock)
    async with Meter(stream_id=STREAM, process=bench.local, clock=clock) as meter:
        admission = await meter.admit(call(cost_nano=1_000))
        with pytest.raises(QuotaExceeded):
            await meter.admit(call(2, cost_nano=1))
        meter.settle(admission, ended(400))
        await turns()
        await meter.admit(call(3, cost_nano=600))


async def test_somebody_must_count() -> None:
    with pytest.raises(ValueError, match="local or process"):
        Meter(stream_id=STREAM)


async def test_a_settlement_is_what_the_admission_took(bench: Bench) -> None:
    async with bench.meter() as meter:
        admission = await meter.admit(call(1, LIMITED))
        assert admission.settlement(5, 12) == Settlement(
            call_id=admission.call_id, tenant_id="t", cost_nano=5, limits=LIMITED.limits, tokens_delta=2
        )


async def test_leaving_is_said_when_all_is_on_record(bench: Bench) -> None:
    async with bench.meter():
        await bench.clock.pass_by(1.0)
    assert bench.ledger.left
    other = Bench(ledger=Ledger(), applied=False)
    async with other.meter():
        await other.clock.pass_by(1.0)
    assert not other.ledger.left
