"""Whoever tries keys is slowed down; a table of fixed size remembers who."""

from __future__ import annotations

import pytest

from hx_gateway.access.throttle import FailureThrottle, TooManyFailures
from tests.unit.access.keys import FakeClock


def fail(throttle: FailureThrottle, address: str, times: int) -> int:
    """Return how many of the failures were one too many."""
    refused = 0
    for _ in range(times):
        try:
            throttle.failed(address)
        except TooManyFailures:
            refused += 1
    return refused


def test_the_hundred_and_first_failure_in_a_minute_is_told_to_wait() -> None:
    clock = FakeClock()
    throttle = FailureThrottle(monotonic=clock.monotonic)
    assert fail(throttle, "203.0.113.7", 100) == 0
    clock.seconds += 20.5
    with pytest.raises(TooManyFailures) as caught:
        throttle.failed("203.0.113.7")
    assert (caught.value.status, caught.value.code) == (429, "too_many_failures")
    assert caught.value.headers == {"retry-after": "40"}


def test_another_address_is_not_concerned() -> None:
    throttle = FailureThrottle(monotonic=FakeClock().monotonic)
    fail(throttle, "203.0.113.7", 200)
    assert fail(throttle, "203.0.113.8", 1) == 0


def test_after_a_minute_it_starts_over() -> None:
    clock = FakeClock()
    throttle = FailureThrottle(monotonic=clock.monotonic)
    fail(throttle, "203.0.113.7", 101)
    clock.seconds += 60
    assert fail(throttle, "203.0.113.7", 100) == 0


def test_addresses_of_one_network_of_version_6_count_together() -> None:
    throttle = FailureThrottle(max_failures=2, monotonic=FakeClock().monotonic)
    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3"]
    assert [fail(throttle, address, 1) for address in addresses] == [0, 0, 1]
    assert fail(throttle, "2001:db8:0:1::1", 1) == 0


def test_an_address_of_version_4_is_the_same_in_the_clothes_of_version_6() -> None:
    throttle = FailureThrottle(max_failures=1, monotonic=FakeClock().monotonic)
    assert [fail(throttle, address, 1) for address in ("203.0.113.7", "::ffff:203.0.113.7")] == [0, 1]


def test_a_million_addresses_take_the_room_of_ten_thousand() -> None:
    throttle = FailureThrottle(max_addresses=100, monotonic=FakeClock().monotonic)
    for number in range(10_000):
        throttle.failed(f"address-{number}")
    assert len(throttle) == 100
