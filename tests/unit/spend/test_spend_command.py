"""``hx-gateway spend`` over a gateway made up: what it asks, and what a person reads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli import spend
from hx_gateway.cli.client import Parameters

LOG = {
    "admitted_at": "2026-11-24T12:00:00Z",
    "request_id": "req_1",
    "model": "gpt\u001b[31m",
    "key_id": "k-1",
    "prompt_tokens": 1200,
    "completion_tokens": 30,
    "usage_source": "estimate",
    "cost_usd": 1e-06,
    "settled_by": "done",
    "status": 200,
    "error_code": None,
    "duration_ms": 12.6,
}
WINDOW = {"start": "2026-11-23T12:00:00Z", "end": None}
GROUP = {"cost_usd": 3.0, "requests": 40, "errors": 1, "prompt_tokens": 1000, "completion_tokens": 10}
CALL = {
    "at": "2026-11-24T12:00:00Z",
    "outcome": "refused",
    "status": 429,
    "error_code": "insufficient_quota",
    "message": "The budget has no room.",
    "requested_model": "fast",
    "model": "gpt",
    "upstream": None,
    "decision": {"mode": "enforce", "budgets": [{"id": "bg-1", "left_usd": 0.5}], "refused": {"by": "budget"}},
}
PRICE = {"source": "override", "version": "v1", "input_usd_per_million": 2.5, "output_usd_per_million": 10}


@dataclass
class Gateway:
    """Answers the same to everything, and remembers what it was asked."""

    answer: Any = None
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    bodies: list[object] = field(default_factory=list)

    async def ask(self, method: str, path: str, parameters: Parameters | None = None, body: object = None) -> Any:
        self._note(method, path, parameters)
        self.bodies.append(body)
        return self.answer

    async def stream(self, path: str, parameters: Parameters | None = None) -> AsyncIterator[bytes]:
        self._note("GET", path, parameters)
        yield b"request_id\r\n"
        yield b"req_1\r\n"

    def _note(self, method: str, path: str, parameters: Parameters | None) -> None:
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        self.asked.append((method, path, given))


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    import asyncio

    made = Gateway()

    def run(_url: str, _key: str | None, work: Callable[[Gateway], Awaitable[Any]]) -> Any:
        async def working() -> Any:
            return await work(made)

        return asyncio.run(working())

    monkeypatch.setattr(spend, "run_with", run)
    monkeypatch.setenv("COLUMNS", "200")
    return made


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(spend.app, arguments)
    assert result.exit_code == code, result.output
    return result


def test_calls_are_a_table_that_no_name_of_a_client_can_paint(gateway: Gateway) -> None:
    gateway.answer = {"items": [LOG], "next_cursor": "x", "window": WINDOW}
    text = run("logs", "--key-id", "k-1", "--status", "4xx", "--limit", "5").output
    assert gateway.asked == [("GET", "/v1/spend/logs", {"key_id": "k-1", "status": "4xx", "limit": 5})]
    assert "0.000001" in text
    assert "~30" in text
    assert "\u001b" not in text
    assert "1 since 2026-11-23T12:00:00Z; there are more" in text


def test_json_is_what_the_gateway_said(gateway: Gateway) -> None:
    gateway.answer = {"items": [LOG], "next_cursor": None, "window": WINDOW}
    assert json.loads(run("logs", "--json").output) == gateway.answer


def test_a_csv_file_is_there_whole(gateway: Gateway, tmp_path: Path) -> None:
    out = tmp_path / "spend.csv"
    run("logs", "--since", "2026-11-01T00:00:00+00:00", "--csv", str(out))
    query = {"start": "2026-11-01T00:00:00+00:00", "format": "csv"}
    assert gateway.asked == [("GET", "/v1/spend/logs", query)]
    assert out.read_bytes() == b"request_id\r\nreq_1\r\n"
    assert [path.name for path in tmp_path.iterdir()] == ["spend.csv"]


def test_a_file_that_cannot_be_written_is_told(gateway: Gateway, tmp_path: Path) -> None:
    run("summary", "--csv", str(tmp_path / "nowhere" / "x.csv"), code=1)


def test_errors_have_their_message(gateway: Gateway) -> None:
    item = {
        "at": "2026-11-24T12:00:00Z",
        "code": "insufficient_quota",
        "message": "No room.",
        **dict.fromkeys(("status", "model", "key_id", "request_id")),
    }
    gateway.answer = {"items": [item], "next_cursor": None, "window": WINDOW}
    text = run("errors", "--code", "insufficient_quota").output
    assert gateway.asked[0][2] == {"code": "insufficient_quota", "limit": 50}
    assert "No room." in text


def test_sums_have_shares_and_a_last_line_with_all(gateway: Gateway) -> None:
    items = [{"team_id": "tm-1", "model": "gpt", **GROUP}, {"team_id": None, "model": "gpt", **GROUP, "cost_usd": 1.0}]
    totals = {**GROUP, "cost_usd": 4.0, "requests": 80}
    window = {"start": "2026-11-01", "end": "2026-11-30"}
    gateway.answer = {"items": items, "totals": totals, "truncated": False, "window": window}
    text = run("summary", "--by", "team,model").output
    assert gateway.asked == [("GET", "/v1/spend/summary", {"group_by": "team,model"})]
    assert "75%" in text
    assert "none" in text
    assert text.splitlines()[-2].split()[:3] == ["all", "4.0", "80"]


def test_sums_of_nothing_are_a_table_too(gateway: Gateway) -> None:
    totals = {**dict.fromkeys(GROUP, 0)}
    gateway.answer = {"items": [], "totals": totals, "truncated": False, "window": {"start": "a", "end": "b"}}
    assert "0 groups" in run("summary").output


def test_a_decision_is_a_tree_with_what_refused(gateway: Gateway) -> None:
    gateway.answer = {"request_id": "req_1", "calls": [CALL], "routing": []}
    text = run("decision", "req_1").output
    assert gateway.asked == [("GET", "/v1/decisions/req_1", {})]
    for said in (
        "refused",
        "insufficient_quota",
        "The budget has no room.",
        "asked for fast",
        "bg-1",
        "budgets looked at",
    ):
        assert said in text


def test_a_call_that_cost_something_says_how_much(gateway: Gateway) -> None:
    spent = {
        **CALL,
        "outcome": "complete",
        "error_code": None,
        "message": None,
        "retries": 1,
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "usage_source": "provider"},
        "cost": {"cost_usd": 1e-05, "reserved_usd": 0.5},
        "price": PRICE,
        "decision": {},
    }
    routing = [{"selected": "gpt#1", "alternatives": ["gpt#2"]}]
    gateway.answer = {"request_id": "req_1", "calls": [spent], "routing": routing}
    text = run("decision", "req_1").output
    for said in (
        "cost $0.00001 of $0.5 reserved",
        "1 retries",
        "$2.5 in, $10 out",
        "routed to gpt#1  instead of gpt#2",
    ):
        assert said in text


def test_an_estimate_has_a_bound(gateway: Gateway) -> None:
    part = {"prompt_tokens": 1000, "completion_tokens": 10, "cost_usd": 0.002}
    gateway.answer = {"model": "gpt", "price": PRICE, "expected": part, "upper_bound": {**part, "cost_usd": 0.004}}
    text = run("estimate", "gpt", "--prompt", "Hello", "--max-tokens", "10").output
    assert gateway.bodies == [{"model": "gpt", "prompt": "Hello", "max_tokens": 10}]
    assert "at most" in text
    assert "0.004" in text


def test_prices_are_listed_set_and_taken_back(gateway: Gateway) -> None:
    shown = {"model": "openai/gpt", **PRICE, "cached_input_usd_per_million": None, "updated_by": "admin"}
    gateway.answer = {"items": [shown]}
    assert "openai/gpt" in run("prices").output
    gateway.answer = shown
    assert "override" in run("prices", "openai/gpt", "--input", "2.5", "--output", "10").output
    assert gateway.bodies[-1] == {"input_usd_per_million": "2.5", "output_usd_per_million": "10"}
    run("prices", "openai/gpt", "--delete")
    assert [(method, path) for method, path, _ in gateway.asked] == [
        ("GET", "/v1/prices"),
        ("PUT", "/v1/prices/openai/gpt"),
        ("DELETE", "/v1/prices/openai/gpt"),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("prices", "--input", "1"),
        ("prices", "--delete"),
        ("prices", "gpt", "--input", "1", "--delete"),
        ("logs", "--since", "soon"),
    ],
)
def test_what_makes_no_sense_is_not_asked(gateway: Gateway, arguments: tuple[str, ...]) -> None:
    run(*arguments, code=1)
    assert gateway.asked == []
