"""What the pages about keys and spend say to type works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.acceptance.people import People, living
from tests.acceptance.terminal import Shell, answers, filled, shell
from tests.contract.doc_pages import example, read, rows, spans
from tests.fixtures.servers import Servers

README = (Path(__file__).parents[2] / "README.md").read_text()
# What is typed does not depend on the stores' versions.
pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="module")
QUESTION = {"role": "user", "content": "Return exactly the text: HX-OK"}


@pytest.fixture(scope="module")
def people(servers: Servers) -> Iterator[People]:
    with living(servers, {"HX_CACHE": "ask"}) as found:
        yield found


@pytest.fixture
def terminal(people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(people, tmp_path)


def call(people: People, key: str) -> str:
    """Call a demo model; return the request's id once the call is on record."""
    answer = people.gateway.post("/v1/chat/completions", {"model": "hx-chat", "messages": [QUESTION]}, key=key)
    assert answer.status == 200, answer.body
    request_id = answer.header("x-request-id")
    assert request_id is not None
    people.gateway.wait_until(lambda: people.ask("GET", f"/v1/decisions/{request_id}").status == 200)
    return request_id


def test_the_key_of_the_readme_calls_a_model_and_its_spend_is_summed_up(people: People, terminal: Shell) -> None:
    (answer,) = answers(terminal.run(example(README, "key")))
    assert answer["choices"][0]["message"]["content"] == "HX-OK"
    (key,) = people.done("GET", "/v1/keys?name=My%20first%20key")["data"]
    assert (key["models"], key["limits"], key["budgets"][0]["limit_usd"]) == (["hx-*"], {"rpm": 60}, 1)
    spent = f"/v1/spend/summary?key_id={key['id']}"
    people.gateway.wait_until(lambda: bool(people.done("GET", spent)["items"]))
    assert key["id"] in terminal.run(example(README, "spend"))


def test_the_examples_of_keys_work_from_the_first_to_the_last(people: People, terminal: Shell) -> None:
    marks = {"madeUpKeyId1": people.key()["id"]}
    told: list[str] = []
    for text in shell("howto/keys.md"):
        made, separator, rest = text.partition("hx-gateway teams members")
        if separator:
            # The ids in the commands after it are those that the commands before it print.
            told += terminal.type(made)
            marks["tm-…"] = people.done("GET", "/v1/teams?name=Checkout")["data"][0]["id"]
            marks["us-…"] = people.done("GET", "/v1/users?name=Ada")["data"][0]["id"]
        told += terminal.type(filled(separator + rest if separator else made, marks))
    assert told[0].startswith("sk-hx-")
    production = people.done("GET", "/v1/keys?tag=production")["data"]
    assert [(key["budgets"][0]["soft_usd"], key["limits"]["max_parallel"]) for key in production] == [(8, 4)]
    assert people.done("GET", f"/v1/keys?team_id={marks['tm-…']}")["data"][0]["user_id"] == marks["us-…"]
    assert people.done("GET", "/v1/tenants/acme")["time_zone"] == "Europe/Berlin"
    updated = people.done("GET", f"/v1/keys/{marks['madeUpKeyId1']}")
    assert (updated["limits"]["rpm"], updated["blocked"], updated["deleted_at"]) == (120, True, None)


def test_the_key_that_curl_makes_is_made_once(terminal: Shell) -> None:
    script = example(read("howto/keys.md"), "key curl").replace("checkout-production-1", "checkout-production-2")
    first, listed = answers(terminal.run(script))
    again, _ = answers(terminal.run(script))
    assert first["key"].startswith("sk-hx-")
    assert first["id"] in {key["id"] for key in listed["data"]}
    assert (again["id"], again["key"]) == (first["id"], None)


def test_the_examples_of_spend_work_from_the_first_to_the_last(people: People, terminal: Shell, tmp_path: Path) -> None:
    made = people.key(tags=["batch"])
    request_id = call(people, made["key"])
    marks = {
        "2026-11-01": f"{datetime.now(UTC):%Y-%m}-01",
        "4Kd0pQ7vXc2Z": made["id"],
        "req_VxN0Qm5hYk3tQ2aB0000002a": request_id,
    }
    told = [said for text in shell("howto/spend.md") for said in terminal.type(filled(text, marks))]
    assert (tmp_path / "november.csv").read_text().startswith("day,")
    assert request_id in (tmp_path / "calls.csv").read_text()
    assert request_id in (tmp_path / "calls.jsonl").read_text()
    assert any(request_id in said and "hx-chat" in said for said in told)
    assert any("llama-70b" in said for said in told)
    assert people.ask("GET", "/v1/prices/llama-70b").status == 404


def test_the_examples_of_the_cache_work(people: People, terminal: Shell) -> None:
    page = read("howto/cache.md")
    assert re.findall(r"x-hx-cache: (\w+)", terminal.run(example(page, "cache curl"))) == ["miss", "hit"]
    assert people.ask("POST", "/v1/tenants", {"id": "acme", "name": "Acme"}).status in (201, 409)
    told = terminal.run(shell("howto/cache.md")[-1])
    assert told.count("0 answers of tenant acme are forgotten") == 2
    assert '"purged":0' in told


def test_what_is_kept_for_later_says_so_and_what_is_built_answers(people: People) -> None:
    for path in ("/v1/spend", "/v1/decisions", "/v1/cost", "/v1/vector_stores", "/v1/spend/none"):
        answer = people.ask("GET", path)
        assert (path, answer.status, answer.json()["error"]["code"]) == (path, 501, "not_built")
    for path in ("/v1/keys", "/v1/teams", "/v1/users", "/v1/tenants", "/v1/audit", "/v1/spend/logs", "/v1/prices"):
        assert people.ask("GET", path).status == 200, path


def test_every_field_of_an_object_is_documented(people: People) -> None:
    text = read("reference/access.md")
    for kind in ("tenants", "teams", "users", "keys"):
        assert [name for name in people.made(kind) if f"`{name}`" not in text] == []


def test_a_call_has_the_fields_that_are_documented(people: People) -> None:
    made = people.key()
    call(people, made["key"])
    (spent,) = people.done("GET", f"/v1/spend/logs?key_id={made['id']}")["items"]
    table = rows(read("reference/spend.md"), "| field of a call | what |")
    assert {name for cell, _ in table for name in spans(cell)} <= spent.keys()
