"""Tenants beside each other: whatever a request names, and wherever it names it, it stays in its key's own tenant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.people import SCOPES, World
from tests.acceptance.security.attacks import decision_of, metrics
from tests.acceptance.security.conftest import Site
from tests.fixtures.gateway import Answer

ACTIONS = {"keys": ("rotate", "block", "unblock", "restore"), "teams": ("restore",), "users": ("restore",)}
CHAT = {"model": "hx-chat", "messages": [{"role": "user", "content": "hello"}]}
STORED_SECONDS = 15.0


@dataclass
class Rival:
    """The admin of another tenant, with a key that may call and read whatever a key may."""

    site: Site
    secret: str

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return self.site.people.ask(method, path, body, key=self.secret, **more)


@pytest.fixture(scope="module")
def world(site: Site) -> World:
    return site.world


@pytest.fixture(scope="module")
def rival(site: Site) -> Rival:
    secret = site.people.key(tenant_id=site.world.rival, admin_role="tenant_admin", scopes=SCOPES)["key"]
    site.people.until(secret, let_in=True)
    return Rival(site, secret)


def theirs(world: World) -> dict[str, str]:
    return {"keys": world.own_key, "teams": world.team, "users": world.user}


def neighbours(object_id: str) -> Iterator[str]:
    """Yield ids next to one, and longer and shorter ones."""
    for step in (-1, 1):
        yield object_id[:-1] + chr(min(122, max(97, ord(object_id[-1].lower()) + step)))
    yield from (object_id[:-1], f"{object_id}0", object_id.upper(), object_id[::-1])


# Ids in the path


@pytest.mark.parametrize("kind", ["keys", "teams", "users"])
def test_another_tenants_object_is_not_there_whatever_is_done_to_it(site: Site, rival: Rival, kind: str) -> None:
    object_id = theirs(site.world)[kind]
    before = site.people.done("GET", f"/v1/{kind}/{object_id}")
    asked: list[tuple[str, str, object]] = [
        ("GET", "", None),
        ("GET", "?include_deleted=true", None),
        ("PATCH", "", {"name": "taken"}),
        ("PATCH", "", {"tags": []}),
        ("DELETE", "", None),
        *(("POST", f"/{action}", None) for action in ACTIONS[kind]),
    ]
    if kind == "teams":
        asked += [("GET", "/members", None)]
        asked += [("PUT", f"/members/{site.world.user}", {"role": "admin"})]
        asked += [("DELETE", f"/members/{site.world.user}", None)]
    for method, rest, body in asked:
        found = decision_of(rival.ask(method, f"/v1/{kind}/{object_id}{rest}", body))
        nobody = decision_of(rival.ask(method, f"/v1/{kind}/{object_id[:-3]}zzz{rest}", body))
        assert (found.status, found) == (404, nobody), (method, rest)
    assert site.people.done("GET", f"/v1/{kind}/{object_id}") == before


@pytest.mark.parametrize("kind", ["keys", "teams", "users"])
def test_ids_cannot_be_counted_up_or_down(site: Site, rival: Rival, kind: str) -> None:
    for object_id in neighbours(theirs(site.world)[kind]):
        assert rival.ask("GET", f"/v1/{kind}/{object_id}").status == 404, object_id


def test_another_tenant_is_not_there(rival: Rival, world: World) -> None:
    for method, rest, body in [
        ("GET", "", None),
        ("PATCH", "", {"name": "taken"}),
        ("DELETE", "", None),
        ("POST", "/restore", None),
    ]:
        assert rival.ask(method, f"/v1/tenants/{world.tenant}{rest}", body).status in (403, 404), (method, rest)
    assert rival.ask("GET", f"/v1/tenants/{world.tenant}").status == 404
    assert [tenant["id"] for tenant in rival.ask("GET", "/v1/tenants").json()["data"]] == [world.rival]


# Ids in bodies


def test_nothing_is_made_of_another_tenants_parts(site: Site, rival: Rival) -> None:
    world = site.world
    bodies: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/keys", {"tenant_id": world.tenant}),
        ("POST", "/v1/keys", {"team_id": world.team}),
        ("POST", "/v1/keys", {"user_id": world.user}),
        ("POST", "/v1/keys", {"tenant_id": world.tenant, "team_id": world.team, "user_id": world.user}),
        ("POST", "/v1/teams", {"tenant_id": world.tenant}),
        ("POST", "/v1/users", {"tenant_id": world.tenant}),
        ("POST", "/v1/tenants", {"id": world.tenant}),
    ]
    for method, path, fields in bodies:
        theirs = decision_of(rival.ask(method, path, {"name": uuid4().hex, **fields}))
        unknown = {name: value[:-3] + "zzz" for name, value in fields.items()}
        nobody = decision_of(rival.ask(method, path, {"name": uuid4().hex, **unknown}))
        assert (theirs.status in (403, 404), theirs) == (True, nobody), (path, fields)
    own_team = site.people.made("teams", key=rival.secret)["id"]
    assert rival.ask("PUT", f"/v1/teams/{own_team}/members/{world.user}", {"role": "member"}).status == 404


def test_headers_name_no_tenant(site: Site, rival: Rival) -> None:
    own = rival.ask("GET", "/v1/keys?limit=200").json()["data"]
    for name in ("x-tenant-id", "x-hx-tenant", "x-hx-tenant-id", "openai-organization", "x-user-id", "x-role"):
        for value in (site.world.tenant, "default", "platform_admin"):
            answer = rival.ask("GET", "/v1/keys?limit=200", headers={name: value})
            assert answer.json()["data"] == own


# Ids in queries


def test_filters_and_cursors_do_not_lead_out_of_the_tenant(site: Site, rival: Rival) -> None:
    world, people = site.world, site.people
    page = people.done("GET", f"/v1/keys?tenant_id={world.tenant}&limit=1")
    for query in (
        f"tenant_id={world.tenant}",
        f"team_id={world.team}",
        f"user_id={world.user}",
        f"cursor={page['next_cursor']}",
        f"tenant_id={world.tenant}&cursor={page['next_cursor']}",
        f"tenant_id={world.rival}&tenant_id={world.tenant}",
    ):
        answer = rival.ask("GET", f"/v1/keys?{query}&include_deleted=true")
        shown = answer.json().get("data", []) if answer.status == 200 else []
        assert {key["tenant_id"] for key in shown} <= {world.rival}, query
    for query in (f"object_id={world.own_key}", f"tenant_id={world.tenant}"):
        answer = rival.ask("GET", f"/v1/audit?{query}")
        assert answer.status == 404 or answer.json()["data"] == [], query


@pytest.fixture(scope="module")
def called(site: Site) -> str:
    """Make a call and a refused one as a member of the other tenant; return their request id."""
    mark = f"req-of-a-member-{uuid4().hex[:12]}"
    secret = site.world.keys["member"]
    headers = {"x-request-id": mark}
    assert site.people.ask("POST", "/v1/chat/completions", CHAT, key=secret, headers=headers).status == 200
    nothing = {**CHAT, "model": "nothing-of-the-kind"}
    assert site.people.ask("POST", "/v1/chat/completions", nothing, key=secret, headers=headers).status >= 400
    query = f"/v1/spend/logs?request_id={mark}&tenant_id={site.world.tenant}"
    site.gateway.wait_until(lambda: len(site.people.done("GET", query)["items"]) == 1, STORED_SECONDS)
    errors = f"/v1/spend/errors?request_id={mark}&tenant_id={site.world.tenant}"
    site.gateway.wait_until(lambda: len(site.people.done("GET", errors)["items"]) == 1, STORED_SECONDS)
    return mark


def test_spend_of_another_tenant_is_not_read_listed_summed_or_exported(site: Site, rival: Rival, called: str) -> None:
    world = site.world
    for path in ("/v1/spend/logs", "/v1/spend/errors", "/v1/spend/summary"):
        assert rival.ask("GET", f"{path}?tenant_id={world.tenant}").status == 403
        for query in (f"key_id={world.own_key}", f"team_id={world.team}", f"user_id={world.user}"):
            answer = rival.ask("GET", f"{path}?{query}")
            assert answer.status == 200, answer.body
            assert answer.json()["items"] == [], (path, query)
    for path in ("/v1/spend/logs", "/v1/spend/errors"):
        for form in ("csv", "jsonl"):
            answer = rival.ask("GET", f"{path}?request_id={called}&format={form}")
            assert answer.status == 200, answer.body
            assert called.encode() not in answer.body
    theirs, nobody = (rival.ask("GET", f"/v1/decisions/{mark}") for mark in (called, f"{called}0"))
    assert (theirs.status, nobody.status) == (404, 404)
    assert site.people.ask("GET", f"/v1/decisions/{called}").status == 200


def test_events_of_another_tenant_are_not_read_or_written(site: Site, rival: Rival) -> None:
    world, trace, here = site.world, uuid4().hex, "/api/v1/observability"
    event = {"table": "trace_events", "trace_id": trace, "event_type": "step", "message": "theirs"}
    sent = site.people.ask("POST", f"{here}/events?results=all", {"events": [event]}, key=world.keys["member"])
    assert sent.status == 200, sent.body
    assert "error" not in sent.body.decode().replace('"errors":[]', ""), sent.body
    path = f"{here}/traces/{trace}"
    member = world.keys["member"]
    site.gateway.wait_until(lambda: site.people.ask("GET", path, key=member).status == 200, STORED_SECONDS)
    assert rival.ask("GET", path).status == 404
    assert rival.ask("GET", f"{path}?tenant_id={world.tenant}").status == 403
    assert trace.encode() not in rival.ask("GET", f"{here}/trace_events?trace_id={trace}").body
    assert trace.encode() not in rival.ask("GET", f"{here}/export/trace_events?trace_id={trace}").body
    forged = rival.ask("POST", f"{here}/events?results=all", {"events": [{**event, "tenant_id": world.tenant}]})
    assert forged.status >= 400 or b"tenant_id" in forged.body


def test_metrics_name_nobody(site: Site, called: str) -> None:
    world = site.world
    names = {
        world.tenant,
        world.rival,
        world.team,
        world.user,
        world.own_key,
        called,
        "nothing-of-the-kind",
        site.people.done("GET", f"/v1/teams/{world.team}")["name"],
        site.people.done("GET", f"/v1/keys/{world.own_key}")["name"],
    }
    for gateway in site.gateways:
        assert {name for name in names if name in metrics(gateway)} == set()
    for who in ("other tenant", "member", "tenant admin"):
        assert site.people.ask("GET", "/metrics", key=world.keys[who]).status == 403


def test_names_and_addresses_of_another_tenant_are_free(site: Site, rival: Rival) -> None:
    """Whether something is taken elsewhere would tell that it is there."""
    world, people = site.world, site.people
    mail, name = f"{uuid4().hex}@example.org", f"made up {uuid4().hex[:12]}"
    people.made("users", tenant_id=world.tenant, email=mail)
    people.made("teams", tenant_id=world.tenant, name=name)
    assert people.made("users", key=rival.secret, email=mail)["tenant_id"] == world.rival
    assert people.made("teams", key=rival.secret, name=name)["tenant_id"] == world.rival


# Fields that are not the caller's


FOREIGN_FIELDS: Mapping[str, Any] = {
    "tenant_id": "default",
    "id": "admin",
    "role": "platform_admin",
    "user_role": "proxy_admin",
    "admin_role": "platform_admin",
    "is_admin": True,
    "key": "sk-hx-mine",
    "digest": "00" * 32,
    "key_digest": "00" * 32,
    "pepper_id": "pp-mine",
    "imported_sha256": "00" * 32,
    "previous_expires_at": "2036-01-01T00:00:00Z",
    "prefix": "sk-",
    "last_four": "mine",
    "granted_by": None,
    "spent_usd": -5,
    "spent": 0,
    "reserved_usd": 0,
    "version": 99,
    "created_by": "somebody",
    "updated_by": "somebody",
    "created_at": "2020-01-01T00:00:00Z",
    "deleted_at": None,
    "user_id": "us-somebodyelse222",
    "team_id": "tm-somebodyelse222",
    "__proto__": {"role": "platform_admin"},
    "constructor": {},
    "$set": {"role": "platform_admin"},
    "Role": "platform_admin",
}


@pytest.mark.parametrize("field", FOREIGN_FIELDS)
def test_fields_that_are_not_the_callers_are_refused_by_everybody(site: Site, field: str) -> None:
    world, people = site.world, site.people
    path = f"/v1/keys/{world.own_key}"
    before = people.done("GET", path)
    expected = {"member": (403,), "team admin": (422,), "tenant admin": (422,), "platform admin": (422,)}
    for who, statuses in expected.items():
        answer = people.ask("PATCH", path, {field: FOREIGN_FIELDS[field]}, key=world.keys[who])
        assert answer.status in statuses, (who, answer.body)
        both = people.ask("PATCH", path, {"tags": ["changed"], field: FOREIGN_FIELDS[field]}, key=world.keys[who])
        assert both.status in statuses, (who, both.body)
    assert people.done("GET", path) == before


@pytest.mark.parametrize(
    ("who", "role"),
    [
        ("member", "tenant_admin"),
        ("team admin", "member"),
        ("team admin", "tenant_admin"),
        ("tenant admin", "platform_admin"),
    ],
)
def test_nobody_takes_a_role_above_its_own(site: Site, who: str, role: str) -> None:
    world, people, key = site.world, site.people, site.world.keys[who]
    for path in (f"/v1/users/{world.user}",):
        assert people.ask("PATCH", path, {"role": role}, key=key).status == 403
    assert people.ask("POST", "/v1/users", {"name": "A", "role": role}, key=key).status == 403
    admin_role = role if role != "member" else "tenant_admin"
    assert people.ask("POST", "/v1/keys", {"name": "A", "admin_role": admin_role}, key=key).status == 403
    assert people.ask("PUT", f"/v1/teams/{world.team}/members/{world.user}", {"role": "admin"}, key=key).status == (
        200 if who == "tenant admin" else 403
    )
    people.done("PUT", f"/v1/teams/{world.team}/members/{world.user}", {"role": "member"})


# What is passed on


def confined(site: Site) -> dict[str, Any]:
    """Return the fields of an admin's key that is confined in every way."""
    return {
        "tenant_id": site.world.tenant,
        "admin_role": "tenant_admin",
        "models": ["hx-*"],
        "scopes": ["models"],
        "allowed_routes": ["/v1/keys*", "/v1/chat/*", "/v1/models*"],
        "limits": {"rpm": 100, "max_parallel": 5},
        "budgets": [{"limit_usd": 5, "period": "day"}],
        "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
    }


