"""Keys of a LiteLLM database in our terms: they may do what they did, or less."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from hx_gateway.access.imports import ImportedBudget, ImportedKey, UnreadableKey, read_litellm_keys
from hx_gateway.allowances import Period

TEXT = "sk-made-up-0123456789abcd"
TOKEN = hashlib.sha256(TEXT.encode()).hexdigest()


def read(**row: Any) -> ImportedKey:
    (key,) = read_litellm_keys([{"token": TOKEN, **row}])
    return key


def test_a_whole_row_is_taken_over() -> None:
    key = read(
        key_alias="billing",
        key_name="sk-...abcd",
        spend=1.5,
        expires=datetime(2030, 1, 2, 3),  # noqa: DTZ001 - as the column has it
        models=["gpt-4o", "openai/*"],
        aliases={"fast": "gpt-4o-mini"},
        max_budget=12.5,
        budget_duration="30d",
        tpm_limit=1000,
        rpm_limit=60,
        max_parallel_requests=4,
        blocked=True,
        metadata={"tags": ["blue"], "owner": "a"},
        team_id="team-1",
        user_id="user-1",
    )
    assert key == ImportedKey(
        sha256=hashlib.sha256(TEXT.encode()).digest(),
        name="billing",
        last_four="abcd",
        models=("gpt-4o", "openai/*"),
        aliases={"fast": "gpt-4o-mini"},
        limits={"rpm": 60, "tpm": 1000, "max_parallel": 4},
        budgets=(ImportedBudget(limit_nano=12_500_000_000, period=Period.MONTH),),
        expires_at=datetime(2030, 1, 2, 3, tzinfo=UTC),
        blocked=True,
        metadata={"owner": "a"},
        tags=("blue",),
        source_team="team-1",
        source_user="user-1",
    )


def test_a_row_of_nothing_but_a_token_is_a_key_without_limits() -> None:
    key = read(models=[], metadata=None, blocked=None, expires=None, allowed_routes=[])
    assert (key.models, key.limits, key.budgets, key.expires_at, key.allowed_routes) == (None, {}, (), None, None)
    assert key.name == "imported"


def test_a_key_that_was_stored_as_it_is_becomes_its_digest() -> None:
    assert read(token=TEXT).sha256 == hashlib.sha256(TEXT.encode()).digest()


@pytest.mark.parametrize(
    ("duration", "period", "warned"),
    [
        (None, Period.TOTAL, False),
        ("1d", Period.DAY, False),
        ("24h", Period.DAY, False),
        ("30s", Period.DAY, True),
        ("7d", Period.WEEK, False),
        ("1w", Period.WEEK, False),
        ("2d", Period.WEEK, True),
        ("30d", Period.MONTH, False),
        ("1mo", Period.MONTH, False),
        ("14d", Period.MONTH, True),
        ("90d", Period.TOTAL, True),
    ],
)
def test_a_budgets_time_never_becomes_shorter(duration: str | None, period: Period, warned: bool) -> None:
    key = read(max_budget=1, budget_duration=duration)
    assert key.budgets[0].period is period
    assert bool(key.warnings) is warned


def test_a_budget_of_many_decimals_is_cut_and_one_of_nothing_stays() -> None:
    assert read(max_budget=0.1 + 0.2).budgets[0].limit_nano == 300_000_000
    assert read(max_budget=0).budgets[0].limit_nano == 0


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (["all-proxy-models"], None),
        (["all-team-models", "gpt-4o"], None),
        (["no-default-models"], ()),
        (["no-default-models", "gpt-4o"], ("gpt-4o",)),
        (["odd[1]"], ("odd[[]1]",)),
    ],
)
def test_words_that_stand_for_models_keep_their_meaning(models: list[str], expected: tuple[str, ...] | None) -> None:
    assert read(models=models).models == expected


def test_routes_are_those_of_ours_and_unknown_groups_allow_nothing() -> None:
    key = read(allowed_routes=["/chat/completions", "/v1/embeddings", "management_routes"])
    assert key.allowed_routes == ("/chat/completions", "/v1/chat/completions", "/v1/embeddings")
    assert len(key.warnings) == 1
    assert read(allowed_routes=["management_routes"]).allowed_routes == ()
    assert read(allowed_routes=["llm_api_routes"]).allowed_routes == ("/v1/*",)


@pytest.mark.parametrize(
    "expires",
    ["2030-01-02T03:00:00", "2030-01-02 03:00:00+00:00", datetime(2030, 1, 2, 5, tzinfo=timezone(timedelta(hours=2)))],
)
def test_a_moment_without_a_zone_is_utc(expires: object) -> None:
    assert read(expires=expires).expires_at == datetime(2030, 1, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"token": None}, "token is missing"),
        ({"token": "abc"}, "neither"),
        ({"models": "gpt-4o"}, "models is not a list"),
        ({"rpm_limit": -1}, "rpm_limit"),
        ({"rpm_limit": True}, "rpm_limit"),
        ({"max_budget": -1}, "max_budget"),
        ({"max_budget": float("nan")}, "max_budget"),
        ({"max_budget": 1e30}, "max_budget"),
        ({"max_budget": 1, "budget_duration": "soon"}, "budget_duration"),
        ({"expires": "soon"}, "expires"),
        ({"metadata": [1]}, "metadata is no object"),
    ],
)
def test_a_row_that_makes_no_key_is_named(row: dict[str, Any], words: str) -> None:
    rows = [{"token": TOKEN}, {"token": TOKEN, "key_alias": "odd one", **row}]
    with pytest.raises(UnreadableKey, match=rf"row 2 \('odd one'\): .*{words}") as caught:
        read_litellm_keys(rows)
    assert TOKEN not in str(caught.value)
