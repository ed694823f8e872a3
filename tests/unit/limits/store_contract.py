"""What every store of counters does: the same scenarios for the one in memory and the one in Redis.

A test class that inherits them has the fixtures ``store`` and ``clock``; the store tells the time by the clock.
"""

from __future__ import annotations

from hx_gateway.allowances import Rate, ScopeKind
from hx_gateway.limits.model import CounterStore, Lapsed, Outcome, RateState, WindowSeed, WindowState
from tests.unit.limits.asks import EPOCH, MONTH, TENANT, MovedClock, ask, charge, limits, money, settlement, warm

HOUR = 3600.0
DAY = 24 * HOUR


class RatesAndSlots:
    async def test_requests_pass_until_the_bucket_is_empty_and_then_after_the_wait_told(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        scope = limits(requests=Rate(7, 3))
        for number in range(3):
            verdict = await store.admit(ask(f"{number}", scope))
            assert verdict.outcome is Outcome.ADMITTED
            assert verdict.requests[0] is not None
            assert verdict.requests[0].left == 2 - number
        refused = await store.admit(ask("3", scope))
        assert (refused.outcome, refused.refused_by, refused.left) == (Outcome.REQUESTS, 0, 0)
        assert refused.retry_after_us == 8_571_426
        clock.move(microseconds=refused.retry_after_us - 1)
        assert (await store.admit(ask("4", scope))).outcome is Outcome.REQUESTS
        clock.move(microseconds=1)
        assert (await store.admit(ask("5", scope))).outcome is Outcome.ADMITTED

    async def test_a_refusal_takes_nothing_anywhere(self, store: CounterStore) -> None:
        open_scope = limits(requests=Rate(60, 5), tokens=Rate(600, 100), parallel=9)
        closed = limits(kind=ScopeKind.TENANT, parallel=0)
        charged = charge(1_000)
        await warm(store, charged)
        refused = await store.admit(ask("a", open_scope, closed, charges=(charged,), tokens=50, cost_nano=10))
        assert (refused.outcome, refused.refused_by) == (Outcome.PARALLEL, 1)
        assert refused.requests == (RateState(left=5, full_in_us=0), None)
        assert refused.tokens == (RateState(left=100, full_in_us=0), None)
        assert refused.money == (1_000,)
        assert await money(store, charged) == [(0, 0)]

    async def test_the_first_refusal_is_told_and_the_longest_wait(self, store: CounterStore) -> None:
        slots = limits(parallel=1)
        key = limits(requests=Rate(60, 1), kind=ScopeKind.USER)
        team = limits(requests=Rate(6, 1), tokens=Rate(60, 60), kind=ScopeKind.TEAM)
        assert (await store.admit(ask("a", slots, key, team, tokens=60))).outcome is Outcome.ADMITTED
        refused = await store.admit(ask("b", slots, key, team, tokens=60))
        assert (refused.outcome, refused.refused_by, refused.left) == (Outcome.PARALLEL, 0, 0)
        assert refused.retry_after_us == 60_000_000
        await store.settle([settlement(ask("a", slots, key, team))])
        refused = await store.admit(ask("b", slots, key, team, tokens=1))
        assert (refused.outcome, refused.refused_by) == (Outcome.REQUESTS, 1)
        assert refused.retry_after_us == 10_000_000

    async def test_tokens_that_no_bucket_holds_are_too_large_and_no_wait_is_told(self, store: CounterStore) -> None:
        short, small = limits(tokens=Rate(60, 100)), limits(tokens=Rate(60, 50), kind=ScopeKind.TEAM)
        await store.admit(ask("a", short, tokens=100))
        refused = await store.admit(ask("b", short, small, tokens=51))
        assert (refused.outcome, refused.refused_by) == (Outcome.TOO_LARGE, 1)
        assert (refused.left, refused.retry_after_us) == (50, 0)

    async def test_tokens_are_corrected_once_when_the_call_ends(self, store: CounterStore) -> None:
        scope = limits(tokens=Rate(600, 600))
        call = ask("a", scope, tokens=200)
        await store.admit(call)
        for _ in range(2):
            await store.settle([settlement(call, tokens_delta=-150)])
        state = (await store.admit(ask("b", scope))).tokens[0]
        assert state is not None
        assert state.left == 550
        await store.settle([settlement(ask("b", scope), tokens_delta=560)])
        refused = await store.admit(ask("c", scope, tokens=1))
        assert (refused.outcome, refused.retry_after_us) == (Outcome.TOKENS, 1_100_000)

    async def test_tokens_beyond_the_estimate_count_from_the_end_of_the_call(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        scope = limits(tokens=Rate(600, 600))
        call = ask("a", scope, tokens=10)
        await store.admit(call)
        clock.move(60)
        await store.settle([settlement(call, tokens_delta=500)])
        assert (await store.admit(ask("b", scope))).tokens == (RateState(left=100, full_in_us=50_000_000),)

    async def test_a_call_that_was_never_admitted_corrects_nothing(self, store: CounterStore) -> None:
        scope = limits(tokens=Rate(600, 600))
        await store.settle([settlement(ask("a", scope), tokens_delta=500)])
        assert (await store.admit(ask("b", scope))).tokens == (RateState(left=600, full_in_us=0),)

    async def test_an_ask_repeated_is_admitted_and_takes_nothing_more(self, store: CounterStore) -> None:
        scope = limits(requests=Rate(60, 5), tokens=Rate(600, 100), parallel=1)
        for again in (False, True, True):
            verdict = await store.admit(ask("a", scope, tokens=10, again=again))
            assert verdict.outcome is Outcome.ADMITTED
            assert verdict.requests == (RateState(left=4, full_in_us=1_000_000),)
            assert verdict.tokens == (RateState(left=90, full_in_us=1_000_000),)

    async def test_a_slot_is_free_when_its_call_ends_or_its_lease_runs_out(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        scope = limits(parallel=1)
        await store.admit(ask("a", scope, lease_seconds=10))
        assert (await store.admit(ask("b", scope))).outcome is Outcome.PARALLEL
        await store.settle([settlement(ask("a", scope))])
        assert (await store.admit(ask("b", scope, lease_seconds=10))).outcome is Outcome.ADMITTED
        clock.move(9.999_999)
        assert (await store.admit(ask("c", scope))).outcome is Outcome.PARALLEL
        clock.move(microseconds=1)
        assert (await store.admit(ask("c", scope))).outcome is Outcome.ADMITTED

    async def test_a_call_that_goes_on_keeps_its_slot(self, store: CounterStore, clock: MovedClock) -> None:
        scope = limits(parallel=1)
        call = ask("a", scope, lease_seconds=10)
        await store.admit(call)
        for _ in range(3):
            clock.move(9)
            await store.renew(TENANT, [call])
            assert (await store.admit(ask("b", scope))).outcome is Outcome.PARALLEL

    async def test_a_call_that_ended_gets_no_slot_from_a_late_renewal(self, store: CounterStore) -> None:
        scope, charged = limits(parallel=1), charge(10)
        await warm(store, charged)
        for call in (ask("a", scope), ask("b", scope, charges=(charged,))):
            assert (await store.admit(call)).outcome is Outcome.ADMITTED
            await store.settle([settlement(call)])
            await store.renew(TENANT, [call])
        assert (await store.admit(ask("c", scope))).outcome is Outcome.ADMITTED

    async def test_a_call_that_goes_on_gets_back_a_slot_that_it_renewed_too_late(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        scope = limits(parallel=1)
        call = ask("a", scope, lease_seconds=10)
        await store.admit(call)
        clock.move(20)
        await store.admit(ask("b", scope, lease_seconds=10))
        await store.renew(TENANT, [call])
        clock.move(9)
        assert (await store.admit(ask("c", limits(parallel=2)))).outcome is Outcome.PARALLEL
        clock.move(1)
        assert (await store.admit(ask("c", scope))).outcome is Outcome.ADMITTED

    async def test_a_call_without_limits_is_admitted(self, store: CounterStore) -> None:
        verdict = await store.admit(ask("a"))
        assert (verdict.outcome, verdict.requests, verdict.tokens, verdict.money) == (Outcome.ADMITTED, (), (), ())

    async def test_tenants_and_kinds_of_scope_do_not_share_a_bucket(self, store: CounterStore) -> None:
        scope = limits(requests=Rate(60, 1))
        for number, call in enumerate(
            (
                ask("a", scope),
                ask("b", scope, tenant_id="other"),
                ask("c", limits(requests=Rate(60, 1), kind=ScopeKind.USER)),
            )
        ):
            assert (await store.admit(call)).outcome is Outcome.ADMITTED, number

    async def test_a_call_that_must_not_begin_any_more_is_refused_for_an_hour(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        scope = limits(requests=Rate(60, 5))
        await store.settle([settlement(ask("late", scope), doubtful=True)])
        clock.move(HOUR - 1)
        assert (await store.admit(ask("late", scope))).outcome is Outcome.STALE
        clock.move(1)
        assert (await store.admit(ask("late", scope))).outcome is Outcome.ADMITTED


class Budgets:
    async def test_a_tenant_that_never_began_is_stale_and_nothing_is_set_in_it(self, store: CounterStore) -> None:
        charged = charge(100)
        await store.seed(TENANT, EPOCH, [WindowSeed(key=charged.key)], 60.0)
        assert (await store.admit(ask("a", charges=(charged,)))).outcome is Outcome.STALE
        assert await store.windows(TENANT, [charged.key]) == {}
        assert await store.lapse(TENANT) == []

    async def test_another_epoch_is_stale_whether_it_is_earlier_or_later(self, store: CounterStore) -> None:
        charged = charge(100)
        await warm(store, charged)
        for epoch in (EPOCH - 1, EPOCH + 1):
            asked = ask("a", charges=(charged,), epoch=epoch)
            assert (await store.admit(asked)).outcome is Outcome.STALE
            assert (await store.raise_reservation(asked)).outcome is Outcome.STALE
            await store.seed(TENANT, epoch, [WindowSeed(key="bg-b:total", posted_nano=7)], 60.0)
            await store.repost(TENANT, epoch, {charged.key: (0, 50)})
        assert await store.windows(TENANT, [charged.key, "bg-b:total"]) == {
            charged.key: WindowState(posted_nano=0, reserved_nano=0)
        }

    async def test_an_epoch_takes_the_place_of_an_earlier_one_only(self, store: CounterStore) -> None:
        charged = charge(100)
        await warm(store, charged, posted=40)
        for epoch in (EPOCH - 1, EPOCH):
            await store.begin(TENANT, epoch)
            assert await money(store, charged) == [(40, 0)]
        await store.begin(TENANT, EPOCH + 1)
        asked = ask("a", charges=(charged,), epoch=EPOCH + 1)
        assert (await store.admit(asked)).outcome is Outcome.COLD

    async def test_rates_do_not_ask_for_an_epoch(self, store: CounterStore) -> None:
        assert (await store.admit(ask("a", limits(requests=Rate(60, 1))))).outcome is Outcome.ADMITTED

    async def test_all_cold_windows_are_told(self, store: CounterStore) -> None:
        warm_one, *cold = charge(9), charge(9, budget="bg-b"), charge(9, budget="bg-c", window="total")
        await warm(store, warm_one)
        verdict = await store.admit(ask("a", charges=(warm_one, *cold)))
        assert (verdict.outcome, verdict.cold) == (Outcome.COLD, (f"bg-b:{MONTH}", "bg-c:total"))

    async def test_a_reservation_is_held_in_every_window_and_posted_at_the_cost(self, store: CounterStore) -> None:
        charges = charge(100), charge(1_000, budget="bg-b")
        await warm(store, *charges, posted=10)
        verdict = await store.admit(ask("a", charges=charges, cost_nano=30))
        assert (verdict.outcome, verdict.money) == (Outcome.ADMITTED, (60, 960))
        assert await money(store, *charges) == [(10, 30), (10, 30)]
        for _ in range(2):
            await store.settle([settlement(ask("a"), 12)])
            assert await money(store, *charges) == [(22, 0), (22, 0)]

    async def test_a_budget_is_spent_to_the_last_unit_and_not_beyond(self, store: CounterStore) -> None:
        wide, narrow = charge(1_000), charge(100, budget="bg-b")
        await warm(store, wide, narrow)
        assert (await store.admit(ask("a", charges=(wide, narrow), cost_nano=99))).outcome is Outcome.ADMITTED
        refused = await store.admit(ask("b", charges=(wide, narrow), cost_nano=2))
        assert (refused.outcome, refused.refused_by, refused.left) == (Outcome.BUDGET, 1, 1)
        assert refused.retry_after_us == 0
        assert refused.money == (901, 1)
        assert (await store.admit(ask("c", charges=(wide, narrow), cost_nano=1))).outcome is Outcome.ADMITTED

    async def test_a_budget_is_asked_after_the_rates(self, store: CounterStore) -> None:
        scope, charged = limits(requests=Rate(60, 1)), charge(0)
        await warm(store, charged)
        await store.admit(ask("a", scope))
        assert (await store.admit(ask("b", scope, charges=(charged,), cost_nano=1))).outcome is Outcome.REQUESTS

    async def test_a_call_that_cost_more_than_was_reserved_is_posted_whole(self, store: CounterStore) -> None:
        charged = charge(100)
        await warm(store, charged)
        await store.admit(ask("a", charges=(charged,), cost_nano=50))
        await store.settle([settlement(ask("a"), 170)])
        assert await money(store, charged) == [(170, 0)]
        refused = await store.admit(ask("b", charges=(charged,)))
        assert (refused.outcome, refused.left, refused.money) == (Outcome.BUDGET, 0, (0,))

    async def test_the_largest_budget_is_counted_to_the_last_unit(self, store: CounterStore) -> None:
        most = 9_000_000 * 10**9
        charged = charge(most)
        await warm(store, charged, posted=most - 3)
        assert (await store.admit(ask("a", charges=(charged,), cost_nano=2))).money == (1,)
        assert (await store.admit(ask("b", charges=(charged,), cost_nano=2))).outcome is Outcome.BUDGET
        await store.settle([settlement(ask("a"), 3)])
        assert await money(store, charged) == [(most, 0)]

    async def test_an_ask_repeated_reserves_once(self, store: CounterStore) -> None:
        charged = charge(100)
        await warm(store, charged)
        for _ in range(2):
            verdict = await store.admit(ask("a", charges=(charged,), cost_nano=60))
            assert (verdict.outcome, verdict.money) == (Outcome.ADMITTED, (40,))

    async def test_a_call_settled_in_doubt_is_posted_and_cannot_begin_later(self, store: CounterStore) -> None:
        charged = charge(100)
        await warm(store, charged)
        call = ask("a", charges=(charged,), cost_nano=60)
        await store.admit(call)
        await store.settle([settlement(call, 20, doubtful=True), settlement(ask("b"), doubtful=True)])
        for late in ("a", "b"):
            assert (await store.admit(ask(late, charges=(charged,), cost_nano=60))).outcome is Outcome.STALE
        assert await money(store, charged) == [(20, 0)]

    async def test_a_reservation_is_raised_once_and_never_lowered(self, store: CounterStore) -> None:
        charged = charge(100)
        await warm(store, charged)
        await store.admit(ask("a", charges=(charged,), cost_nano=10))
        for cost in (70, 70, 20):
            verdict = await store.raise_reservation(ask("a", charges=(charged,), cost_nano=cost))
            assert (verdict.outcome, verdict.money) == (Outcome.ADMITTED, (30,))
        await store.settle([settlement(ask("a"), 5)])
        assert await money(store, charged) == [(5, 0)]

    async def test_a_reservation_is_not_raised_beyond_any_window(self, store: CounterStore) -> None:
        charges = charge(1_000), charge(100, budget="bg-b")
        await warm(store, *charges)
        await store.admit(ask("a", charges=charges, cost_nano=10))
        refused = await store.raise_reservation(ask("a", charges=charges, cost_nano=101))
        assert (refused.outcome, refused.refused_by, refused.left) == (Outcome.BUDGET, 1, 90)
        assert await money(store, *charges) == [(0, 10), (0, 10)]

    async def test_a_call_that_nobody_knows_cannot_be_raised(self, store: CounterStore) -> None:
        charged = charge(100)
        await warm(store, charged)
        assert (await store.raise_reservation(ask("a", charges=(charged,), cost_nano=1))).outcome is Outcome.STALE
        assert (await store.raise_reservation(ask("a", cost_nano=1))).outcome is Outcome.ADMITTED

    async def test_many_calls_of_several_tenants_are_settled_together(self, store: CounterStore) -> None:
        charged = charge(10_000)
        calls = []
        for tenant in (TENANT, "other"):
            await store.begin(tenant, EPOCH)
            await store.seed(tenant, EPOCH, [WindowSeed(key=charged.key)], 60.0)
            calls += [ask(f"{tenant}-{n}", charges=(charged,), cost_nano=9, tenant_id=tenant) for n in range(130)]
        for call in calls:
            assert (await store.admit(call)).outcome is Outcome.ADMITTED
        await store.settle([settlement(call, 2) for call in calls[::2] + calls[1::2]])
        for tenant in (TENANT, "other"):
            states = await store.windows(tenant, [charged.key])
            assert states == {charged.key: WindowState(posted_nano=260, reserved_nano=0)}


class LeasesAndSeeds:
    async def test_a_reservation_whose_lease_ran_out_is_posted_and_corrected_later(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        charges = charge(100), charge(100, budget="bg-b", window="total")
        await warm(store, *charges)
        await store.admit(ask("a", charges=charges, cost_nano=30, lease_seconds=10))
        clock.move(9)
        assert await store.lapse(TENANT) == []
        clock.move(1)
        windows = tuple(charged.key for charged in charges)
        assert await store.lapse(TENANT) == [Lapsed(call_id="a", tenant_id=TENANT, cost_nano=30, windows=windows)]
        assert await store.lapse(TENANT) == []
        assert await money(store, *charges) == [(30, 0), (30, 0)]
        assert (await store.admit(ask("a", charges=charges, cost_nano=30))).outcome is Outcome.STALE
        clock.move(48 * HOUR - 1)
        assert await store.lapse(TENANT) == []
        for _ in range(2):
            await store.settle([settlement(ask("a"), 12)])
            assert await money(store, *charges) == [(12, 0), (12, 0)]

    async def test_a_lapsed_call_is_forgotten_after_two_days(self, store: CounterStore, clock: MovedClock) -> None:
        charged = charge(100)
        await warm(store, charged)
        await store.admit(ask("a", charges=(charged,), cost_nano=30, lease_seconds=10))
        clock.move(10)
        await store.lapse(TENANT)
        clock.move(48 * HOUR)
        await store.lapse(TENANT)
        await store.settle([settlement(ask("a"), 12)])
        assert await money(store, charged) == [(30, 0)]

    async def test_a_call_that_goes_on_does_not_lapse(self, store: CounterStore, clock: MovedClock) -> None:
        charged = charge(100)
        await warm(store, charged)
        call = ask("a", charges=(charged,), cost_nano=30, lease_seconds=10)
        await store.admit(call)
        clock.move(9)
        await store.renew(TENANT, [call])
        clock.move(9)
        assert await store.lapse(TENANT) == []
        clock.move(1)
        assert [lapsed.call_id for lapsed in await store.lapse(TENANT)] == ["a"]

    async def test_no_more_than_some_hundred_lapse_at_once_the_longest_overdue_first(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        charged = charge(10_000)
        await warm(store, charged)
        for number in range(250):
            await store.admit(ask(f"{number:03}", charges=(charged,), cost_nano=1, lease_seconds=10 + number % 2))
        clock.move(20)
        first, second = await store.lapse(TENANT), await store.lapse(TENANT)
        names = [f"{number:03}" for number in (*range(0, 250, 2), *range(1, 250, 2))]
        assert [lapsed.call_id for lapsed in (*first, *second)] == names
        assert len(first) == 200
        assert await money(store, charged) == [(250, 0)]

    async def test_only_cold_windows_are_set(self, store: CounterStore) -> None:
        charged, other = charge(100), charge(100, budget="bg-b")
        await warm(store, charged, posted=40)
        seeds = [WindowSeed(key=key, posted_nano=70, reserved={"x": 5}) for key in (charged.key, other.key)]
        await store.seed(TENANT, EPOCH, seeds, 60.0)
        assert await money(store, charged, other) == [(40, 0), (70, 5)]

    async def test_a_call_that_was_set_in_several_windows_is_one_that_settles_in_all(self, store: CounterStore) -> None:
        charges = charge(100), charge(100, budget="bg-b"), charge(100, budget="bg-c")
        await store.begin(TENANT, EPOCH)
        for charged in charges:
            await store.seed(TENANT, EPOCH, [WindowSeed(key=charged.key, reserved={"a": 5})], 60.0)
        await store.settle([settlement(ask("a"), 3)])
        assert await money(store, *charges) == [(3, 0)] * 3

    async def test_a_call_that_was_set_at_several_amounts_holds_the_most_in_all(self, store: CounterStore) -> None:
        charges = charge(100), charge(100, budget="bg-b"), charge(100, budget="bg-c")
        await store.begin(TENANT, EPOCH)
        for charged, amount in zip(charges, (5, 9, 2), strict=True):
            await store.seed(TENANT, EPOCH, [WindowSeed(key=charged.key, reserved={"a": amount})], 60.0)
        assert await money(store, *charges) == [(0, 9)] * 3
        await store.settle([settlement(ask("a"), 0)])
        assert await money(store, *charges) == [(0, 0)] * 3

    async def test_a_call_that_was_set_is_admitted_when_asked_again_and_lapses_like_any(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        charged = charge(100)
        await store.begin(TENANT, EPOCH)
        await store.seed(TENANT, EPOCH, [WindowSeed(key=charged.key, posted_nano=1, reserved={"a": 5})], 30.0)
        assert (await store.admit(ask("a", charges=(charged,), cost_nano=5, again=True))).money == (94,)
        clock.move(30)
        assert [lapsed.call_id for lapsed in await store.lapse(TENANT)] == ["a"]
        assert await money(store, charged) == [(6, 0)]

    async def test_a_call_that_lapsed_and_was_set_again_elsewhere_is_corrected_in_all(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        charges = charge(100), charge(100, budget="bg-b")
        await warm(store, charges[0])
        await store.admit(ask("a", charges=charges[:1], cost_nano=30, lease_seconds=10))
        clock.move(10)
        await store.lapse(TENANT)
        await store.seed(TENANT, EPOCH, [WindowSeed(key=charges[1].key, reserved={"a": 30})], 10.0)
        clock.move(10)
        assert [lapsed.windows for lapsed in await store.lapse(TENANT)] == [(charges[1].key,)]
        await store.settle([settlement(ask("a"), 4)])
        assert await money(store, *charges) == [(4, 0), (4, 0)]

    async def test_what_is_posted_is_corrected_where_it_is_still_what_was_seen(self, store: CounterStore) -> None:
        charged, other = charge(100), charge(100, budget="bg-b")
        await warm(store, charged, other, posted=40)
        corrections = {charged.key: (40, 33), other.key: (39, 1), "bg-c:total": (0, 5)}
        await store.repost(TENANT, EPOCH, corrections)
        assert await money(store, charged, other) == [(33, 0), (40, 0)]
        assert await store.windows(TENANT, ["bg-c:total"]) == {}

    async def test_windows_that_are_long_over_are_forgotten_and_the_one_of_all_time_is_not(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        month, ever = charge(100), charge(100, budget="bg-b", window="total")
        held = charge(100, budget="bg-c")
        await warm(store, month, ever, held, posted=4)
        await store.admit(ask("a", charges=(held,), cost_nano=1, lease_seconds=50 * DAY))
        clock.move(40 * DAY)
        await store.lapse(TENANT)
        known = await store.windows(TENANT, [month.key, ever.key, held.key])
        assert set(known) == {ever.key, held.key}
        await store.settle([settlement(ask("a"), 1)])
        clock.move(DAY - 1)
        await store.lapse(TENANT)
        assert held.key in await store.windows(TENANT, [held.key])
        clock.move(1)
        await store.lapse(TENANT)
        assert set(await store.windows(TENANT, [month.key, ever.key, held.key])) == {ever.key}

    async def test_a_late_correction_does_not_begin_a_window_that_is_forgotten(
        self, store: CounterStore, clock: MovedClock
    ) -> None:
        charged = charge(100)
        await warm(store, charged, posted=4)
        clock.move(40 * DAY - 60)
        await store.admit(ask("a", charges=(charged,), cost_nano=3, lease_seconds=10))
        clock.move(10)
        assert [lapsed.call_id for lapsed in await store.lapse(TENANT)] == ["a"]
        clock.move(50)
        await store.lapse(TENANT)
        await store.settle([settlement(ask("a"), 1)])
        assert await store.windows(TENANT, [charged.key]) == {}


class CounterStoreContract(RatesAndSlots, Budgets, LeasesAndSeeds):
    """All of it."""
