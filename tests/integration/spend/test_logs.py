"""Lists of calls: what filters find, how pages go on, and what a file of them holds."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from hx_gateway.errors import InvalidRequest, Unavailable
from hx_gateway.services.base import DependencyError
from hx_gateway.spend.repository import QueryTooSlow
from tests.integration.spend.samples import NOW, Asker, Rows

LOGS = "/v1/spend/logs"
ERRORS = "/v1/spend/errors"


async def test_a_call_is_listed_with_its_money_in_dollars_and_its_times_in_utc(asker: Asker, rows: Rows) -> None:
    call_id = await rows.log("req_1", cost_nano=1, tags=["a"])
    told = await asker.ask(LOGS)
    assert b'"cost_usd":0.000000001' in told.body
    (item,) = told.json()["items"]
    assert item["call_id"] == str(call_id)
    assert item["reserved_usd"] == 0.001
    assert (item["input_usd_per_million"], item["output_usd_per_million"]) == (2.5, 10)
    assert item["admitted_at"] == f"{NOW - timedelta(seconds=60):%Y-%m-%dT%H:%M:%SZ}"
    assert item["tags"] == ["a"]
    assert not any(name.endswith(("_nano", "_pico")) for name in item)


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("key_id", "k-2", "k-3"),
        ("team_id", "tm-2", None),
        ("user_id", "us-2", None),
        ("model", "claude", "gpt"),
        ("settled_by", "lapsed", "done"),
    ],
)
async def test_a_filter_finds_its_calls_alone(
    asker: Asker, rows: Rows, name: str, value: str, other: str | None
) -> None:
    wanted: dict[str, Any] = {name: value}
    await rows.log("wanted", **wanted)
    await rows.log("other", **{**wanted, name: other})
    assert await asker.ids(LOGS, **wanted) == ["wanted"]


async def test_calls_are_found_by_tag_request_and_tenant(asker: Asker, rows: Rows) -> None:
    await rows.log("wanted", tags=["red", "blue"], tenant_id="other")
    await rows.log("another", tags=["green"])
    assert await asker.ids(LOGS, tag="blue") == ["wanted"]
    assert await asker.ids(LOGS, request_id="wanted") == ["wanted"]
    assert await asker.ids(LOGS, tenant_id="other") == ["wanted"]


async def test_a_status_or_a_class_of_them_is_found(asker: Asker, rows: Rows) -> None:
    for status in (200, 400, 429, 500):
        await rows.log(f"s{status}", status=status, ago=status)
    assert await asker.ids(LOGS, status="429") == ["s429"]
    assert await asker.ids(LOGS, status="4xx") == ["s400", "s429"]


async def test_the_window_has_its_start_and_not_its_end(asker: Asker, rows: Rows) -> None:
    for ago in (100, 200, 300):
        await rows.log(f"a{ago}", ago=ago)
    start, end = (NOW - timedelta(seconds=ago) for ago in (300, 100))
    assert await asker.ids(LOGS, start=start.isoformat(), end=end.isoformat()) == ["a200", "a300"]


async def test_without_a_start_the_last_day_is_looked_at(asker: Asker, rows: Rows) -> None:
    await rows.log("today", ago=3_600)
    await rows.log("long ago", ago=25 * 3_600)
    assert await asker.ids(LOGS) == ["today"]


async def test_pages_have_every_call_once_the_newest_first(asker: Asker, rows: Rows) -> None:
    for number in range(7):
        await rows.log(f"r{number}", ago=100 if number < 4 else 50)
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = (await asker.ask(LOGS, limit="3", **cursor)).json()
        seen += [item["request_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(seen) == [f"r{number}" for number in range(7)]
    assert set(seen[:3]) == {"r4", "r5", "r6"}


async def test_the_window_that_the_first_page_chose_stays(asker: Asker, rows: Rows) -> None:
    for number in range(3):
        await rows.log(f"r{number}", ago=100 + number)
    first = (await asker.ask(LOGS, limit="1")).json()
    second = (await asker.ask(LOGS, limit="1", cursor=first["next_cursor"])).json()
    assert second["window"]["start"] == first["window"]["start"]


async def test_a_cursor_of_another_query_is_refused(asker: Asker, rows: Rows) -> None:
    for number in range(2):
        await rows.log(f"r{number}")
    cursor = (await asker.ask(LOGS, limit="1")).json()["next_cursor"]
    with pytest.raises(InvalidRequest, match="other filters"):
        await asker.ask(LOGS, cursor=cursor, model="gpt")


async def test_a_csv_file_has_the_whole_window_and_a_header(asker: Asker, rows: Rows) -> None:
    for number in range(1_003):
        await rows.log(f"r{number}", ago=number)
    told = await asker.ask(LOGS, format="csv")
    header, *lines = told.csv()
    assert told.headers["content-type"].startswith("text/csv")
    assert len(lines) == 1_003
    first = dict(zip(header, lines[0], strict=True))
    assert (first["request_id"], first["cost_usd"], first["stream"]) == ("r0", "0.00035", "false")


async def test_a_csv_file_of_nothing_has_its_header(asker: Asker) -> None:
    (header,) = (await asker.ask(LOGS, format="csv")).csv()
    assert {"request_id", "cost_usd", "model"} <= set(header)


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
async def test_a_spreadsheet_calculates_with_no_text_of_a_client(asker: Asker, rows: Rows, evil: str) -> None:
    await rows.log("r1", requested_model=evil, tags=[evil])
    header, line = (await asker.ask(LOGS, format="csv")).csv()
    cells = dict(zip(header, line, strict=True))
    assert cells["requested_model"] == f"'{evil}"
    assert cells["tags"] == f"'{evil}"


async def test_json_lines_hold_a_call_a_line(asker: Asker, rows: Rows) -> None:
    for number in range(3):
        await rows.log(f"r{number}", ago=number)
    told = await asker.ask(LOGS, format="jsonl")
    lines = [msgspec.json.decode(line) for line in told.body.splitlines()]
    assert [line["request_id"] for line in lines] == ["r0", "r1", "r2"]
    assert lines[0]["cost_usd"] == 0.00035


async def test_errors_are_listed_by_their_code(asker: Asker, rows: Rows) -> None:
    await rows.error("refused")
    await rows.error("failed", code="upstream_error", status=502, ending="error")
    assert await asker.ids(ERRORS, code="insufficient_quota") == ["refused"]
    assert await asker.ids(ERRORS, status="5xx") == ["failed"]
    header, *lines = (await asker.ask(ERRORS, format="csv")).csv()
    assert len(lines) == 2
    assert "message" in header


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"start": "yesterday"}, "start"),
        ({"start": "2026-11-24T12:00:00"}, "start"),
        ({"start": "2026-11-24T12:00:00Z", "end": "2026-11-23T12:00:00Z"}, "start"),
        ({"end": "0001-01-01T00:00:00Z"}, "end"),
        ({"status": "600"}, "status"),
        ({"status": "4x"}, "status"),
        ({"settled_by": "me"}, "settled_by"),
        ({"format": "xml"}, "format"),
        ({"format": "csv", "limit": "10"}, "limit"),
        ({"format": "jsonl", "cursor": "x"}, "cursor"),
        ({"cursor": "x"}, "cursor"),
        ({"cursor": "A" * 48}, "cursor"),
        ({"model": "%00"}, "model"),
        ({"model": ""}, "model"),
    ],
)
async def test_what_breaks_a_rule_is_named(asker: Asker, query: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await asker.ask(LOGS, **query)
    assert refused.value.param == named


async def test_before_the_migration_nothing_is_known(asker: Asker, connection: asyncpg.Connection[object]) -> None:
    await connection.execute("ALTER TABLE hx_gateway.spend_logs RENAME TO gone")
    try:
        with pytest.raises(Unavailable, match="not there yet"):
            await asker.ask(LOGS)
    finally:
        await connection.execute("ALTER TABLE hx_gateway.gone RENAME TO spend_logs")


async def test_a_query_that_takes_too_long_is_no_lost_database(
    asker: Asker, rows: Rows, connection: asyncpg.Connection[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hx_gateway.spend.repository.STATEMENT_TIMEOUT_SECONDS", 0.05)
    async with connection.transaction():
        await connection.execute("LOCK TABLE hx_gateway.spend_logs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(QueryTooSlow):
            await asker.ask(LOGS)
    assert await asker.ids(LOGS) == []


async def test_a_database_that_hangs_is_given_up(
    asker: Asker, connection: asyncpg.Connection[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hx_gateway.spend.repository.QUERY_SECONDS", 0.1)
    async with connection.transaction():
        await connection.execute("LOCK TABLE hx_gateway.spend_logs IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DependencyError):
            await asker.ask(LOGS)