MORE: Mapping[str, dict[str, Any]] = {
    "any route": {"allowed_routes": ["/*"]},
    "another route": {"allowed_routes": ["/v1/embeddings"]},
    "no confinement to routes": {"allowed_routes": None},
    "more models": {"models": ["hx-*", "emb-*"]},
    "models by a trick": {"models": ["[a-z]*"]},
    "all models": {"models": None},
    "more scopes": {"scopes": ["models", "spend:read"]},
    "a larger budget": {"budgets": [{"limit_usd": 5.000000001, "period": "day"}]},
    "a larger budget of a longer period": {"budgets": [{"limit_usd": 6, "period": "month"}]},
    "no budget": {"budgets": []},
    "a longer life": {"expires_in": 90_000},
    "no end": {"expires_at": None},
    "more requests": {"limits": {"rpm": 101, "max_parallel": 5}},
    "no limit of slots": {"limits": {"rpm": 100}},
    "no limits": {"limits": {}},
    "more power": {"admin_role": "platform_admin"},
}


@pytest.fixture(scope="module")
def giver(site: Site) -> str:
    secret = str(site.people.key(**confined(site))["key"])
    site.people.until(secret, let_in=True)
    return secret


@pytest.mark.parametrize("more", MORE)
def test_a_key_gives_no_more_than_it_has(site: Site, giver: str, more: str) -> None:
    fine = {name: value for name, value in confined(site).items() if name not in ("tenant_id", "admin_role")}
    if "expires_in" in MORE[more]:
        del fine["expires_at"]
    else:
        fine["expires_at"] = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = site.people.made("keys", key=giver, **fine, **({"expires_in": 60} if "expires_at" not in fine else {}))
    wider = {"name": "A", **fine, **MORE[more]}
    assert site.people.ask("POST", "/v1/keys", wider, key=giver).status == 403
    if "admin_role" not in MORE[more]:
        for key_id in (made["id"], giver[6:18]):
            changed = site.people.ask("PATCH", f"/v1/keys/{key_id}", MORE[more], key=giver)
            assert changed.status == 403, changed.body


