"""The response cache while its Redis is dead or hung: requests go on without it, and find it again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from hx_gateway.cache.hot import HOT_SECONDS
from tests.acceptance.people import UNPROBED, People, living
from tests.fixtures.gateway import Answer
from tests.fixtures.servers import SERVERS, Servers, running_servers

# A look-up may take 30 ms. What else a request asks of Redis has limits of its own, and this machine may be busy.
ANSWERED_SECONDS = 2.0
HEALED_SECONDS = 20.0


@pytest.fixture(scope="module")
def stores() -> Iterator[Servers]:
    with running_servers(SERVERS[0]) as servers:
        yield servers


@pytest.fixture(scope="module")
def people(stores: Servers) -> Iterator[People]:
    with living(stores, {**UNPROBED, "HX_CACHE": "exact", "HX_CACHE_BUDGET_MS": "30"}) as living_people:
        yield living_people


def ask(people: People, text: str) -> Answer:
    body = {"model": "hx-chat", "messages": [{"role": "user", "content": text}]}
    return people.ask("POST", "/v1/chat/completions", body)


def until(people: People, text: str, outcome: str) -> None:
    people.gateway.wait_until(lambda: ask(people, text).header("x-hx-cache") == outcome, HEALED_SECONDS)


@pytest.mark.parametrize("fault", ["hung", "dead"])
def test_requests_are_answered_without_it_and_with_it_again(people: People, stores: Servers, fault: str) -> None:
    text, waits = uuid4().hex, []
    until(people, text, "hit")
    # What was found a moment ago is given without asking anybody.
    time.sleep(2 * HOT_SECONDS)
    tenant = people.made("tenants", id=f"t-{uuid4().hex[:8]}")["id"]
    redis = stores.redis
    (redis.freeze if fault == "hung" else redis.kill)()
    try:
        for _ in range(30):
            began = time.monotonic()
            answer = ask(people, text)
            waits.append(time.monotonic() - began)
            assert (answer.status, answer.header("x-hx-cache")) == (200, "bypass"), answer.body
            assert people.gateway.get("/livez").status == 200
        purge = people.ask("DELETE", "/v1/cache")
        assert (purge.status, purge.json()["error"]["code"]) == (503, "dependency_unavailable")
        deleted = people.ask("DELETE", f"/v1/tenants/{tenant}")
        # Refused once it is known that Redis is away; until then nobody waits for what cannot be forgotten.
        assert deleted.status in (200, 503), deleted.body
    finally:
        (redis.thaw if fault == "hung" else redis.start)()
    assert max(waits) < ANSWERED_SECONDS
    # What came of the purge is written down all the same.
    people.gateway.wait_until(lambda: people.ask("GET", "/v1/audit").status == 200, HEALED_SECONDS)
    log = people.done("GET", "/v1/audit?tenant_id=default&object_kind=cache&limit=1")["data"]
    assert [entry["after"] for entry in log] == [{"purged": 0, "whole": False}]
    # A server that lost everything has nothing to give, and is filled again.
    until(people, text, "hit")


def test_answers_are_shared_by_workers_and_outlive_them(stores: Servers) -> None:
    text = uuid4().hex
    for outcome in ("miss", "hit"):
        with living(stores, {**UNPROBED, "HX_CACHE": "exact", "HX_CACHE_BUDGET_MS": "30"}) as worker:
            assert ask(worker, text).header("x-hx-cache") == outcome
