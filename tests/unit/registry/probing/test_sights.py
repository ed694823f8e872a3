"""How long a sight of a service is good for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hx_gateway.registry.probing.rules import Rules
from hx_gateway.registry.probing.sights import is_stale, unseen_from

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
RULES = Rules(interval=10, slowest=60, reach_seconds=1, ready_seconds=1)


def stale(seconds: float, *, was: bool = False, frozen: bool = False) -> bool:
    return is_stale(unseen_from(NOON, RULES), now=NOON + timedelta(seconds=seconds), was=was, frozen=frozen)


@pytest.mark.parametrize("was", [False, True])
def test_a_sight_is_good_for_three_intervals(was: bool) -> None:
    assert [stale(seconds, was=was) for seconds in (0, 30, 30.1, 3600)] == [False, False, True, True]
    assert unseen_from(NOON, RULES) == NOON + timedelta(seconds=30)


def test_a_heartbeat_is_good_for_as_long_as_it_says() -> None:
    assert unseen_from(NOON, RULES, NOON + timedelta(seconds=90)) == NOON + timedelta(seconds=90)
    assert unseen_from(NOON, RULES, NOON + timedelta(seconds=5)) == NOON + timedelta(seconds=30)


def test_one_that_was_never_seen_is_no_news() -> None:
    assert not is_stale(None, now=NOON, was=False, frozen=False)
    assert unseen_from(None, RULES) is None


def test_while_frozen_none_becomes_stale_and_one_that_is_seen_again_is_not() -> None:
    assert not stale(60, frozen=True)
    assert stale(60, was=True, frozen=True)
    assert not stale(0, was=True, frozen=True)
