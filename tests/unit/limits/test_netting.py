"""Netting: what a batch of records comes to."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.limits.netting import DayKey, DaySums, Postings, error_row, lost, moment, net, spend_row, window_of
from hx_gateway.limits.records import CallFacts, CallRecord, Done, Refused, Sent, call_id_of

STREAM = str(UUID(int=9))
ADMITTED_US = 1_764_028_799_000_000  # 2025-11-24 23:59:59 UTC


def facts_of(number: int, amount: int = 100, charges: tuple[str, ...] = ("bg-1:total",)) -> CallFacts:
    call_id = str(UUID(int=number))
    return CallFacts(
        call_id, STREAM, "req", "acme", "key", None, "us", "chat", "alias", "gpt", False, ADMITTED_US, amount, charges
    )


def sent(number: int, amount: int = 100, deployment: str | None = None) -> Sent:
    return Sent(facts_of(number, amount), deployment)


def done(number: int, cost_nano: int = 40, **changes: Any) -> Done:
    return Done(facts_of(number), 200, "complete", cost_nano, **changes)


def refused(number: int) -> Refused:
    call_id = str(UUID(int=number))
    return Refused(call_id, "req", "acme", "key", None, None, "chat", "alias", None, 429, "code", "No.", ADMITTED_US)


def test_a_whole_call_leaves_its_end_alone() -> None:
    effect = net([sent(1), sent(1), done(1)])
    assert (effect.holds, effect.spends, effect.refusals) == ((), (done(1),), ())
    assert effect.ended == (facts_of(1).call_id,)
    assert effect.windows == {"bg-1:total": "acme"}


def test_a_refused_call_leaves_its_refusal_alone() -> None:
    effect = net([sent(1), refused(1)])
    assert (effect.holds, effect.spends, effect.refusals) == ((), (), (refused(1),))
    assert effect.ended == (facts_of(1).call_id,)


def test_a_call_under_way_holds_its_largest_amount_and_its_last_deployment() -> None:
    (hold,) = net([sent(1, 100, "first"), sent(1, 300, "second"), sent(1, 200, "third")]).holds
    assert (hold.amount_nano, hold.sent.upstream) == (300, "third")


def test_an_estimate_gives_way_and_a_second_end_does_not_count() -> None:
    estimate = done(1, 100, settled_by="unknown")
    assert net([estimate, done(1, 40), done(1, 50)]).spends == (done(1, 40),)
    assert net([done(1, 40), estimate]).spends == (done(1, 40),)


RECORDS = st.lists(
    st.integers(1, 4).flatmap(lambda number: st.sampled_from([sent(number), done(number), refused(number)]))
)


@given(RECORDS)
def test_a_call_is_under_way_or_over_and_none_is_forgotten(records: list[CallRecord]) -> None:
    effect = net(records)
    held, ended = {hold.sent.facts.call_id for hold in effect.holds}, set(effect.ended)
    assert held.isdisjoint(ended)
    assert held | ended == {call_id_of(record) for record in records}
    assert {item.facts.call_id for item in effect.spends} | {item.call_id for item in effect.refusals} == ended


def test_spend_is_summed_by_the_utc_day_a_call_was_admitted_on() -> None:
    postings = Postings()
    postings.add(spend_row(done(1, 40, prompt_tokens=3, completion_tokens=5)))
    postings.add(spend_row(done(2, 2)))
    assert postings.windows == {"bg-1:total": 42}
    assert postings.days == {DayKey("acme", date(2025, 11, 24), "key", "", "us", "gpt"): DaySums(2, 0, 3, 5, 42)}


def test_what_is_taken_back_leaves_nothing() -> None:
    postings, row = Postings(), spend_row(done(1))
    postings.add(row)
    postings.add(row, -1)
    assert set(postings.windows.values()) == {0}
    assert not any(sums.any() for sums in postings.days.values())


def test_a_lost_call_is_charged_what_was_reserved_by_then() -> None:
    row = spend_row(lost(Sent(facts_of(1), "deployment", "openai"), 300))
    assert (row.cost_nano, row.reserved_nano, row.settled_by, row.upstream) == (
        300,
        300,
        "unknown",
        "deployment",
    )


@pytest.mark.parametrize("duration", [float("nan"), float("inf"), -1.0, 1e300])
def test_numbers_that_no_row_holds_are_brought_to_what_one_does(duration: float) -> None:
    row = spend_row(done(1, -1, prompt_tokens=2**63 - 1))
    assert (row.cost_nano, row.prompt_tokens) == (0, 2**53)
    assert 0 <= spend_row(done(1, duration_ms=duration)).duration_ms <= 1e12
    assert error_row(done(1, duration_ms=duration))["at"] >= moment(ADMITTED_US)


def test_the_error_of_a_call_is_dated_to_its_end() -> None:
    assert error_row(done(1, duration_ms=1500.0))["at"] == datetime(2025, 11, 25, 0, 0, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize("key", ["", ":", "bg-1", "bg-1:", ":total"])
def test_a_key_that_names_no_window_raises_value_error(key: str) -> None:
    with pytest.raises(ValueError, match="names no window"):
        window_of(key)
