"""Why a call was refused, or where it went and what it cost."""

from __future__ import annotations

import pytest

from hx_gateway.errors import NotFound
from tests.integration.spend.samples import Asker, Rows

LOOKED_AT = """{"mode": "enforce", "outcome": "budget",
 "limits": [{"kind": "key", "id": "k-1", "rpm": 60, "requests_left": 59}],
 "budgets": [{"id": "bg-1", "limit_nano": 1000000000, "asked_nano": 500000000, "left_nano": 1}],
 "refused": {"by": "budget", "id": "bg-1", "left_nano": 1}}"""


async def test_a_refusal_says_what_was_looked_at_and_what_refused(asker: Asker, rows: Rows) -> None:
    await rows.error("req_1", decision=LOOKED_AT)
    told = await asker.ask("/v1/decisions/req_1")
    (call,) = told.json()["calls"]
    assert (call["outcome"], call["status"], call["error_code"]) == ("refused", 429, "insufficient_quota")
    assert call["message"] == "The budget has no room."
    assert call["decision"]["limits"][0]["requests_left"] == 59
    assert call["decision"]["budgets"] == [{"id": "bg-1", "limit_usd": 1, "asked_usd": 0.5, "left_usd": 1e-09}]
    assert call["decision"]["refused"] == {"by": "budget", "id": "bg-1", "left_usd": 1e-09}
    assert b'"left_usd":0.000000001' in told.body


async def test_a_call_says_where_it_went_and_what_it_cost(asker: Asker, rows: Rows) -> None:
    await rows.log("req_1", attempts=3, cache="miss", charges=["bg-1:2026-11"], requested_model="fast")
    await rows.route("req_1")
    answer = (await asker.ask("/v1/decisions/req_1")).json()
    (call,) = answer["calls"]
    assert (call["outcome"], call["retries"], call["cache"]) == ("complete", 2, "miss")
    assert (call["requested_model"], call["model"], call["upstream"]) == ("fast", "gpt", "gpt#1")
    assert call["cost"] == {
        "cost_usd": 0.00035,
        "reserved_usd": 0.001,
        "settled_by": "done",
        "charged_to": ["bg-1:2026-11"],
    }
    assert call["price"] == {
        "source": "listed",
        "version": "1",
        "input_usd_per_million": 2.5,
        "output_usd_per_million": 10,
    }
    (choice,) = answer["routing"]
    assert (choice["selected"], choice["alternatives"], choice["strategy"]) == ("gpt#1", ["gpt#2"], "first_listed")


async def test_a_call_that_failed_is_one_call_with_its_message(asker: Asker, rows: Rows) -> None:
    call_id = await rows.log("req_1", status=502, error_code="upstream_error", ending="error")
    await rows.error("req_1", call_id=call_id, status=502, code="upstream_error", message="It failed.", ending="error")
    (call,) = (await asker.ask("/v1/decisions/req_1")).json()["calls"]
    assert (call["outcome"], call["message"]) == ("failed", "It failed.")


async def test_a_failure_whose_spend_is_not_recorded_is_no_refusal(asker: Asker, rows: Rows) -> None:
    await rows.error("req_1", ending="error", status=502)
    assert (await asker.ask("/v1/decisions/req_1")).json()["calls"][0]["outcome"] == "failed"


async def test_a_call_without_a_known_price_has_none(asker: Asker, rows: Rows) -> None:
    await rows.log("req_1", price_source=None, price_version=None, input_pico=None, output_pico=None)
    assert (await asker.ask("/v1/decisions/req_1")).json()["calls"][0]["price"] is None


async def test_calls_that_share_an_id_are_all_told_the_newest_first(asker: Asker, rows: Rows) -> None:
    await rows.log("req_1", ago=30, model="second")
    await rows.error("req_1", ago=10, model="third")
    await rows.log("req_1", ago=50, model="first", tenant_id="other")
    calls = (await asker.ask("/v1/decisions/req_1")).json()["calls"]
    assert [call["model"] for call in calls] == ["third", "second", "first"]
    calls = (await asker.ask("/v1/decisions/req_1", tenant_id="other")).json()["calls"]
    assert [call["model"] for call in calls] == ["first"]


@pytest.mark.parametrize("name", ["req_0", "x" * 200, "a\x00b"])
async def test_what_nobody_knows_is_not_found(asker: Asker, name: str) -> None:
    with pytest.raises(NotFound) as unknown:
        await asker.ask(f"/v1/decisions/{name}")
    assert unknown.value.code == "decision_not_found"
