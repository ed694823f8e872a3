"""No answer crosses the scope that it is shared in, whatever is forged; and inside of it answers are shared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from tests.acceptance.people import UNPROBED, People, living
from tests.fixtures.gateway import Answer
from tests.fixtures.servers import SERVERS, running_servers
from tests.fixtures.zoo import Zoo

MODEL = "zoo:counted"
WAYS_TO_SHARE = ("tenant", "team", "user", "key")


class Owner(NamedTuple):
    """Whose key it is."""

    tenant: str
    team: str | None
    user: str | None
    key: str

    def shares(self, other: Owner, scope: str) -> bool:
        """Return whether both are one in ``scope``; whoever has no team or user is one with nobody."""
        own, others = getattr(self, scope), getattr(other, scope)
        same = own == others and own is not None
        return self.tenant == other.tenant and (same or self.key == other.key)


@pytest.fixture(scope="module", params=["redis", "process"])
def people(request: pytest.FixtureRequest, zoo_beside: Zoo) -> Iterator[People]:
    """Run a gateway that keeps answers in Redis, and one that keeps them itself."""
    environ = {**UNPROBED, "LITELLM_BASE_URL": zoo_beside.url, "HX_CACHE": "exact"}
    if request.param == "process":
        environ["REDIS_URL"] = "none"
    with running_servers(SERVERS[0]) as servers, living(servers, environ) as living_people:
        yield living_people


def key_of(people: People, **fields: Any) -> str:
    """Return the secret of a new key, once it is let in."""
    made = people.key(**fields)
    people.until(made["key"], let_in=True)
    return str(made["key"])


def owners(people: People, scope: str | None) -> list[Owner]:
    """Make two tenants with teams and users, and a key of every kind; ``scope`` is what each key says."""
    cache = None if scope is None else {"mode": "exact", "scope": scope}
    found = []
    for _ in range(2):
        tenant = people.made("tenants", id=f"t-{uuid4().hex[:8]}")["id"]
        teams = [people.made("teams", tenant_id=tenant)["id"] for _ in range(2)]
        users = [people.made("users", tenant_id=tenant)["id"] for _ in range(2)]
        for team, user in [(team, user) for team in teams for user in users]:
            people.done("PUT", f"/v1/teams/{team}/members/{user}", {"role": "member"})
        places = [(teams[0], users[0]), (teams[0], users[1]), (teams[1], users[0]), (teams[0], None), (None, users[0])]
        for team, user in [*places, places[0], (None, None), (None, None)]:
            secret = key_of(people, tenant_id=tenant, team_id=team, user_id=user, cache=cache)
            found.append(Owner(tenant, team, user, secret))
    return found


def ask(people: People, key: str, text: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
    answer = people.ask("POST", "/v1/chat/completions", body, key=key, headers=headers)
    assert answer.status == 200, answer.body
    return answer


def forgeries(victim: Owner) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return ways to claim to be somebody else."""
    names = [name for name in (victim.tenant, victim.team, victim.user) if name is not None]
    headers = [
        {header: name}
        for name in names
        for header in ("x-hx-tenant", "x-tenant-id", "x-hx-cache-key", "x-litellm-cache-key", "openai-organization")
    ]
    return [
        *((header, {}) for header in headers),
        ({"x-hx-cache": "on", "cache-control": "only-if-cached, max-stale"}, {}),
        *(({}, {"user": name}) for name in names),
        *(({}, {"metadata": {"tenant_id": name, "team_id": name}}) for name in names),
        *(({}, {"cache": {"namespace": name}}) for name in names),
        ({}, {"cache": {"namespace": f"{victim.tenant}/key/x", "use-cache": True, "s-maxage": 2_592_000}}),
    ]


