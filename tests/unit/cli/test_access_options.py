"""What the options of the commands over keys and teams mean."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from hx_gateway.cli.access_options import budget_of, changes_of, expiry_of, limits_of, object_of, pairs_of, seconds_of


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10/day", {"limit_usd": "10", "period": "day"}),
        ("$0.50/week", {"limit_usd": "0.50", "period": "week"}),
        ("500/month:400", {"limit_usd": "500", "soft_usd": "400", "period": "month"}),
        ("25", {"limit_usd": "25", "period": "total"}),
        ("25/total:$20", {"limit_usd": "25", "soft_usd": "20", "period": "total"}),
        ("gpt-4o=100/day", {"limit_usd": "100", "period": "day", "model": "gpt-4o"}),
        ("ns/m:tag=1/day", {"limit_usd": "1", "period": "day", "model": "ns/m:tag"}),
    ],
)
def test_a_budget_is_read_as_people_write_it(text: str, budget: dict[str, str]) -> None:
    assert budget_of(text) == budget


@pytest.mark.parametrize("text", ["", "ten", "10/year", "10/", "-1/day", "10 / day", "10/day/day"])
def test_a_budget_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        budget_of(text)
    assert "--budget" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("15m", 900), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)]
)
def test_a_span_is_so_many_seconds(text: str, seconds: int) -> None:
    assert seconds_of("--grace", text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1y", "-1d", "1.5h", "1h30m"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SystemExit):
        seconds_of("--grace", text)


def test_a_key_expires_in_a_while_at_a_moment_or_never() -> None:
    assert expiry_of(None) == {}
    assert expiry_of("never") == {"expires_at": None}
    assert expiry_of("30d") == {"expires_in": 2_592_000}
    assert expiry_of("2030-01-31T12:00:00+01:00") == {"expires_at": "2030-01-31T12:00:00+01:00"}


def test_a_moment_without_a_zone_is_of_this_machine() -> None:
    end = expiry_of("2030-01-31T12:00:00")["expires_at"]
    assert datetime.fromisoformat(end) == datetime(2030, 1, 31, 12).astimezone()


def test_only_what_was_given_is_sent() -> None:
    assert changes_of() == {}
    assert changes_of(name="A", tag=[], model=None, team_id=None) == {"name": "A"}
    assert limits_of() is None
    assert limits_of(rpm=60, parallel=4) == {"rpm": 60, "max_parallel": 4}


def test_restrictions_are_taken_away_by_name() -> None:
    assert changes_of(any_model=True, no_budgets=True) == {"models": None, "budgets": []}


@pytest.mark.parametrize("both", [{"model": ["a"], "any_model": True}, {"budget": ["1/day"], "no_budgets": True}])
def test_what_contradicts_itself_is_refused(both: dict[str, Any]) -> None:
    with pytest.raises(SystemExit):
        changes_of(**both)


def test_pairs_and_objects() -> None:
    assert pairs_of("--alias", ["fast=gpt-4o-mini", "a=b=c"]) == {"fast": "gpt-4o-mini", "a": "b=c"}
    assert pairs_of("--alias", None) is None
    assert object_of("--metadata", '{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("text", ["{", "[1]", "7"])
def test_metadata_is_an_object(text: str) -> None:
    with pytest.raises(SystemExit):
        object_of("--metadata", text)