def test_what_a_tenant_loses_its_keys_lose_at_once(site: Site) -> None:
    people = site.people
    tenant = people.made("tenants")["id"]
    secret = people.key(tenant_id=tenant, models=["*"])["key"]
    people.until(secret, let_in=True)
    assert people.ask("POST", "/v1/chat/completions", CHAT, key=secret).status == 200
    people.done("PATCH", f"/v1/tenants/{tenant}", {"models": ["emb-*"]})
    site.gateway.wait_until(
        lambda: people.ask("POST", "/v1/chat/completions", CHAT, key=secret).status in (403, 404), STORED_SECONDS
    )
    assert people.ask("GET", "/v1/models/hx-chat", key=secret).status in (403, 404)


def test_what_a_key_loses_those_that_were_made_with_it_lose_at_once(site: Site) -> None:
    people = site.people
    giver = people.key(tenant_id=site.world.tenant, admin_role="tenant_admin")
    made = people.key(key=giver["key"])
    assert made["granted_by"] == giver["id"]

    def chats(*statuses: int) -> None:
        site.gateway.wait_until(
            lambda: people.ask("POST", "/v1/chat/completions", CHAT, key=made["key"]).status in statuses, STORED_SECONDS
        )

    path = f"/v1/keys/{giver['id']}"
    for change, statuses in (
        ({"models": ["hx-*"]}, {200}),
        ({"models": ["emb-*"]}, {403, 404}),
        ({"models": None}, {200}),
        ({"allowed_routes": ["/v1/keys*"]}, {403}),
        ({"allowed_routes": None}, {200}),
    ):
        people.done("PATCH", path, change)
        chats(*statuses)
    people.done("POST", f"{path}/block")
    chats(401)


def test_an_alias_does_not_lead_out_of_the_models_of_its_key(site: Site) -> None:
    fields = {"tenant_id": site.world.tenant, "models": ["hx-*"], "aliases": {"hx-other": "emb-premium"}}
    secret = site.people.key(**fields)["key"]
    site.people.until(secret, let_in=True)
    for model in ("hx-other", "emb-premium"):
        answer = site.people.ask("POST", "/v1/embeddings", {"model": model, "input": "hello"}, key=secret)
        assert answer.status in (403, 404), answer.body


def test_what_is_forwarded_does_not_lead_out_of_the_models_of_its_key(site: Site) -> None:
    scopes = ["models", "passthrough"]
    confined_to = site.people.key(tenant_id=site.world.tenant, models=["hx-*"], scopes=scopes)["key"]
    free = site.people.key(tenant_id=site.world.tenant, scopes=scopes)["key"]
    body = {"model": "parrot-200", "input": "hello"}
    for path in ("/v1/responses", "/v1/rerank", "/v1/audio/speech"):
        assert site.second.post(path, body, key=free).status == 200, path
        assert site.second.post(path, body, key=confined_to).status == 403, path
