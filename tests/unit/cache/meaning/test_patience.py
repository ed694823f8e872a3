"""Whether it is worth waiting."""

from __future__ import annotations

from hx_gateway.cache.meaning.patience import FAILURES, REST_SECONDS, Patience


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def worn_out() -> tuple[Patience, Time]:
    time = Time()
    patience = Patience(time)
    for _ in range(FAILURES):
        assert patience.allows()
        patience.failed()
    return patience, time


def test_it_is_lost_after_failures_in_a_row_and_one_try_follows_each_rest() -> None:
    patience, time = worn_out()
    assert not patience.allows()
    time.now += REST_SECONDS
    assert patience.allows()
    assert not patience.allows()
    patience.failed()
    time.now += REST_SECONDS / 2
    assert not patience.allows()
    time.now += REST_SECONDS / 2
    assert patience.allows()
    patience.succeeded()
    assert patience.allows()
    assert patience.allows()


def test_failures_with_successes_between_them_never_wear_it_out() -> None:
    patience = Patience(Time())
    for number in range(100):
        assert patience.allows()
        patience.failed()
        if number % (FAILURES - 1) == 0:
            patience.succeeded()
