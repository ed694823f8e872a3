"""Money, limits and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hx_gateway.cli.tables import (
    budgets_cell,
    compact,
    dollars,
    field,
    limits_text,
    listed,
    models_cell,
    owner_cell,
    relative,
    state_of,
)

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0"), (10, "$10"), (1250.0, "$1,250"), (12.345678, "$12.35"), (0.5, "$0.50"), (0.0021, "$0.0021"),
     (0.000000001, "$0.000000001"), (9_000_000, "$9,000,000")],
)  # fmt: skip
def test_money_is_in_dollars(amount: float, text: str) -> None:
    assert dollars(amount) == text


@pytest.mark.parametrize(
    ("figure", "text"), [(1, "1"), (950, "950"), (1000, "1k"), (1500, "1.5k"), (100_000, "100k"), (2_000_000, "2M")]
)
def test_figures_are_short(figure: int, text: str) -> None:
    assert compact(figure) == text


def test_limits_are_in_one_line() -> None:
    assert limits_text({"rpm": 60, "tpm": 100_000, "max_parallel": None}) == "60 rpm, 100k tpm"
    assert limits_text({}) == ""


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-12-25T12:00:01Z", "in 30 d"),
        ("2026-11-25T17:00:00Z", "in 5 h"),
        ("2026-11-25T11:57:00Z", "3 min ago"),
        ("2026-11-25T12:00:00Z", "now"),
    ],
)
def test_times_are_told_from_now(moment: str, text: str) -> None:
    assert relative(moment, NOW) == text


@pytest.mark.parametrize(
    ("item", "state"),
    [
        ({}, "active"),
        ({"blocked": True}, "blocked"),
        ({"expires_at": "2026-11-25T11:00:00Z"}, "expired"),
        ({"expires_at": "2026-11-25T13:00:00Z"}, "active"),
        ({"deleted_at": "2026-11-25T11:00:00Z", "blocked": True}, "deleted"),
    ],
)
def test_an_object_is_active_or_says_why_not(item: dict[str, object], state: str) -> None:
    assert state_of(item, NOW) == state


def test_a_budget_shows_what_is_spent_and_turns_red() -> None:
    shown = {"limit_usd": 10, "soft_usd": 8, "period": "day", "spent_usd": 2.5}
    assert budgets_cell({"budgets": [shown]}).plain == "$2.50 of $10/day"
    styles = [budgets_cell({"budgets": [{**shown, "spent_usd": spent}]}).spans[0].style for spent in (8, 10)]
    assert styles == ["yellow", "red"]


def test_models_owners_and_long_lists() -> None:
    assert (models_cell({"models": None}).plain, models_cell({"models": []}).plain) == ("all", "none")
    assert owner_cell({"team_id": "tm-a", "user_id": "us-a", "tenant_id": "acme"}).plain == "tm-a us-a"
    assert owner_cell({"tenant_id": "acme"}).plain == "acme"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c +2"


def test_nothing_that_a_terminal_would_obey_is_printed() -> None:
    assert "\x1b" not in field("name")({"name": "a\x1b[31mb"}).plain
