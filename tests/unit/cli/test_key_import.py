"""What ``keys import`` asks of a gateway, and what it says where the gateway refuses."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli import key_import, keys
from hx_gateway.cli.client import Refused
from hx_gateway.cli.start import fail

TEXT = "sk-made-up-0123456789abcd"
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()


class FakeGateway:
    """Makes keys, unless ``refusals`` has an answer for one's name or for blocking it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.refusals: dict[str, str] = {}

    async def ask(self, method: str, path: str, parameters: Any = None, body: Any = None) -> Any:
        assert (method, parameters) == ("POST", None)
        self.asked.append((path, body))
        refusal = self.refusals.get(body["name"] if body else path.rpartition("/")[2])
        if refusal:
            raise Refused(refusal)
        return {"id": f"id{len(self.asked)}"}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> FakeGateway:
    fake = FakeGateway()

    def run(_url: str, _key: str | None, work: Callable[[Any], Awaitable[Any]]) -> Any:
        async def done() -> Any:
            return await work(fake)

        try:
            return asyncio.run(done())
        except Refused as refused:
            fail(str(refused), code=1)

    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(key_import, "run_with", run)
    return fake


def take(tmp_path: Path, *rows: Mapping[str, Any], options: tuple[str, ...] = ()) -> Result:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"token": TEXT, **row} for row in rows]))
    result = CliRunner().invoke(keys.app, ["import", "litellm", "--file", str(file), *options])
    assert TEXT not in result.output
    assert SHA256 not in result.output
    return result


def test_a_key_is_asked_for_with_what_it_may_do(gateway: FakeGateway, tmp_path: Path) -> None:
    row = {
        "key_alias": "billing",
        "key_name": "sk-...abcd",
        "models": ["gpt-4o", "gpt-4o"],
        "aliases": '{"fast": "gpt-4o-mini"}',
        "metadata": {"tags": ["blue", "blue"]},
        "allowed_routes": ["/v1/chat/*"],
        "rpm_limit": 60,
        "max_budget": 0.000000001,
        "team_id": "old",
        "user_id": "u-1",
        "expires": "2030-01-02T03:04:05",
    }
    result = take(tmp_path, row, options=("--tenant", "acme", "--team-map", "old=tm-new"))
    assert result.exit_code == 0, result.output
    assert gateway.asked == [
        (
            "/v1/keys",
            {
                "name": "billing",
                "imported_sha256": SHA256,
                "last_four": "abcd",
                "aliases": {"fast": "gpt-4o-mini"},
                "limits": {"rpm": 60},
                "budgets": [{"limit_usd": "0.000000001", "period": "total"}],
                "metadata": {"litellm_user_id": "u-1"},
                "tags": ["blue"],
                "tenant_id": "acme",
                "team_id": "tm-new",
                "models": ["gpt-4o"],
                "allowed_routes": ["/v1/chat/*"],
                "expires_at": "2030-01-02T03:04:05+00:00",
            },
        )
    ]
    assert "1 new, 0 there already, 0 refused" in result.stdout


def test_a_blocked_key_is_blocked_when_it_is_there(gateway: FakeGateway, tmp_path: Path) -> None:
    assert take(tmp_path, {"blocked": True}).exit_code == 0
    assert [path for path, _ in gateway.asked] == ["/v1/keys", "/v1/keys/id1/block"]


def test_a_key_that_could_not_be_blocked_is_an_error_with_its_id(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.refusals["block"] = "503: PostgreSQL is away"
    result = take(tmp_path, {"blocked": True})
    assert result.exit_code == 1
    assert "id1" in result.stdout
    assert "NOT blocked" in result.stdout
    assert "0 new, 0 there already, 1 refused" in result.stdout


def test_a_row_that_is_refused_does_not_keep_the_others(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.refusals |= {"bad": "422: tags.0: too long", "known": "409: taken over already"}
    result = take(tmp_path, *({"key_alias": name} for name in ("bad", "known", "fine")))
    assert result.exit_code == 1
    assert "422: tags.0: too long" in result.stdout
    assert "1 new, 1 there already, 1 refused" in result.stdout


@pytest.mark.parametrize("refusal", ["401: wrong key", "403: no right", "503: PostgreSQL is away"])
def test_what_all_rows_would_be_refused_for_ends_it(gateway: FakeGateway, tmp_path: Path, refusal: str) -> None:
    gateway.refusals["second"] = refusal
    result = take(tmp_path, *({"key_alias": name} for name in ("first", "second", "third")))
    assert result.exit_code == 1
    assert f"row 2 ('second'): {refusal} Taken over before it: 1." in result.stderr
    assert len(gateway.asked) == 2


def test_a_key_ends_within_ten_years_and_one_that_has_ended_stays(gateway: FakeGateway, tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(minutes=1)
    result = take(tmp_path, {"expires": "2999-01-01"}, {"expires": past.isoformat()}, options=("--json",))
    told = json.loads(result.stdout)
    assert told["counts"]["new"] == told["counts"]["left_out"] == 1
    assert "within ten years" in told["keys"][0]["warnings"][0]
    assert f"{past:%Y-%m-%d}" in told["keys"][1]["reason"]
    ((_, body),) = gateway.asked
    assert datetime.fromisoformat(body["expires_at"]) < datetime.now(UTC) + key_import.LONGEST


@pytest.mark.parametrize(
    "row", [{"budget_id": "b"}, {"model_max_budget": '{"m": 1}'}, {"metadata": {"model_rpm_limit": {"m": 1}}}]
)
def test_what_held_a_key_there_only_is_told(gateway: FakeGateway, tmp_path: Path, row: dict[str, Any]) -> None:
    (warning,) = json.loads(take(tmp_path, row, options=("--json",)).stdout)["keys"][0]["warnings"]
    assert "not taken over" in warning


def test_a_dry_run_asks_nobody(gateway: FakeGateway, tmp_path: Path) -> None:
    result = take(tmp_path, {"key_alias": "billing\x1b[31m"}, options=("--dry-run",))
    assert "1 to take over, 0 left out; nothing was changed" in result.stdout
    assert "\x1b" not in result.stdout
    assert gateway.asked == []
