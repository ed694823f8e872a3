"""Waits between tries: they grow, stay below a limit, and are cut by chance."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.kit.backoff import Backoff, Jitter

NEARLY_ONE = math.nextafter(1.0, 0.0)


def waits(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


def test_the_longest_wait_doubles_up_to_the_limit_and_stays_there() -> None:
    backoff = Backoff(first=1.0, most=10.0, draw=lambda: NEARLY_ONE)
    assert waits(backoff, 6) == pytest.approx([1.0, 2.0, 4.0, 8.0, 10.0, 10.0])


def test_equal_jitter_waits_for_half_of_the_longest_wait_at_least() -> None:
    assert waits(Backoff(first=1.0, most=10.0, jitter="equal", draw=lambda: 0.0), 5) == [0.5, 1.0, 2.0, 4.0, 5.0]


def test_full_jitter_may_not_wait_at_all() -> None:
    backoff = Backoff(first=1.0, most=10.0, jitter="full", draw=iter([0.0, 0.25, 0.5]).__next__)
    assert waits(backoff, 3) == [0.0, 0.5, 2.0]


def test_without_arguments_the_first_wait_is_a_tenth_of_a_second_and_the_longest_thirty() -> None:
    backoff = Backoff(draw=lambda: 0.0)
    assert backoff.next() == pytest.approx(0.05)
    assert waits(backoff, 20)[-1] == pytest.approx(15.0)


def test_each_wait_is_drawn_anew() -> None:
    backoff = Backoff(first=1.0, most=1.0)
    assert len(set(waits(backoff, 100))) > 50


def test_reset_starts_over() -> None:
    backoff = Backoff(first=1.0, most=10.0, draw=lambda: 0.0)
    before = waits(backoff, 5)
    backoff.reset()
    assert waits(backoff, 5) == before


def test_a_factor_of_one_keeps_the_wait() -> None:
    assert waits(Backoff(first=2.0, factor=1.0, draw=lambda: 0.0), 3) == [1.0, 1.0, 1.0]


def test_ten_thousand_failures_do_not_overflow() -> None:
    assert waits(Backoff(factor=1e300, draw=lambda: NEARLY_ONE), 10_000)[-1] == pytest.approx(30.0)


@given(
    first=st.floats(1e-6, 100),
    ratio=st.floats(1, 1e6),
    factor=st.floats(1, 10),
    jitter=st.sampled_from(["full", "equal"]),
)
def test_a_wait_is_never_above_the_limit_nor_below_its_share_of_the_first(
    first: float, ratio: float, factor: float, jitter: Jitter
) -> None:
    most = first * ratio
    backoff = Backoff(first=first, most=most, factor=factor, jitter=jitter)
    least = first / 2 if jitter == "equal" else 0.0
    assert all(least <= wait <= most for wait in waits(backoff, 50))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("first", value) for value in (0.0, -1.0, math.nan, math.inf)),
        *(("most", value) for value in (0.05, 0.0, math.nan, math.inf)),
        *(("factor", value) for value in (0.5, -2.0, math.nan, math.inf)),
        ("jitter", "some"),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name} must be"):
        Backoff(**arguments)
