"""The arithmetic of rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.allowances import MAX_PER_MINUTE, Rate
from hx_gateway.limits import gcra
from hx_gateway.limits.gcra import Take

NOW = 1_795_000_000_000_000
# Rates at which one unit is a microsecond or more.
usual = st.integers(1, 60_000_000)
rates = st.builds(Rate, st.integers(1, MAX_PER_MINUTE), st.integers(1, MAX_PER_MINUTE))


def passes(tat: int, now: int, take: Take) -> bool:
    return not take.too_large and gcra.wait_us(tat, now, take) == 0


def admitted(rate: Rate, at: list[int], units: int = 1) -> int:
    """Return how many takes at these moments pass."""
    tat = count = 0
    take = gcra.bucket_of(rate).take(units)
    for now in at:
        if passes(tat, now, take):
            tat = gcra.taken(tat, now, take)
            count += 1
    return count


@given(per_minute=st.integers(1, 3_000))
def test_a_bucket_of_n_holds_n_at_once_and_not_one_more(per_minute: int) -> None:
    assert admitted(Rate(per_minute, per_minute), [NOW] * (per_minute + 1)) == per_minute


@given(per_minute=usual, units=st.integers(1, 1_000), calls=st.integers(1, 50))
def test_a_bucket_of_exactly_some_takes_holds_them(per_minute: int, units: int, calls: int) -> None:
    assert admitted(Rate(per_minute, units * calls), [NOW] * calls, units) == calls


@given(per_minute=st.integers(1, 300), steps=st.lists(st.integers(0, 30_000_000), min_size=1, max_size=400))
def test_no_more_passes_than_the_burst_and_what_was_refilled(per_minute: int, steps: list[int]) -> None:
    moments, now = [], NOW
    for step in steps:
        now += step
        moments.append(now)
    refilled = per_minute * (moments[-1] - moments[0]) / gcra.MINUTE_US
    assert admitted(Rate(per_minute, per_minute), moments) <= per_minute + refilled + 1


@given(rate=rates, ahead=st.integers(0, 10**12), units=st.integers(0, 10**9))
def test_the_wait_is_exact_to_the_microsecond(rate: Rate, ahead: int, units: int) -> None:
    take = gcra.bucket_of(rate).take(units)
    wait = gcra.wait_us(NOW + ahead, NOW, take)
    if not take.too_large:
        assert passes(NOW + ahead, NOW + wait, take)
        assert wait == 0 or not passes(NOW + ahead, NOW + wait - 1, take)


@given(per_minute=st.integers(1, 60_000), burst=st.integers(1, 200), spent=st.integers(0, 200))
def test_what_is_left_is_what_still_passes(per_minute: int, burst: int, spent: int) -> None:
    rate = Rate(per_minute, burst)
    tat, take = 0, gcra.bucket_of(rate).take(1)
    for _ in range(min(spent, burst)):
        tat = gcra.taken(tat, NOW, take)
    left = gcra.bucket_of(rate).state(tat, NOW).left
    assert left == burst - min(spent, burst)
    for _ in range(left):
        assert passes(tat, NOW, take)
        tat = gcra.taken(tat, NOW, take)
    assert not passes(tat, NOW, take)


def test_a_bucket_that_is_full_says_so() -> None:
    state = gcra.bucket_of(Rate(60, 10)).state(NOW - 5, NOW)
    assert (state.left, state.full_in_us) == (10, 0)


def test_a_bucket_is_full_again_when_what_was_taken_is_refilled() -> None:
    tat = gcra.taken(0, NOW, gcra.bucket_of(Rate(60, 10)).take(3))
    assert gcra.bucket_of(Rate(60, 10)).state(tat, NOW).full_in_us == 3_000_000


def test_more_than_a_full_bucket_is_too_large_and_no_wait_helps() -> None:
    take = gcra.bucket_of(Rate(60, 10)).take(11)
    assert take.too_large
    assert gcra.wait_us(0, NOW, take) == 0


@pytest.mark.parametrize("rate", [Rate(0, 0), Rate(0, 5), Rate(5, 0)])
def test_a_rate_of_nothing_holds_nothing(rate: Rate) -> None:
    assert gcra.bucket_of(rate).take(1).too_large
    assert gcra.bucket_of(rate).state(0, NOW).left == 0
    assert gcra.bucket_of(Rate(0, 0)).correction_us(5) == 0


@given(rate=rates, units=st.integers(1, 10**9), more=st.integers(-(10**9), 10**9))
def test_every_number_is_exact_in_a_double(rate: Rate, units: int, more: int) -> None:
    take = gcra.bucket_of(rate).take(units)
    correction = gcra.bucket_of(rate).correction_us(more)
    numbers = [
        take.increment_us,
        take.capacity_us,
        gcra.taken(NOW, NOW, take),
        correction,
        gcra.corrected(NOW + gcra.LONGEST_US, NOW, correction),
    ]
    numbers.append(numbers[2] + take.increment_us)
    assert max(map(abs, numbers)) < 2**53


def test_what_was_not_used_comes_back_up_to_a_full_bucket() -> None:
    bucket = gcra.bucket_of(Rate(600, 600))
    tat = gcra.taken(0, NOW, bucket.take(100))
    assert bucket.state(gcra.corrected(tat, NOW, bucket.correction_us(-40)), NOW).left == 540
    assert gcra.corrected(tat, NOW, bucket.correction_us(-500)) == NOW


def test_what_was_used_beyond_the_estimate_is_a_debt_that_others_wait_for() -> None:
    bucket = gcra.bucket_of(Rate(60, 60))
    tat = gcra.corrected(gcra.taken(0, NOW, bucket.take(60)), NOW, bucket.correction_us(30))
    assert bucket.state(tat, NOW).left == 0
    assert gcra.wait_us(tat, NOW, bucket.take(1)) == 31_000_000


def test_an_excess_counts_from_now_where_the_bucket_has_been_full_for_long() -> None:
    bucket = gcra.bucket_of(Rate(60, 60))
    assert bucket.state(gcra.corrected(0, NOW, bucket.correction_us(30)), NOW).left == 30


@given(more=st.integers(0, 10**9), rate=rates)
def test_a_refund_never_gives_back_more_than_an_excess_takes(more: int, rate: Rate) -> None:
    assert -gcra.bucket_of(rate).correction_us(-more) <= gcra.bucket_of(rate).correction_us(more)


def test_a_share_has_its_part_of_the_bucket_and_of_the_refill() -> None:
    rate = Rate(60, 9)
    take = gcra.bucket_of(rate, 3).take(1)
    assert take == Take(3_000_000, 9_000_000)
    assert gcra.bucket_of(rate, 3).state(0, NOW).left == 3


def test_a_share_of_less_than_one_is_one_at_a_slower_rate() -> None:
    take = gcra.bucket_of(Rate(60, 2), 10).take(1)
    assert take == Take(10_000_000, 10_000_000)
    assert gcra.bucket_of(Rate(60, 2), 10).state(0, NOW).left == 1


def test_a_take_that_only_the_whole_bucket_holds_passes_a_full_share_and_leaves_a_debt() -> None:
    rate = Rate(1000, 1000)
    take = gcra.bucket_of(rate, 4).take(900)
    assert passes(0, NOW, take)
    assert not passes(NOW + 1, NOW, take)
    tat = gcra.taken(0, NOW, take)
    assert gcra.bucket_of(rate, 4).state(tat, NOW).left == 0
    assert gcra.bucket_of(rate, 4).take(1001).too_large
