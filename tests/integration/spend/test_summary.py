"""Sums of days by what they are grouped by."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from hx_gateway.errors import InvalidRequest
from tests.integration.spend.samples import TODAY, Asker, Rows

SUMMARY = "/v1/spend/summary"


async def test_groups_come_the_dearest_first_with_the_sums_of_all(asker: Asker, rows: Rows) -> None:
    await rows.day(key_id="cheap", cost_nano=1)
    await rows.day(key_id="dear", cost_nano=2_500_000_000, errors=3)
    await rows.day(key_id="dear", model="other", cost_nano=500_000_000)
    told = await asker.ask(SUMMARY)
    answer = told.json()
    assert [(item["key_id"], item["requests"], item["errors"]) for item in answer["items"]] == [
        ("dear", 20, 4),
        ("cheap", 10, 1),
    ]
    assert b'"totals":{"cost_usd":3.000000001,' in told.body
    assert answer["totals"]["prompt_tokens"] == 3_000
    assert answer["truncated"] is False


@pytest.mark.parametrize(
    ("group", "column"),
    [("key", "key_id"), ("team", "team_id"), ("user", "user_id"), ("tenant", "tenant_id"), ("model", "model")],
)
async def test_each_group_is_named_by_its_column(asker: Asker, rows: Rows, group: str, column: str) -> None:
    for name in ("one", "two"):
        columns: dict[str, Any] = {column: name}
        await rows.day(**columns)
    items = (await asker.ask(SUMMARY, group_by=group)).json()["items"]
    assert {item[column] for item in items} == {"one", "two"}


async def test_what_a_call_did_not_have_is_null(asker: Asker, rows: Rows) -> None:
    await rows.day(team_id="")
    assert (await asker.ask(SUMMARY, group_by="team")).json()["items"][0]["team_id"] is None


async def test_two_groups_make_a_row_of_each_pair(asker: Asker, rows: Rows) -> None:
    yesterday = TODAY - timedelta(days=1)
    for day in (TODAY, yesterday):
        for model in ("a", "b"):
            await rows.day(day, model=model)
    items = (await asker.ask(SUMMARY, group_by="day,model")).json()["items"]
    assert [(item["day"], item["model"]) for item in items] == [
        (str(yesterday), "a"),
        (str(yesterday), "b"),
        (str(TODAY), "a"),
        (str(TODAY), "b"),
    ]


async def test_both_days_of_the_window_are_inside(asker: Asker, rows: Rows) -> None:
    for ago in range(4):
        await rows.day(TODAY - timedelta(days=ago))
    window: dict[str, Any] = {"start": str(TODAY - timedelta(days=2)), "end": str(TODAY - timedelta(days=1))}
    answer = (await asker.ask(SUMMARY, group_by="day", **window)).json()
    assert sorted(item["day"] for item in answer["items"]) == [window["start"], window["end"]]
    assert answer["window"] == window


async def test_without_a_window_it_is_thirty_days(asker: Asker, rows: Rows) -> None:
    for ago in (29, 30):
        await rows.day(TODAY - timedelta(days=ago))
    assert (await asker.ask(SUMMARY)).json()["totals"]["requests"] == 10


async def test_filters_leave_out_what_is_not_asked_for(asker: Asker, rows: Rows) -> None:
    await rows.day(model="a", team_id="tm-1")
    await rows.day(model="b", team_id="tm-1")
    await rows.day(model="a", tenant_id="other")
    assert (await asker.ask(SUMMARY, model="a", tenant_id="acme")).json()["totals"]["requests"] == 10
    assert (await asker.ask(SUMMARY, team_id="tm-1")).json()["totals"]["requests"] == 20


async def test_a_cut_says_so_and_its_totals_are_of_all(asker: Asker, rows: Rows) -> None:
    for number in range(3):
        await rows.day(key_id=f"k{number}")
    answer = (await asker.ask(SUMMARY, limit="2")).json()
    assert (len(answer["items"]), answer["truncated"], answer["totals"]["requests"]) == (2, True, 30)


async def test_nothing_sums_up_to_nothing(asker: Asker) -> None:
    answer = (await asker.ask(SUMMARY)).json()
    assert answer["items"] == []
    assert set(answer["totals"].values()) == {0}


async def test_single_calls_are_not_read(asker: Asker, rows: Rows, connection: asyncpg.Connection[object]) -> None:
    await rows.day()
    async with connection.transaction():
        await connection.execute("LOCK TABLE hx_gateway.spend_logs IN ACCESS EXCLUSIVE MODE")
        assert (await asker.ask(SUMMARY)).json()["totals"]["requests"] == 10


async def test_sums_as_csv_have_a_header_and_no_formulas(asker: Asker, rows: Rows) -> None:
    await rows.day(model="=cmd()")
    told = await asker.ask(SUMMARY, group_by="model,day", format="csv")
    assert told.csv() == [
        ["model", "day", "cost_usd", "requests", "errors", "prompt_tokens", "completion_tokens"],
        ["'=cmd()", str(TODAY), "1", "10", "1", "1000", "100"],
    ]
    assert told.headers["x-hx-truncated"] == "false"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"group_by": "colour"}, "group_by"),
        ({"group_by": "key,key"}, "group_by"),
        ({"group_by": "key,team,user"}, "group_by"),
        ({"start": "2026-11-24T00:00:00Z"}, "start"),
        ({"start": "2026-11-24", "end": "2026-11-23"}, "start"),
        ({"end": "0001-01-01"}, "end"),
        ({"limit": "10001"}, "limit"),
        ({"format": "jsonl"}, "format"),
        ({"status": "429"}, "status"),
    ],
)
async def test_what_breaks_a_rule_is_named(asker: Asker, query: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await asker.ask(SUMMARY, **query)
    assert refused.value.param == named
