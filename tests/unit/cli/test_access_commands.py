"""What the commands over keys, teams, users and tenants ask of a gateway, and what they print."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from hx_gateway.admin.answers import KEY_EXAMPLE, TEAM_EXAMPLE, TENANT_EXAMPLE, USER_EXAMPLE
from hx_gateway.cli import access_requests, cache, keys, teams, tenants, users

EXAMPLES = {"keys": KEY_EXAMPLE, "teams": TEAM_EXAMPLE, "users": USER_EXAMPLE, "tenants": TENANT_EXAMPLE}
APPS: dict[str, Typer] = {"keys": keys.app, "teams": teams.app, "users": users.app, "tenants": tenants.app}
SECRET = "made up, shown once"


class FakeGateway:
    """Answers with examples, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any, Any]] = []
        self.pages = 1

    async def ask(self, method: str, path: str, parameters: Any = None, body: Any = None) -> Any:
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        self.asked.append((method, path, given, body))
        parts = path.split("/")
        example = EXAMPLES[parts[2]]
        if "members" in parts:
            return {"data": [{"user_id": "us-a", "role": "admin", "name": "Ada", "email": None}]}
        if method == "GET" and len(parts) == 3:
            self.pages -= 1
            return {"data": [example] * given["limit"], "next_cursor": "next" if self.pages else None}
        return {**example, "key": SECRET} if method == "POST" else example


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> FakeGateway:
    fake = FakeGateway()

    def run(_url: str, _key: str | None, work: Callable[[Any], Awaitable[Any]]) -> Any:
        step = work(fake).__await__()
        try:
            next(step)
        except StopIteration as done:
            return done.value
        raise AssertionError("the fake never waits")

    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(access_requests, "run_with", run)
    monkeypatch.setattr(teams, "run_with", run)
    monkeypatch.setattr(cache, "run_with", run)
    return fake


def told(kind: str, *arguments: str) -> Result:
    """Return what a command that works prints."""
    result = CliRunner().invoke(APPS[kind], list(arguments))
    assert result.exit_code == 0, result.output
    return result


def test_a_key_is_made_with_everything_it_was_given(gateway: FakeGateway) -> None:
    options = (
        "--team tm-a --user us-a --model gpt-4o* --model hx-* --rpm 60 --tpm 100000 --budget 10/day --expires 30d"
        " --alias fast=gpt-4o-mini --tag production --scope models --route /v1/chat/*"
    )
    told("keys", "create", "Checkout", *options.split())
    assert gateway.asked == [
        (
            "POST",
            "/v1/keys",
            {},
            {
                "name": "Checkout",
                "team_id": "tm-a",
                "user_id": "us-a",
                "models": ["gpt-4o*", "hx-*"],
                "limits": {"rpm": 60, "tpm": 100_000},
                "budgets": [{"limit_usd": "10", "period": "day"}],
                "aliases": {"fast": "gpt-4o-mini"},
                "tags": ["production"],
                "scopes": ["models"],
                "allowed_routes": ["/v1/chat/*"],
                "expires_in": 2_592_000,
            },
        )
    ]


@pytest.mark.parametrize("command", [["create", "Checkout"], ["rotate", "madeUpKeyId1", "--grace", "1h"]])
def test_a_secret_stands_alone_where_a_script_reads_it(gateway: FakeGateway, command: list[str]) -> None:
    result = told("keys", *command, "--url", "http://gateway.test/")
    assert result.stdout == f"{SECRET}\n"
    assert "not shown again" in result.stderr
    assert "http://gateway.test/v1" in result.stderr


def test_a_rotation_says_how_long_the_former_secret_works(gateway: FakeGateway) -> None:
    told("keys", "rotate", "k", "--grace", "1h")
    assert gateway.asked == [("POST", "/v1/keys/k/rotate", {}, {"grace_seconds": 3600})]


@pytest.mark.parametrize("kind", sorted(APPS))
def test_a_list_is_a_table(gateway: FakeGateway, kind: str) -> None:
    printed = told(kind, "list", "--limit", "1").output
    assert EXAMPLES[kind]["id"] in printed
    assert "$12.35 of $100/month" in printed
    assert "60 rpm, 100k tpm" in printed
    assert "active" in printed


@pytest.mark.parametrize("kind", sorted(APPS))
def test_a_list_is_json_for_programs(gateway: FakeGateway, kind: str) -> None:
    lines = told(kind, "list", "--limit", "2", "--json").output.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [EXAMPLES[kind]["id"]] * 2


def test_a_long_list_is_many_pages_and_says_that_there_are_more(gateway: FakeGateway) -> None:
    gateway.pages = 3
    printed = told("keys", "list", "--limit", "250", "--team", "tm-a", "--not-blocked").output
    assert [given["limit"] for _, _, given, _ in gateway.asked] == [200, 50]
    assert [given.get("cursor") for _, _, given, _ in gateway.asked] == [None, "next"]
    assert gateway.asked[0][2] | {"limit": 0} == {
        "team_id": "tm-a", "blocked": "false", "sort": "-created_at", "limit": 0
    }  # fmt: skip
    assert "250; there are more" in printed


