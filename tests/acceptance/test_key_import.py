"""``hx-gateway keys import litellm``: clients of a LiteLLM database go on with the keys they have."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.main import app
from tests.acceptance.people import People, living, somewhere
from tests.fixtures.servers import Servers

# What is asked of the databases does not depend on their version.
pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="module")

TEXTS = {name: f"sk-made-up-key-of-{name}-0123456789" for name in ("billing", "blocked", "search", "old", "spare")}
QUESTION = {"role": "user", "content": "Return exactly the text: HX-OK"}
TABLE = """
CREATE TABLE "LiteLLM_VerificationToken" (
    token text PRIMARY KEY, key_name text, key_alias text, spend double precision NOT NULL DEFAULT 0,
    expires timestamp(3), models text[], aliases jsonb NOT NULL DEFAULT '{}', config jsonb NOT NULL DEFAULT '{}',
    user_id text, team_id text, permissions jsonb NOT NULL DEFAULT '{}', max_parallel_requests integer,
    metadata jsonb NOT NULL DEFAULT '{}', blocked boolean, tpm_limit bigint, rpm_limit bigint,
    max_budget double precision, budget_duration text, allowed_routes text[], budget_id text,
    model_max_budget jsonb NOT NULL DEFAULT '{}'
)
"""
INSERT = """
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, expires, models, metadata, team_id, user_id,
    blocked, rpm_limit, max_budget, budget_duration, budget_id)