@pytest.mark.parametrize("scope", [None, *WAYS_TO_SHARE])
def test_the_same_prompt_is_a_hit_inside_of_the_scope_and_never_outside(people: People, scope: str | None) -> None:
    everybody, hits, leaks = owners(people, scope), 0, []
    for seeder in everybody[: len(everybody) // 2]:
        text = uuid4().hex
        first = ask(people, seeder.key, text)
        assert first.header("x-hx-cache") == "miss"
        # Those outside first: what they get must not become what those inside are given.
        for other in sorted(everybody, key=lambda one: one.shares(seeder, scope or "tenant")):
            answer = ask(people, other.key, text, stream=False)
            same = answer.json() == first.json()
            if other.shares(seeder, scope or "tenant"):
                assert same, (seeder, other)
                assert answer.header("x-hx-cache") == "hit"
                hits += 1
            elif same:
                leaks.append((seeder, other))
    assert leaks == []
    assert hits >= len(everybody) // 2


@pytest.mark.parametrize("scope", WAYS_TO_SHARE)
def test_nobody_gets_another_s_answer_by_claiming_to_be_it(people: People, scope: str) -> None:
    everybody, tried = owners(people, scope), 0
    half = len(everybody) // 2
    seeder = everybody[0]
    text = uuid4().hex
    given = {ask(people, seeder.key, text, **fields).json()["id"] for _, fields in forgeries(seeder)}
    for other in (everybody[half], everybody[half + 1], everybody[2], everybody[-1]):
        if other.shares(seeder, scope):
            continue
        for headers, fields in forgeries(seeder):
            assert ask(people, other.key, text, headers, **fields).json()["id"] not in given
            tried += 1
    assert tried > 30
    # And the one whose it is has it still.
    assert ask(people, seeder.key, text).header("x-hx-cache") == "hit"


def test_no_header_tells_the_name_that_an_answer_is_kept_under(people: People) -> None:
    mine, other = (owners(people, "tenant")[place].key for place in (0, -1))
    text = uuid4().hex
    answers = [ask(people, key, text) for key in (mine, other, mine, other)]
    for answer in answers:
        names = {name for name, _ in answer.headers if name.startswith("x-hx-")}
        assert names <= {"x-hx-cache", "x-hx-cache-age", "x-hx-cost-usd"}


def test_a_key_that_may_not_use_the_model_or_is_no_more_gets_nothing_from_the_cache(people: People) -> None:
    tenant = people.made("tenants", id=f"t-{uuid4().hex[:8]}")["id"]
    text = uuid4().hex
    good = key_of(people, tenant_id=tenant)
    ask(people, good, text)
    assert ask(people, good, text).header("x-hx-cache") == "hit"
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    confined = key_of(people, tenant_id=tenant, models=["other-*"])
    answer = people.ask("POST", "/v1/chat/completions", body, key=confined)
    assert (answer.status, answer.json()["error"]["code"]) == (403, "model_not_allowed")
    blocked = people.key(tenant_id=tenant)
    people.until(blocked["key"], let_in=True)
    people.done("POST", f"/v1/keys/{blocked['id']}/block")
    people.until(blocked["key"], let_in=False)
    assert people.ask("POST", "/v1/chat/completions", body, key=blocked["key"]).status == 401
    reader = people.key(tenant_id=tenant, scopes=["spend:read"])
    people.gateway.wait_until(lambda: people.ask("GET", "/v1/spend/logs", key=reader["key"]).status == 200)
    assert people.ask("POST", "/v1/chat/completions", body, key=reader["key"]).status == 403


def test_a_purge_forgets_one_tenant_s_and_nobody_purges_another_s(people: People) -> None:
    everybody = owners(people, "tenant")
    mine, rival = everybody[0], everybody[-1]
    admins = [key_of(people, tenant_id=owner.tenant, admin_role="tenant_admin") for owner in (mine, rival)]
    text = uuid4().hex
    for owner in (mine, rival):
        ask(people, owner.key, text)
    answer = people.ask("DELETE", f"/v1/cache?tenant_id={mine.tenant}", key=admins[1])
    nobody = people.ask("DELETE", "/v1/cache?tenant_id=t-nobody", key=admins[1])
    assert (answer.status, nobody.status) == (404, 404)
    assert people.ask("DELETE", "/v1/cache", key=mine.key).status == 403
    assert ask(people, mine.key, text).header("x-hx-cache") == "hit"
    assert people.done("DELETE", "/v1/cache", key=admins[1])["tenant_id"] == rival.tenant
    assert [ask(people, owner.key, text).header("x-hx-cache") for owner in (mine, rival)] == ["hit", "miss"]
    assert people.done("DELETE", f"/v1/cache?tenant_id={mine.tenant}&model={MODEL}")["purged"] == 1
    assert ask(people, mine.key, text).header("x-hx-cache") == "miss"


def entries(people: People, tenant: str, key: str | None = None) -> list[Any]:
    """Return what the audit log says of purges of a tenant's answers, the newest first."""
    query = f"/v1/audit?tenant_id={tenant}&object_kind=cache&action=purged"
    return list(people.done("GET", query, key=key)["data"])


def test_who_purged_what_and_how_many_is_in_the_audit_log_of_the_tenant(people: People) -> None:
    mine, *_, rival = owners(people, "tenant")
    made = people.key(tenant_id=mine.tenant, admin_role="tenant_admin")
    people.until(made["key"], let_in=True)
    for _ in range(2):
        ask(people, mine.key, uuid4().hex)
    purged = people.ask("DELETE", "/v1/cache?key_id=nobody", key=made["key"])
    assert (purged.status, purged.json()["purged"]) == (200, 0)
    assert people.done("DELETE", f"/v1/cache?model={MODEL}", key=made["key"])["purged"] == 2
    people.done("DELETE", f"/v1/cache?tenant_id={mine.tenant}")
    told = [(entry["actor_key"], entry["object_id"], entry["after"]) for entry in entries(people, mine.tenant)]
    assert told == [
        ("admin", mine.tenant, {"purged": 0, "whole": True}),
        (made["id"], mine.tenant, {"model": MODEL, "purged": 2, "whole": True}),
        (made["id"], mine.tenant, {"key_id": "nobody", "purged": 0, "whole": True}),
    ]
    assert entries(people, mine.tenant, made["key"])[0]["actor_key"] == "admin"
    assert entries(people, rival.tenant) == []
    check = people.done("GET", f"/v1/audit/check?tenant_id={mine.tenant}")
    assert check["broken_at"] is None
    # What is refused is not there.
    assert people.ask("DELETE", "/v1/cache?tenant_id=t-nobody").status == 404
    assert people.ask("DELETE", f"/v1/cache?tenant_id={rival.tenant}", key=made["key"]).status == 404
    assert entries(people, rival.tenant) == []


@pytest.mark.parametrize("way", ["deleted", "blocked"])
def test_the_answers_of_a_tenant_that_is_let_in_no_more_are_forgotten(people: People, way: str) -> None:
    mine, *_, rival = owners(people, "tenant")
    text, place = uuid4().hex, f"/v1/tenants/{mine.tenant}"
    first = [ask(people, owner.key, text).json() for owner in (mine, rival)]
    if way == "deleted":
        people.done("DELETE", place)
    else:
        people.done("PATCH", place, {"blocked": True})
    people.until(mine.key, let_in=False)
    assert people.done("DELETE", f"/v1/cache?tenant_id={mine.tenant}")["purged"] == 0
    # Its id is its own for ever: nobody is made in its place, who might be given what it was.
    again = people.ask("POST", "/v1/tenants", {"name": "another one", "id": mine.tenant})
    assert (again.status, again.json()["error"]["code"]) == (409, "already_exists")
    if way == "deleted":
        people.done("POST", f"{place}/restore")
    else:
        people.done("PATCH", place, {"blocked": False})
    people.until(mine.key, let_in=True)
    answers = [ask(people, owner.key, text) for owner in (mine, rival)]
    assert [answer.header("x-hx-cache") for answer in answers] == ["miss", "hit"]
    assert answers[0].json() != first[0]
    assert answers[1].json() == first[1]


def test_the_answers_of_a_deleted_key_are_forgotten_where_they_were_its_own(people: People) -> None:
    tenant = people.made("tenants", id=f"t-{uuid4().hex[:8]}")["id"]
    for scope, left in (("key", 0), ("tenant", 1)):
        made = people.key(tenant_id=tenant, cache={"mode": "exact", "scope": scope})
        people.until(made["key"], let_in=True)
        ask(people, made["key"], uuid4().hex)
        people.done("DELETE", f"/v1/keys/{made['id']}")
        assert people.done("DELETE", f"/v1/cache?tenant_id={tenant}&key_id={made['id']}")["purged"] == left
