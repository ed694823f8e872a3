"""Keys, teams, users and tenants of a running gateway: what is made works, and what is taken back does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from hx_gateway.cli import keys as key_commands
from hx_gateway.cli import teams as team_commands
from tests.acceptance.people import People, World, living, populate
from tests.acceptance.test_record_docs import run
from tests.contract.doc_pages import example, read
from tests.fixtures.servers import Servers


@pytest.fixture(scope="module")
def people(servers: Servers) -> Iterator[People]:
    with living(servers) as found:
        yield found


@pytest.fixture(scope="module")
def world(people: People) -> World:
    return populate(people)


def refused(people: People, method: str, path: str, body: object = None, **more: Any) -> tuple[int, str, str | None]:
    answer = people.ask(method, path, body, **more)
    error = answer.json()["error"]
    return answer.status, error["code"], error["param"]


# Keys


def test_a_new_key_is_let_in_and_never_shown_again(people: People) -> None:
    made = people.key()
    people.until(made["key"], let_in=True)
    assert made["key"].startswith(made["prefix"])
    assert made["key"].endswith(made["last_four"])
    shown = people.done("GET", f"/v1/keys/{made['id']}")
    assert made["key"] not in str(shown)
    assert {name: value for name, value in made.items() if name != "key"} == shown


def test_a_key_that_is_blocked_is_refused_until_it_is_unblocked(people: People) -> None:
    made = people.key()
    people.until(made["key"], let_in=True)
    assert people.done("POST", f"/v1/keys/{made['id']}/block")["blocked"] is True
    people.until(made["key"], let_in=False)
    assert refused(people, "GET", "/v1/models", key=made["key"])[:2] == (401, "key_blocked")
    assert people.done("POST", f"/v1/keys/{made['id']}/unblock")["blocked"] is False
    people.until(made["key"], let_in=True)


def test_a_key_that_is_deleted_is_refused_until_it_is_restored(people: People) -> None:
    made = people.key()
    people.until(made["key"], let_in=True)
    assert people.done("DELETE", f"/v1/keys/{made['id']}")["deleted_at"] is not None
    people.until(made["key"], let_in=False)
    assert refused(people, "GET", "/v1/models", key=made["key"])[:2] == (401, "key_revoked")
    assert refused(people, "GET", f"/v1/keys/{made['id']}")[:2] == (404, "not_found")
    assert made["id"] not in {key["id"] for key in people.done("GET", "/v1/keys?limit=200")["data"]}
    assert people.done("POST", f"/v1/keys/{made['id']}/restore")["deleted_at"] is None
    people.until(made["key"], let_in=True)


def test_a_rotated_key_has_two_secrets_for_a_while_and_then_one(people: People) -> None:
    made = people.key()
    people.until(made["key"], let_in=True)
    second = people.done("POST", f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 600})
    people.until(second["key"], let_in=True)
    assert (second["id"], second["rotates_until"] is not None) == (made["id"], True)
    assert people.is_let_in(made["key"])
    third = people.done("POST", f"/v1/keys/{made['id']}/rotate")
    people.until(third["key"], let_in=True)
    people.until(second["key"], let_in=False)
    assert not people.is_let_in(made["key"])


def test_a_key_ends_when_it_should(people: People) -> None:
    made = people.key(expires_in=2)
    people.until(made["key"], let_in=False)
    assert refused(people, "GET", "/v1/models", key=made["key"])[:2] == (401, "key_expired")
    people.done("PATCH", f"/v1/keys/{made['id']}", {"expires_at": None})
    people.until(made["key"], let_in=True)


def test_keys_end_with_their_team_and_come_back_with_it(people: People) -> None:
    team = people.made("teams")["id"]
    secret = people.key(team_id=team)["key"]
    people.until(secret, let_in=True)
    people.done("DELETE", f"/v1/teams/{team}")
    people.until(secret, let_in=False)
    people.done("POST", f"/v1/teams/{team}/restore")
    people.until(secret, let_in=True)
    people.done("PATCH", f"/v1/teams/{team}", {"blocked": True})
    people.until(secret, let_in=False)


def test_the_other_name_of_keys_is_the_same_collection(people: People) -> None:
    made = people.key()
    there = people.done("GET", f"/v1/api_keys/{made['id']}")
    assert there == people.done("GET", f"/v1/keys/{made['id']}")


# Requests that are sent again


def test_a_creation_that_is_sent_again_makes_one_key(people: People) -> None:
    mark, body = uuid4().hex, {"name": "once"}
    answers = [people.ask("POST", "/v1/keys", body, headers={"idempotency-key": mark}) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 201]
    assert [answer.header("x-hx-idempotent-replay") for answer in answers] == [None, "true"]
    first, second = (answer.json() for answer in answers)
    assert second == {**first, "key": None}
    assert answers[1].header("location") == f"/v1/keys/{first['id']}"
    said = refused(people, "POST", "/v1/keys", {"name": "twice"}, headers={"idempotency-key": mark})
    assert said[:2] == (409, "idempotency_conflict")


# Objects


def test_money_comes_back_as_it_was_sent_and_keeps_its_budget(people: People) -> None:
    made = people.made(
        "teams", budgets=[{"limit_usd": "0.000000001", "period": "day"}, {"limit_usd": 0.1, "period": "total"}]
    )
    day, total = sorted(made["budgets"], key=lambda budget: str(budget["period"]))
    assert (day["limit_usd"], total["limit_usd"], day["spent_usd"]) == (1e-9, 0.1, 0)
    changed = people.done("PATCH", f"/v1/teams/{made['id']}", {"budgets": [{"limit_usd": 7, "period": "day"}]})
    assert [(budget["id"], budget["limit_usd"]) for budget in changed["budgets"]] == [(day["id"], 7)]


def test_a_change_is_of_what_was_sent_only(people: People) -> None:
    made = people.made(
        "teams", models=["hx-*"], limits={"rpm": 5, "tpm": 9}, metadata={"a": [1, {"b": None}]}, tags=["t"]
    )
    changed = people.done("PATCH", f"/v1/teams/{made['id']}", {"limits": {"rpm": 6}})
    kept = made.keys() - {"limits", "updated_at", "version"}
    assert {name: changed[name] for name in kept} == {name: made[name] for name in kept}
    assert {name: value for name, value in changed["limits"].items() if value is not None} == {"rpm": 6}
    assert changed["version"] == made["version"] + 1
    assert people.done("PATCH", f"/v1/teams/{made['id']}", {"models": None})["models"] is None


def test_two_teams_of_a_name_are_one_too_many(people: People) -> None:
    name = uuid4().hex
    people.made("teams", name=name)
    assert refused(people, "POST", "/v1/teams", {"name": name})[:2] == (409, "already_exists")


def test_a_tenant_has_its_id_time_and_budgets_of_models(people: People) -> None:
    own = f"tenant-{uuid4().hex[:8]}"
    budgets = [{"limit_usd": 5, "period": "month"}, {"limit_usd": 1, "period": "day", "model": "gpt-4o"}]
    made = people.made(
        "tenants", id=own, time_zone="Europe/Berlin", budgets=budgets, model_limits={"gpt-4o": {"rpm": 3}}
    )
    assert (made["id"], made["time_zone"]) == (own, "Europe/Berlin")
    assert {(budget["period"], budget["model"]) for budget in made["budgets"]} == {("month", None), ("day", "gpt-4o")}
    assert refused(people, "POST", "/v1/tenants", {"id": own, "name": "again"})[:2] == (409, "already_exists")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("keys", {"name": "A", "team_id": "tm-nobodynobody222"}),
        ("keys", {"name": "A", "user_id": "us-nobodynobody222"}),
        ("teams", {"name": "A", "tenant_id": "nobody-here"}),
    ],
)
def test_what_refers_to_nothing_is_refused(people: People, kind: str, body: dict[str, str]) -> None:
    status, _, param = refused(people, "POST", f"/v1/{kind}", body)
    assert (status in (404, 422), param) == (True, next(name for name in body if name != "name"))


# Lists


def test_a_list_is_walked_to_its_end_without_gaps(people: People) -> None:
    tag = uuid4().hex
    made = [people.made("teams", tags=[tag])["id"] for _ in range(5)]
    for sort, expected in (("created_at", made), ("-created_at", made[::-1])):
        found: list[str] = []
        cursor = ""
        while True:
            page = people.done("GET", f"/v1/teams?tag={tag}&limit=2&sort={sort}{cursor}")
            found += [team["id"] for team in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert found == expected


def test_lists_are_filtered(people: People, world: World) -> None:
    key, team = world.keys["tenant admin"], people.made("teams", tenant_id=world.tenant)["id"]
    in_team = people.key(tenant_id=world.tenant, team_id=team)["id"]
    assert [found["id"] for found in people.done("GET", f"/v1/keys?team_id={team}", key=key)["data"]] == [in_team]
    people.done("POST", f"/v1/keys/{in_team}/block")
    assert people.done("GET", f"/v1/keys?team_id={team}&blocked=false", key=key)["data"] == []
    people.done("DELETE", f"/v1/keys/{in_team}")
    assert people.done("GET", f"/v1/keys?team_id={team}", key=key)["data"] == []
    assert len(people.done("GET", f"/v1/keys?team_id={team}&include_deleted=true", key=key)["data"]) == 1


def test_a_cursor_that_is_none_is_refused(people: People) -> None:
    status, _, param = refused(people, "GET", "/v1/keys?cursor=bm90LW9uZQ")
    assert (status in (400, 422), param) == (True, "cursor")


# Rights


def test_a_tenant_sees_nothing_of_another(people: People, world: World) -> None:
    rival = world.keys["other tenant"]
    for kind in ("keys", "teams", "users"):
        listed = people.done("GET", f"/v1/{kind}?limit=200", key=rival)["data"]
        assert {item["tenant_id"] for item in listed} <= {world.rival}
    for path in (f"keys/{world.own_key}", f"teams/{world.team}", f"users/{world.user}", f"tenants/{world.tenant}"):
        theirs = refused(people, "GET", f"/v1/{path}", key=rival)
        nobody = refused(people, "GET", f"/v1/{path[:-3]}zzz", key=rival)
        assert theirs == nobody
        assert theirs[0] == 404


def test_a_member_sees_its_own_keys_and_no_other(people: People, world: World) -> None:
    other = people.key(tenant_id=world.tenant, team_id=world.team)["id"]
    assert people.done("GET", f"/v1/keys/{world.own_key}", key=world.keys["member"])["id"] == world.own_key
    assert people.ask("GET", f"/v1/keys/{other}", key=world.keys["member"]).status in (403, 404)


def test_an_admin_of_a_team_makes_keys_of_its_team_only(people: People, world: World) -> None:
    key = world.keys["team admin"]
    made = people.made("keys", key=key, team_id=world.team, scopes=["models"])
    assert (made["team_id"], made["tenant_id"]) == (world.team, world.tenant)
    other = people.made("teams", tenant_id=world.tenant)["id"]
    assert people.ask("POST", "/v1/keys", {"name": "A", "team_id": other}, key=key).status == 403
    assert people.ask("POST", "/v1/keys", {"name": "A"}, key=key).status == 403


@pytest.mark.parametrize(
    "more",
    [
        {"models": ["*"]},
        {"models": None},
        {"scopes": ["models", "passthrough"]},
        {"admin_role": "platform_admin"},
        {"limits": {"rpm": 100}},
    ],
    ids="-".join,
)
def test_nobody_gives_more_than_it_has(people: People, world: World, more: dict[str, Any]) -> None:
    narrow = people.key(
        tenant_id=world.tenant, admin_role="tenant_admin", models=["hx-*"], scopes=["models"], limits={"rpm": 10}
    )
    people.until(narrow["key"], let_in=True)
    fine = {"name": "within", "models": ["hx-chat"], "scopes": ["models"], "limits": {"rpm": 10}}
    assert people.ask("POST", "/v1/keys", fine, key=narrow["key"]).status == 201
    assert people.ask("POST", "/v1/keys", {**fine, **more}, key=narrow["key"]).status == 403


# What is kept


def test_every_change_is_in_the_audit_log_without_a_secret(people: People, world: World) -> None:
    made = people.key(tenant_id=world.tenant)
    rotated = people.done("POST", f"/v1/keys/{made['id']}/rotate")
    people.done("PATCH", f"/v1/keys/{made['id']}", {"name": "renamed"})
    people.done("DELETE", f"/v1/keys/{made['id']}")
    query = f"/v1/audit?object_id={made['id']}&tenant_id={world.tenant}"
    entries = people.done("GET", query)["data"]
    assert [entry["action"] for entry in entries] == ["deleted", "updated", "rotated", "created"]
    assert (entries[1]["before"]["name"], entries[1]["after"]["name"]) == (made["name"], "renamed")
    assert {entry["actor_key"] for entry in entries} == {"admin"}
    assert made["key"] not in str(entries)
    assert rotated["key"] not in str(entries)
    assert people.done("GET", query, key=world.keys["tenant admin"])["data"] == entries


def test_no_secret_is_in_the_log(people: People) -> None:
    made = people.key()
    people.until(made["key"], let_in=True)
    people.done("POST", f"/v1/keys/{made['id']}/rotate")
    assert made["key"] not in people.gateway.log()


# The command line


def test_a_key_lives_its_life_on_the_command_line(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    server = ["--url", people.gateway.url, "--key", people.gateway.key]

    def told(app: Any, *arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, *server])
        assert result.exit_code == 0, result.output
        return result.stdout

    team = people.made("teams")["id"]
    options = ["--team", team, "--model", "hx-*", "--rpm", "60", "--budget", "10/day", "--expires", "30d"]
    secret = told(key_commands.app, "create", "From a terminal", *options).strip()
    people.until(secret, let_in=True)
    listed = told(key_commands.app, "list", "--team", team)
    assert "60 rpm" in listed
    assert "$0 of $10/day" in listed
    key_id = people.done("GET", f"/v1/keys?team_id={team}")["data"][0]["id"]
    assert "120 rpm, 9 parallel" in told(key_commands.app, "update", key_id, "--rpm", "120", "--parallel", "9")
    assert "in 29 d" in told(key_commands.app, "show", key_id)
    second = told(key_commands.app, "rotate", key_id).strip()
    people.until(second, let_in=True)
    assert "blocked" in told(key_commands.app, "block", key_id)
    told(key_commands.app, "unblock", key_id)
    told(key_commands.app, "delete", key_id)
    told(key_commands.app, "restore", key_id)
    assert "0" in told(team_commands.app, "members", "list", team)


# The pages


def test_the_how_to_makes_a_key_and_finds_it(people: People, tmp_path: Path) -> None:
    made, page = run(example(read("howto/keys.md"), "key curl"), people.gateway, tmp_path)
    assert str(made["key"]).startswith(str(made["prefix"]))
    items = page["data"]
    assert isinstance(items, list)
    assert made["id"] in {item["id"] for item in items}