@pytest.mark.parametrize("kind", sorted(APPS))
def test_one_object_is_shown_with_everything(gateway: FakeGateway, kind: str) -> None:
    printed = told(kind, "show", "one").output
    assert "made up" in printed
    assert json.loads(told(kind, "show", "one", "--json").output)["id"] == EXAMPLES[kind]["id"]


@pytest.mark.parametrize("kind", sorted(APPS))
def test_limits_that_are_not_named_stay(gateway: FakeGateway, kind: str) -> None:
    told(kind, "update", "one", "--rpm", "5", "--name", "B")
    method, path, _, body = gateway.asked[-1]
    assert (method, path) == ("PATCH", f"/v1/{kind}/one")
    assert body == {"name": "B", "limits": {"rpm": 5, "tpm": 100_000}}


@pytest.mark.parametrize("kind", sorted(APPS))
def test_limits_and_budgets_are_taken_away(gateway: FakeGateway, kind: str) -> None:
    told(kind, "update", "one", "--no-limits", "--parallel", "2", "--no-budgets", "--any-model")
    assert gateway.asked[-1][3] == {"limits": {"max_parallel": 2}, "budgets": [], "models": None}


@pytest.mark.parametrize("kind", sorted(APPS))
def test_a_change_of_nothing_is_refused_here(gateway: FakeGateway, kind: str) -> None:
    result = CliRunner().invoke(APPS[kind], ["update", "one"])
    assert result.exit_code == 1
    assert gateway.asked == []


@pytest.mark.parametrize("kind", sorted(APPS))
def test_an_object_is_deleted_and_restored(gateway: FakeGateway, kind: str) -> None:
    assert f"hx-gateway {kind} restore" in told(kind, "delete", "a/b").output
    told(kind, "restore", "a/b")
    assert [asked[:2] for asked in gateway.asked] == [
        ("DELETE", f"/v1/{kind}/a%2Fb"),
        ("POST", f"/v1/{kind}/a%2Fb/restore"),
    ]


@pytest.mark.parametrize("kind", sorted(APPS))
@pytest.mark.parametrize("action", ["block", "unblock"])
def test_an_object_is_blocked_and_let_in_again(gateway: FakeGateway, kind: str, action: str) -> None:
    told(kind, action, "one")
    expected: tuple[str, str, Any, Any] = ("POST", f"/v1/keys/one/{action}", {}, None)
    if kind != "keys":
        expected = ("PATCH", f"/v1/{kind}/one", {}, {"blocked": action == "block"})
    assert gateway.asked == [expected]


def test_members_of_a_team(gateway: FakeGateway) -> None:
    assert "us-a" in told("teams", "members", "list", "tm-a").output
    told("teams", "members", "set", "tm-a", "us-a", "--role", "admin")
    told("teams", "members", "remove", "tm-a", "us-a")
    assert gateway.asked == [
        ("GET", "/v1/teams/tm-a/members", {}, None),
        ("PUT", "/v1/teams/tm-a/members/us-a", {}, {"role": "admin"}),
        ("DELETE", "/v1/teams/tm-a/members/us-a", {}, None),
    ]


def test_tenants_and_users_have_fields_of_their_own(gateway: FakeGateway) -> None:
    told("tenants", "create", "Acme", "--id", "acme", "--time-zone", "Europe/Berlin", "--budget", "gpt-4o=5/day")
    told("users", "create", "Ada", "--email", "ada@example.org", "--role", "tenant_admin", "--tenant", "acme")
    assert [asked[3] for asked in gateway.asked] == [
        {
            "name": "Acme",
            "id": "acme",
            "time_zone": "Europe/Berlin",
            "budgets": [{"limit_usd": "5", "period": "day", "model": "gpt-4o"}],
        },
        {"name": "Ada", "email": "ada@example.org", "role": "tenant_admin", "tenant_id": "acme"},
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--cache exact", {"mode": "exact"}),
        ("--cache ask --cache-ttl 10m --cache-scope team", {"mode": "ask", "ttl_seconds": 600, "scope": "team"}),
        ("--cache-ttl 90s", {"ttl_seconds": 90}),
        ("--cache default", None),
    ],
)
def test_a_key_is_told_how_to_use_the_cache(gateway: FakeGateway, options: str, said: object) -> None:
    told("keys", "create", "Checkout", *options.split())
    told("keys", "update", "k1", *options.split())
    assert [body["cache"] for _, _, _, body in gateway.asked] == [said, said]


def test_a_purge_says_what_was_forgotten(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def purged(*asked: Any) -> dict[str, Any]:
        gateway.asked.append((*asked, None))
        return {"tenant_id": "acme", "purged": 3}

    monkeypatch.setattr(gateway, "ask", purged)
    done = CliRunner().invoke(cache.app, ["purge", "--tenant", "acme", "--of-key", "k1"])
    assert (done.exit_code, done.output) == (0, "3 answers of tenant acme are forgotten\n")
    assert gateway.asked[0][:3] == ("DELETE", "/v1/cache", {"tenant_id": "acme", "key_id": "k1", "model": None})