VALUES ($1, $2, $3, $4::text::timestamp, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
# expires, models, metadata, team_id, user_id, blocked, rpm_limit, max_budget, budget_duration, budget_id
ROWS: dict[str, tuple[Any, ...]] = {
    "billing": (None, ["hx-*"], '{"tags": ["blue"], "owner": "a"}', "t-1", "u-1", None, 2, 5.5, "30d", None),
    "blocked": (None, [], "{}", None, None, True, None, None, None, "b-1"),
    "search": ("2036-01-02T03:04:05", [], "{}", "t-2", None, False, None, None, None, None),
    "old": ("2020-01-02T03:04:05", [], "{}", None, None, None, None, None, None, None),
}


@dataclass
class Move:
    """A gateway, and the database that its keys come from."""

    people: People
    own: str
    source: str
    team: str

    def run(self, *arguments: str) -> Result:
        words = ["keys", "import", "litellm", *arguments, "--url", self.people.gateway.url]
        return CliRunner().invoke(app, [*words, "--key", self.people.gateway.key], env={"COLUMNS": "300"})

    def sql(self, statement: str, *values: object) -> list[asyncpg.Record]:
        return asyncio.run(fetch(self.own, statement, *values))

    def call(self, key: str) -> Any:
        body = {"model": "hx-chat", "messages": [QUESTION]}
        return self.people.ask("POST", "/v1/chat/completions", body, key=key, headers=somewhere())


async def fetch(url: str, statement: str, *values: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


def sha256(name: str) -> str:
    return hashlib.sha256(TEXTS[name].encode()).hexdigest()


def no_hash_in(said: str) -> bool:
    return not any(sha256(name) in said or TEXTS[name] in said for name in TEXTS)


@pytest.fixture(scope="module")
def move(servers: Servers) -> Iterator[Move]:
    own = servers.postgres.url
    with living(servers) as people:
        asyncio.run(fetch(own, "CREATE DATABASE litellm"))
        source = urlunsplit(urlsplit(own)._replace(path="/litellm"))
        asyncio.run(fetch(source, TABLE))
        for name, row in ROWS.items():
            asyncio.run(fetch(source, INSERT, sha256(name), f"sk-...{TEXTS[name][-4:]}", name, *row))
        yield Move(people, own, f"{source}?schema=public&connection_limit=5", people.made("teams")["id"])


@pytest.fixture(scope="module")
def moved(move: Move) -> dict[str, dict[str, Any]]:
    """Take the keys over; return what was said of each."""
    planned = move.run("--from-url", move.source, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "3 to take over, 1 left out; nothing was changed" in planned.output
    assert move.sql("SELECT FROM hx_gateway.api_keys WHERE imported_sha256 IS NOT NULL") == []
    result = move.run("--from-url", move.source, "--team-map", f"t-2={move.team}", "--json")
    assert result.exit_code == 0, result.output
    assert no_hash_in(planned.output + result.output)
    told = json.loads(result.stdout)
    assert told["counts"] == {"new": 3, "there_already": 0, "refused": 0, "left_out": 1, "planned": 0}
    return {key["name"]: key for key in told["keys"]}


def test_keys_are_taken_over_with_what_they_may_do(move: Move, moved: dict[str, dict[str, Any]]) -> None:
    billing = move.people.done("GET", f"/v1/keys/{moved['billing']['id']}")
    assert (billing["models"], billing["limits"], billing["tags"]) == (["hx-*"], {"rpm": 2}, ["blue"])
    assert [(one["limit_usd"], one["period"]) for one in billing["budgets"]] == [(5.5, "month")]
    assert billing["metadata"] == {"owner": "a", "litellm_team_id": "t-1", "litellm_user_id": "u-1"}
    assert (billing["prefix"], billing["last_four"], billing["team_id"]) == ("sk-", "6789", None)
    search = move.people.done("GET", f"/v1/keys/{moved['search']['id']}")
    assert (search["team_id"], search["metadata"]) == (move.team, {})
    assert search["expires_at"] == "2036-01-02T03:04:05Z"
    assert move.people.done("GET", f"/v1/keys/{moved['blocked']['id']}")["blocked"] is True


def test_what_does_not_hold_any_more_is_told(moved: dict[str, dict[str, Any]]) -> None:
    assert [warning for warning in moved["billing"]["warnings"] if "'t-1'" in warning]
    assert moved["blocked"]["warnings"] == ["its budget of LiteLLM's own table is not taken over"]
    assert (moved["search"]["warnings"], moved["old"]["reason"]) == ([], "expired on 2020-01-02")


def test_taking_them_over_again_changes_nothing_and_says_so(move: Move, moved: dict[str, dict[str, Any]]) -> None:
    count = "SELECT count(*) FROM hx_gateway.audit_log"
    before = move.sql(count)
    again = move.run("--from-url", move.source)
    assert again.exit_code == 0, again.output
    assert "0 new, 3 there already, 0 refused, 1 left out; nothing was changed" in again.output
    assert move.sql(count) == before


def test_a_client_goes_on_with_its_key_and_within_its_limit(move: Move, moved: dict[str, dict[str, Any]]) -> None:
    assert move.call(TEXTS["billing"]).status == 200
    digest = "SELECT FROM hx_gateway.api_keys WHERE id = $1 AND digest IS NOT NULL AND pepper_id IS NOT NULL"
    move.people.gateway.wait_until(lambda: len(move.sql(digest, moved["billing"]["id"])) == 1, 15)
    assert move.call(TEXTS["billing"]).status == 200
    over = move.call(TEXTS["billing"])
    assert (over.status, over.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_what_is_stored_of_a_key_is_no_key(move: Move, moved: dict[str, dict[str, Any]]) -> None:
    for text in (sha256("search"), f"sk-{sha256('search')}"):
        assert move.call(text).status == 401
    assert move.call(TEXTS["search"]).status == 200
    assert move.call(sha256("search")).status == 401


def test_a_key_that_was_blocked_is_blocked(move: Move, moved: dict[str, dict[str, Any]]) -> None:
    answer = move.call(TEXTS["blocked"])
    assert (answer.status, answer.json()["error"]["code"]) == (401, "key_blocked")


def test_rows_come_from_a_file_and_those_refused_are_named(move: Move, tmp_path: Path) -> None:
    rows = [
        {"token": sha256("spare"), "key_alias": "spare", "metadata": '{"owner": "b"}', "team_id": "t-9"},
        {"token": hashlib.sha256(b"sk-other").hexdigest(), "key_alias": "too many", "metadata": {"tags": ["x" * 65]}},
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    result = move.run("--file", str(file), "--team-map", "t-none=tm-a")
    assert result.exit_code == 1, result.output
    assert "1 new, 0 there already, 1 refused" in result.stdout
    assert "422: tags.0" in result.stdout
    assert "no key is of the team 't-none'" in result.stderr
    assert no_hash_in(result.output)
    assert move.call(TEXTS["spare"]).status == 200


def test_a_key_that_is_no_platform_admins_takes_nothing_over(move: Move, tmp_path: Path) -> None:
    admin = move.people.made("keys", admin_role="tenant_admin")["key"]
    move.people.until(admin, let_in=True)
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"token": hashlib.sha256(b"sk-third").hexdigest(), "key_alias": "third"}]))
    result = CliRunner().invoke(
        app, ["keys", "import", "litellm", "--file", str(file), "--url", move.people.gateway.url, "--key", admin]
    )
    assert result.exit_code == 1
    assert "row 1 ('third'): 403" in result.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is not a list of rows"),
        ("[", "is not JSON"),
        ("[7]", "row 1 is no object"),
        ('[{"token": "sk-a"}, {"token": "gone", "key_alias": "b"}]', "row 2 ('b'): token is neither"),
        ('[{"token": "sk-a", "metadata": "{"}]', "row 1: metadata is not JSON"),
    ],
)
def test_a_file_that_makes_no_keys_says_why(move: Move, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "rows.json"
    file.write_text(content)
    result = move.run("--file", str(file))
    assert result.exit_code == 1
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --from-url"),
        (("--from-url", "mysql://127.0.0.1/x"), "must start with postgresql://"),
        (("--from-url", "postgresql://hx:made-up-word@127.0.0.1:1/x"), "127.0.0.1:1"),
    ],
)
def test_a_source_that_is_none_says_why(move: Move, arguments: tuple[str, ...], said: str) -> None:
    result = move.run(*arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "made-up-word" not in result.output


def test_a_database_of_somebody_else_is_told_from_litellms(move: Move) -> None:
    result = move.run("--from-url", move.own)
    assert result.exit_code == 1
    assert "has no table" in result.stderr


def test_the_schema_is_that_of_the_url(move: Move) -> None:
    source = move.source.partition("?")[0]
    asyncio.run(fetch(source, "CREATE SCHEMA empty"))
    assert "has no table" in move.run("--from-url", f"{source}?schema=empty").stderr
    assert "3 to take over" in move.run("--from-url", source, "--dry-run").stdout
