"""What a hit is to limits, budgets and the record of spend: a request like others, and nothing that it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.people import UNPROBED, People, living
from tests.fixtures.gateway import Answer
from tests.fixtures.servers import SERVERS, running_servers


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    with running_servers(SERVERS[0]) as servers, living(servers, UNPROBED) as living_people:
        yield living_people


def new_key(people: People, **fields: Any) -> dict[str, Any]:
    tenant = people.made("tenants", id=f"t-{uuid4().hex[:8]}")["id"]
    made = people.key(tenant_id=tenant, **{"cache": {"mode": "exact"}, **fields})
    people.until(made["key"], let_in=True)
    return made


def ask(people: People, key: dict[str, Any], text: str = "Tell me something.", **fields: Any) -> Answer:
    body = {"model": "hx-chat", "messages": [{"role": "user", "content": text}], **fields}
    return people.ask("POST", "/v1/chat/completions", body, key=key["key"])


def outcome(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.header("x-hx-cache")


def spent(people: People, key: dict[str, Any], calls: int) -> list[Any]:
    """Return the records of a key's calls, oldest first, once they are all there."""
    path = f"/v1/spend/logs?tenant_id={key['tenant_id']}&key_id={key['id']}"
    people.gateway.wait_until(lambda: len(people.done("GET", path)["items"]) >= calls)
    return list(reversed(people.done("GET", path)["items"]))


@pytest.mark.parametrize("stream", [False, True])
def test_a_hit_is_recorded_and_costs_nothing(people: People, stream: bool) -> None:
    key = new_key(people, budgets=[{"limit_usd": 1, "period": "total"}])
    first, second = ask(people, key), ask(people, key, stream=stream)
    assert [outcome(first), outcome(second)] == [(200, "miss"), (200, "hit")]
    assert second.header("x-hx-cost-usd") == "0"
    made, hit = spent(people, key, 2)
    assert (made["cache"], made["cost_usd"] > 0, made["upstream"]) == ("miss", True, "demo/hx-chat")
    assert (hit["cache"], hit["cost_usd"], hit["upstream"], hit["status"]) == ("hit", 0, None, 200)
    assert (hit["prompt_tokens"], hit["completion_tokens"]) == (0, 0)
    budget = people.done("GET", f"/v1/keys/{key['id']}")["budgets"][0]
    assert (budget["spent_usd"], budget["reserved_usd"]) == (made["cost_usd"], 0)
    decision = people.done("GET", f"/v1/decisions/{second.header('x-request-id')}?tenant_id={key['tenant_id']}")
    assert "hit" in str(decision)


def test_hits_count_as_requests(people: People) -> None:
    key = new_key(people, limits={"rpm": 3})
    answers = [ask(people, key) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[1].header("x-ratelimit-remaining-requests") == "1"
    assert answers[3].header("x-hx-cache") is None


def test_hits_take_no_tokens_and_no_money_where_both_are_used_up(people: People) -> None:
    key = new_key(people)
    assert outcome(ask(people, key)) == (200, "miss")
    nothing = {"limits": {"tpm": 0}, "budgets": [{"limit_usd": 0, "period": "total"}]}
    people.done("PATCH", f"/v1/keys/{key['id']}", nothing)
    people.gateway.wait_until(lambda: ask(people, key, uuid4().hex).status == 429)
    assert [outcome(ask(people, key)) for _ in range(3)] == [(200, "hit")] * 3


def test_what_a_hit_saved_is_counted_in_money(people: People) -> None:
    def saved() -> float:
        lines = people.gateway.get("/metrics", key=people.gateway.key).body.decode().splitlines()
        name = 'hx_cache_saved_nano_total{kind="exact"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    key, before = new_key(people), saved()
    cost = float(ask(people, key).header("x-hx-cost-usd") or 0)
    ask(people, key)
    assert round(saved() - before) == round(cost * 1e9) > 0


def test_a_key_says_whether_how_long_and_with_whom(people: People) -> None:
    assert outcome(ask(people, new_key(people, cache=None))) == (200, None)
    key = new_key(people, cache={"mode": "ask"})
    assert outcome(ask(people, key)) == (200, None)
    assert outcome(ask(people, key, cache={"use-cache": True})) == (200, "miss")
    assert outcome(ask(people, key, cache={"use-cache": True})) == (200, "hit")
    changed = people.done("PATCH", f"/v1/keys/{key['id']}", {"cache": {"mode": "off"}})
    assert changed["cache"] == {"mode": "off"}
    people.gateway.wait_until(lambda: outcome(ask(people, key, cache={"use-cache": True})) == (200, None))
    assert people.done("PATCH", f"/v1/keys/{key['id']}", {"cache": None})["cache"] is None


@pytest.mark.parametrize(
    ("cache", "param"),
    [
        ("exact", "cache"),
        ({"mode": "always"}, "cache.mode"),
        ({"ttl_seconds": 0}, "cache.ttl_seconds"),
        ({"ttl_seconds": 10**30}, "cache.ttl_seconds"),
        ({"ttl_seconds": True}, "cache.ttl_seconds"),
        ({"scope": "everybody"}, "cache.scope"),
        ({"scope": "\x00"}, "cache.scope"),
        ({"size": 1}, "cache.size"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(people: People, cache: object, param: str) -> None:
    answer = people.ask("POST", "/v1/keys", {"name": "made up", "cache": cache})
    assert (answer.status, answer.json()["error"]["param"]) == (422, param)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("tenant_id=", "tenant_id"),
        ("tenant_id=%00", "tenant_id"),
        ("key_id=a%2Fb", "key_id"),
        ("model=", "model"),
        ("model=%ff", None),
        ("model=a&model=b", "model"),
        ("everything=true", "everything"),
    ],
)
def test_a_purge_that_makes_no_sense_is_refused_by_name(people: People, query: str, param: str | None) -> None:
    answer = people.ask("DELETE", f"/v1/cache?{query}")
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)
