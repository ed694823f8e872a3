"""The registry of a running gateway, through every route of services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.people import People, living
from tests.fixtures.gateway import Answer
from tests.fixtures.servers import Servers

PREFIX = "/api/v1/registry"


class Desk:
    """The registry of a tenant of its own, asked by one who may read and write."""

    def __init__(self, people: People) -> None:
        self.people = people
        self.tenant = people.made("tenants", id=f"tn-{uuid4().hex[:12]}")["id"]
        self.key = people.key(tenant_id=self.tenant, scopes=["registry:read", "registry:write"])["key"]
        self.reader = people.key(tenant_id=self.tenant, scopes=["registry:read"])["key"]
        people.gateway.wait_until(lambda: self.ask("GET", "/tags").status == 200)

    def ask(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return self.people.ask(method, PREFIX + path, body, key=more.pop("key", self.key), **more)

    def done(self, method: str, path: str, body: object = None, *, status: int = 200, **more: Any) -> Any:
        """Return the answer to a request that works."""
        answer = self.ask(method, path, body, **more)
        assert answer.status == status, answer.body
        return answer.json()

    def refused(self, method: str, path: str, body: object = None, **more: Any) -> tuple[int, str, str | None]:
        answer = self.ask(method, path, body, **more)
        assert answer.header("content-type") == "application/problem+json", answer.body
        told = answer.json()
        assert told["status"] == answer.status
        return answer.status, told["code"], told.get("param")

    def make(self, name: str, **fields: Any) -> dict[str, Any]:
        return dict(self.done("POST", "/services", {"name": name, **fields}, status=201))

    def names(self, path: str) -> list[str]:
        return [item["name"] for item in self.done("GET", path)["items"]]


@pytest.fixture(scope="module")
def people(servers: Servers) -> Iterator[People]:
    with living(servers) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    return Desk(people)


# One service


def test_a_service_is_made_found_changed_deleted_and_restored(desk: Desk) -> None:
    answer = desk.ask("POST", "/services", {"name": "Weather", "protocol": "http", "tags": ["b", "a"]})
    made = answer.json()
    assert (answer.status, answer.header("etag")) == (201, 'W/"1"')
    assert answer.header("location") == f"{PREFIX}/services/{made['id']}"
    assert (made["status"], made["priority"], made["tenant_id"]) == ("unknown", "medium", desk.tenant)
    for ref in (made["id"], "weather", "WEATHER"):
        assert desk.done("GET", f"/services/{ref}")["id"] == made["id"]
    changed = desk.done("PATCH", "/services/weather", {"version": "2", "description": "Made up."})
    assert (changed["version"], changed["row_version"]) == ("2", 2)
    assert desk.done("GET", "/services/weather")["version"] == "2"
    left = desk.done("DELETE", "/services/weather")
    assert (left["is_deleted"], left["is_active"]) == (True, False)
    assert desk.refused("GET", "/services/weather") == (410, "deleted", "ref")
    assert desk.done("GET", "/services/weather?include_deleted=true")["is_deleted"] is True
    assert desk.done("POST", "/services/weather/restore")["is_deleted"] is False
    assert desk.done("GET", "/services/weather")["is_deleted"] is False


def test_what_there_is_not_and_what_is_anothers_is_not_found(desk: Desk, people: People) -> None:
    theirs = Desk(people).make("secret")
    for ref in (theirs["id"], "secret", str(uuid4())):
        for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/restore"), ("PUT", "/health")):
            body = {"PATCH": {}, "PUT": {"status": "healthy"}}.get(method)
            assert desk.refused(method, f"/services/{ref}{path}", body)[0] == 404
    assert desk.refused("GET", f"/services?tenant_id={theirs['tenant_id']}")[0] == 404
    assert desk.refused("GET", f"/events?tenant_id={theirs['tenant_id']}")[0] == 404
    path = f"/services/secret?tenant_id={theirs['tenant_id']}"
    assert desk.done("GET", path, key=people.gateway.key)["id"] == theirs["id"]


def test_a_reader_changes_nothing(desk: Desk) -> None:
    desk.make("weather")
    assert desk.done("GET", "/services/weather", key=desk.reader)["name"] == "weather"
    for method, path in (
        ("POST", "/services"),
        ("PATCH", "/services/weather"),
        ("PUT", "/services/weather"),
        ("DELETE", "/services/weather"),
        ("POST", "/services/bulk"),
        ("POST", "/services/weather/heartbeat"),
        ("POST", "/heartbeats"),
    ):
        assert desk.refused(method, path, {}, key=desk.reader)[:2] == (403, "permission_denied")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": " x"}, "name"),
        ({"name": "x", "port": 70_000}, "port"),
        ({"name": "x", "port": "80"}, "port"),
        ({"name": "x", "protocol": "carrier pigeon"}, "protocol"),
        ({"name": "x", "tags": ["a", "a"]}, "tags"),
        ({"name": "x", "config": []}, "config"),
        ({"name": "x", "endpoint": "https://ann:secret@example.org/"}, "endpoint"),
        ({"name": "x", "nickname": "y"}, "nickname"),
        ({"name": "x", "id": str(uuid4())}, "id"),
        ({"name": "x", "success_count": 5}, "success_count"),
        ({"name": "x", "dependencies": ["nothing"]}, "dependencies"),
        ({"name": "x\u0000"}, "name"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named(desk: Desk, fields: dict[str, Any], param: str) -> None:
    status, _, named = desk.refused("POST", "/services", fields)
    assert (status, named) == (404 if fields.get("dependencies") else 422, param)
    assert desk.names("/services") == []


def test_a_name_is_taken_once_and_what_becomes_of_it_can_be_said(desk: Desk) -> None:
    made = desk.make("weather")
    assert desk.refused("POST", "/services", {"name": "Weather"}) == (409, "already_exists", "name")
    again = desk.ask("POST", "/services?on_conflict=update", {"name": "weather", "version": "2"})
    assert (again.status, again.json()["id"], again.json()["version"]) == (200, made["id"], "2")
    desk.done("DELETE", "/services/weather")
    back = desk.ask("POST", "/services?on_conflict=restore", {"name": "weather", "version": "3"})
    assert (back.status, back.json()["id"], back.json()["version"]) == (200, made["id"], "3")
    assert desk.refused("POST", "/services?on_conflict=shrug", {"name": "y"})[0] == 422


def test_one_whose_name_was_taken_since_comes_back_under_another(desk: Desk) -> None:
    old = desk.make("weather")
    desk.done("DELETE", "/services/weather")
    desk.make("weather")
    assert desk.refused("POST", f"/services/{old['id']}/restore") == (409, "already_exists", "name")
    back = desk.done("POST", f"/services/{old['id']}/restore", {"new_name": "weather 2"})
    assert (back["id"], back["name"], back["is_deleted"]) == (old["id"], "weather 2", False)


def test_a_creation_that_is_sent_again_is_answered_again(desk: Desk) -> None:
    headers = {"idempotency-key": uuid4().hex}
    first = desk.ask("POST", "/services", {"name": "weather"}, headers=headers)
    again = desk.ask("POST", "/services", {"name": "weather"}, headers=headers)
    assert (first.status, again.status, again.json()["id"]) == (201, 201, first.json()["id"])
    assert (first.header("x-hx-idempotent-replay"), again.header("x-hx-idempotent-replay")) == (None, "true")
    assert desk.refused("POST", "/services", {"name": "other"}, headers=headers)[:2] == (409, "idempotency_conflict")


def test_a_change_of_an_older_version_is_refused(desk: Desk) -> None:
    desk.make("weather")
    first = desk.ask("GET", "/services/weather")
    tag = {"if-match": str(first.header("etag"))}
    assert desk.ask("GET", "/services/weather", headers={"if-none-match": tag["if-match"]}).status == 304
    assert desk.done("PATCH", "/services/weather", {"version": "2"}, headers=tag)["row_version"] == 2
    for method, body in (("PATCH", {"version": "3"}), ("PUT", {"name": "weather"}), ("DELETE", None)):
        assert desk.refused(method, "/services/weather", body, headers=tag)[:2] == (412, "version_conflict")
    assert desk.refused("PATCH", "/services/weather", {}, headers={"if-match": "x"}) == (
        400,
        "invalid_request",
        "if-match",
    )
    assert desk.done("PATCH", "/services/weather", {"version": "4"}, headers={"if-match": "*"})["version"] == "4"


def test_a_patch_merges_objects_and_a_put_replaces_everything(desk: Desk) -> None:
    desk.make("weather", service_metadata={"team": "a", "tier": {"x": 1, "y": 2}}, tags=["t"], port=8080)
    patched = desk.done("PATCH", "/services/weather", {"service_metadata": {"team": None, "tier": {"y": 3}}})
    assert patched["service_metadata"] == {"tier": {"x": 1, "y": 3}}
    assert (patched["tags"], patched["port"]) == (["t"], 8080)
    cleared = desk.done("PATCH", "/services/weather", {"port": None})
    assert cleared["port"] is None
    desk.done("PUT", "/services/weather/health", {"status": "healthy"})
    put = desk.done("PUT", "/services/weather", {"name": "climate", "priority": "high"})
    assert (put["name"], put["priority"], put["tags"], put["service_metadata"]) == ("climate", "high", [], {})
    assert put["status"] == "healthy"


# Lists


def test_lists_are_filtered_by_everything_that_a_service_has(desk: Desk) -> None:
    desk.make("alpha", tags=["a", "b"], priority="critical", protocol="http", is_required=True, source="import")
    desk.make("beta", tags=["b"], priority="low", build_type="docker", version="2", service_metadata={"team": "x"})
    desk.make("gamma", display_name="Delta wing", description="Flies.", auto_start=True, dependencies=["alpha"])
    desk.done("PUT", "/services/alpha/health", {"status": "healthy", "response_time_ms": 3})
    desk.done("POST", "/services/beta/disable")
    expected = {
        "": ["alpha", "beta", "gamma"],
        "q=delta": ["gamma"],
        "q=fli": ["gamma"],
        "name=ALPHA": ["alpha"],
        "name=alpha,beta": ["alpha", "beta"],
        "name=alpha&name=gamma": ["alpha", "gamma"],
        "name_prefix=AL": ["alpha"],
        "build_type=docker": ["beta"],
        "protocol=http": ["alpha"],
        "protocol=http,stdio": ["alpha", "beta", "gamma"],
        "status=healthy": ["alpha"],
        "status=disabled&status=unknown": ["beta", "gamma"],
        "priority=critical,low": ["alpha", "beta"],
        "tags=a,b": ["alpha", "beta"],
        "tags=a,b&tags_match=all": ["alpha"],
        "tags=a&tags_match=none": ["beta", "gamma"],
        "healthy=true": ["alpha"],
        "healthy=false": ["beta", "gamma"],
        "healthy=true&status=unknown": [],
        "required=true": ["alpha"],
        "enabled=false": ["beta"],
        "auto_start=true": ["gamma"],
        "source=import": ["alpha"],
        "version=2": ["beta"],
        "metadata=%7B%22team%22%3A%22x%22%7D": ["beta"],
        "has_dependency=alpha": ["gamma"],
        "stale_after=15m": ["beta", "gamma"],
        "stale_after=PT15M": ["beta", "gamma"],
        "created_after=2026-01-01T00:00:00Z": ["alpha", "beta", "gamma"],
        "created_before=2026-01-01T00:00:00Z": [],
        "updated_since=2999-01-01T00:00:00Z": [],
        "protocol=stdio&tags=b": ["beta"],
        "sort=-name": ["gamma", "beta", "alpha"],
        "sort=priority": ["alpha", "gamma", "beta"],
        "sort=-created_at&limit=1": ["gamma"],
    }
    assert {query: desk.names(f"/services?{query}") for query in expected} == expected
    aliases = {
        "healthy": ["alpha"],
        "unhealthy": [],
        "required": ["alpha"],
        "stale": ["beta", "gamma"],
        "by-tag/b": ["alpha", "beta"],
    }
    assert {path: desk.names(f"/services/{path}") for path in aliases} == aliases
    assert desk.done("GET", "/tags")["items"] == [{"tag": "b", "services": 2}, {"tag": "a", "services": 1}]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=fine", "status"),
        ("healthy=perhaps", "healthy"),
        ("stale_after=soon", "stale_after"),
        ("sort=colour", "sort"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=made-up", "cursor"),
        ("metadata=[]", "metadata"),
        ("fields=name,shoe", "fields"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("colour=red", "colour"),
        ("has_dependency=nothing", "has_dependency"),
        ("tags=", "tags"),
        ("q=%00", "q"),
    ],
)
def test_a_parameter_that_is_not_understood_is_named(desk: Desk, query: str, param: str) -> None:
    status, _, named = desk.refused("GET", f"/services?{query}")
    assert status in (404, 422)
    assert named is not None
    assert named.split(".")[0] == param


def test_pages_follow_each_other_and_belong_to_their_query(desk: Desk) -> None:
    for number in range(7):
        desk.make(f"service {number}", tags=["t"])
    path, seen = f"{PREFIX}/services?limit=3&tags=t&fields=name,id&count=exact", []
    while path:
        answer = desk.people.ask("GET", path, key=desk.key)
        page = answer.json()
        assert page["total"] == 7
        assert all(item.keys() == {"name", "id"} for item in page["items"])
        seen += [item["name"] for item in page["items"]]
        link = answer.header("link")
        assert (link is not None) is page["has_more"] is (page["next_cursor"] is not None)
        path = link[1 : link.index(">")] if link else ""
    assert seen == [f"service {number}" for number in range(7)]
    cursor = desk.done("GET", "/services?limit=3&tags=t")["next_cursor"]
    assert desk.refused("GET", f"/services?limit=3&cursor={cursor}") == (422, "invalid_request", "cursor")


# Many at once


def test_many_are_made_and_the_one_that_cannot_be_is_told_of(desk: Desk) -> None:
    items: list[dict[str, Any]] = [{"name": f"service {number}"} for number in range(500)]
    items[250] = {"name": "bad", "port": -1}
    tried = desk.done("POST", "/services/bulk", {"items": items, "dry_run": True})
    assert (tried["created"], tried["failed"], tried["dry_run"]) == (499, 1, True)
    assert desk.names("/services?limit=1") == []
    refused = desk.done("POST", "/services/bulk", {"items": items, "mode": "atomic"})
    assert (refused["created"], refused["failed"]) == (0, 500)
    assert desk.names("/services?limit=1") == []
    kept = desk.done("POST", "/services/bulk", {"items": items})
    assert (kept["created"], kept["failed"]) == (499, 1)
    assert kept["results"][250]["param"] == "port"
    assert [result["status"] for result in kept["results"]].count("created") == 499
    assert desk.done("GET", "/statistics")["active"] == 499


def test_many_may_depend_on_each_other_whatever_their_order(desk: Desk) -> None:
    items = [
        {"name": "web", "dependencies": ["api", "cache"]},
        {"name": "api", "dependencies": ["db"]},
        {"name": "cache"},
        {"name": "db"},
        {"name": "lost", "dependencies": ["nothing"]},
    ]
    told = desk.done("POST", "/services/bulk", {"items": items})
    assert (told["created"], told["failed"], told["results"][4]["param"]) == (4, 1, "dependencies")
    assert [end["name"] for end in desk.done("GET", "/services/web/dependencies")["items"]] == ["api", "cache"]


def test_many_that_depend_on_each_other_in_a_long_chain_or_a_circle_are_done_with_in_time(desk: Desk) -> None:
    chain = [{"name": f"s{n}", "dependencies": [f"s{n - 1}"] if n else []} for n in range(299, -1, -1)]
    circle = [{"name": "a", "dependencies": ["B"]}, {"name": "b", "dependencies": ["a"]}]
    told = desk.done("POST", "/services/bulk", {"items": [*chain, *circle]})
    assert (told["created"], told["failed"]) == (300, 2)
    assert [result["param"] for result in told["results"][300:]] == ["dependencies", "dependencies"]


def test_many_are_changed_deleted_and_restored_by_name_or_by_a_filter(desk: Desk) -> None:
    for name in ("a1", "a2", "b1"):
        desk.make(name, tags=[name[0]])
    by_tag = {"selector": {"filter": {"tags": ["a"]}}}
    tried = desk.done("PATCH", "/services/bulk", {**by_tag, "patch": {"priority": "high"}, "dry_run": True})
    assert (tried["updated"], desk.names("/services?priority=high")) == (2, [])
    done = desk.done("PATCH", "/services/bulk", {**by_tag, "patch": {"priority": "high"}})
    assert (done["updated"], desk.names("/services?priority=high")) == (2, ["a1", "a2"])
    few = {**by_tag, "patch": {"priority": "low"}, "max_affected": 1}
    assert desk.refused("PATCH", "/services/bulk", few) == (422, "invalid_request", "max_affected")
    named = {"selector": {"refs": ["a1", "nothing"]}}
    gone = desk.done("DELETE", "/services/bulk", named)
    assert (gone["deleted"], gone["failed"], gone["results"][1]["code"]) == (1, 1, "not_found")
    none = desk.done("DELETE", "/services/bulk", {"selector": {"refs": ["a2", "nothing"]}, "mode": "atomic"})
    assert (none["deleted"], none["failed"], desk.names("/services")) == (0, 2, ["a2", "b1"])
    only = {"selector": {"filter": {"include_deleted": "only"}}}
    assert desk.done("POST", "/services/bulk/restore", only)["restored"] == 1
    assert desk.names("/services") == ["a1", "a2", "b1"]
    wrong: list[dict[str, Any]] = [{}, {"refs": ["a1"], "filter": {}}, {"refs": []}]
    for selector in wrong:
        assert desk.refused("DELETE", "/services/bulk", {"selector": selector})[0] == 422


@pytest.mark.parametrize(("on_conflict", "status"), [("skip", "skipped"), ("update", "updated"), ("error", "failed")])
def test_many_whose_names_are_taken_do_what_is_said(desk: Desk, on_conflict: str, status: str) -> None:
    desk.make("taken", version="1")
    body = {"on_conflict": on_conflict, "items": [{"name": "new"}, {"name": "Taken", "version": "2"}]}
    told = desk.done("POST", "/services/bulk", body)
    assert [result["status"] for result in told["results"]] == ["created", status]
    assert desk.done("GET", "/services/taken")["version"] == ("2" if on_conflict == "update" else "1")


@pytest.mark.parametrize("on_conflict", ["update", "restore"])
def test_one_whose_name_is_taken_may_depend_by_name_on_one_that_is_made_with_it(desk: Desk, on_conflict: str) -> None:
    desk.make("web")
    if on_conflict == "restore":
        desk.done("DELETE", "/services/web")
    items = [{"name": "web", "dependencies": ["api"]}, {"name": "api"}]
    told = desk.done("POST", "/services/bulk", {"on_conflict": on_conflict, "items": items})
    assert (told["created"], told["updated"] + told["restored"], told["failed"]) == (1, 1, 0)
    assert [end["name"] for end in desk.done("GET", "/services/web/dependencies")["items"]] == ["api"]


# How they stand, and what they depend on


def test_reports_and_decisions_and_signs_of_life_are_seen_at_once(desk: Desk) -> None:
    desk.make("weather")
    desk.make("maps")
    assert desk.done("GET", "/services/weather")["last_seen"] is None
    reported = desk.done("PUT", "/services/weather/health", {"status": "healthy", "response_time_ms": 12.5})
    assert (reported["status"], reported["success_count"], reported["health_score"]) == ("healthy", 1, 1.0)
    assert desk.done("GET", "/services/weather")["response_time_ms"] == 12.5
    old = {"status": "unhealthy", "checked_at": "2020-01-01T00:00:00Z"}
    assert desk.done("PUT", "/services/weather/health", old)["failure_count"] == 0
    beat = {"items": [{"ref": "maps"}, {"ref": "nothing"}]}
    assert desk.done("POST", "/heartbeats", beat) == {"updated": 1, "unknown": ["nothing"]}
    assert desk.done("GET", "/services/maps")["last_seen"] is not None
    assert desk.done("POST", "/services/weather/heartbeat")["updated"] == 1
    assert desk.done("POST", "/services/weather/disable")["status"] == "disabled"
    assert desk.done("PUT", "/services/weather/health", {"status": "healthy"})["status"] == "disabled"
    enabled = desk.done("POST", "/services/weather/enable")
    assert (enabled["status"], enabled["is_enabled"]) == ("unknown", True)
    assert desk.done("POST", "/services/weather/maintenance")["status"] == "maintenance"
    assert desk.done("PUT", "/services/weather/health", {"status": "unhealthy"})["status"] == "maintenance"
    assert desk.done("DELETE", "/services/weather/maintenance")["status"] == "healthy"
    assert desk.refused("PUT", "/services/weather/health", {"status": "fine"})[2] == "status"
    numbers = desk.done("GET", "/statistics")
    assert (numbers["total"], numbers["by_status"]["healthy"], numbers["failure_count"]) == (2, 2, 1)


def test_a_report_says_why_and_a_heartbeat_what_the_service_is(desk: Desk) -> None:
    desk.make("weather")
    why = {"failure_class": "connect", "message": "nothing there"}
    desk.done("PUT", "/services/weather/health", {"status": "unhealthy", **why})
    shown = desk.done("GET", "/services/weather?expand=health")["expanded"]["health"]
    assert (shown["failure_class"], shown["last_error"], shown["by_beats"]) == ("connect", "nothing there", True)
    beat = {"ttl_s": 30, "status": "healthy", "version": "2", "metadata": {"host": "made up"}}
    assert desk.done("POST", "/services/weather/heartbeat", beat) == {"updated": 1, "unknown": []}
    assert desk.done("POST", "/services/weather/heartbeat", {"version": "2"})["updated"] == 1
    service, health = desk.done("GET", "/services/weather"), desk.done("GET", "/services/weather/health")
    assert (service["version"], service["service_metadata"]) == ("2", {"host": "made up"})
    assert (health["status"], health["failure_class"], health["last_error"]) == ("healthy", None, None)
    assert health["ttl_until"] is not None


def test_up_to_a_thousand_beats_come_together(desk: Desk) -> None:
    beats = [{"ref": f"s{number}", "ttl_s": 60, "response_time_ms": 1.5} for number in range(1000)]
    answer = desk.done("POST", "/heartbeats", {"items": beats})
    assert (answer["updated"], len(answer["unknown"])) == (0, 1000)
    assert desk.refused("POST", "/heartbeats", {"items": [*beats, {"ref": "x"}]})[0] == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", "/services/x/heartbeat", {"ttl_s": 4}, "ttl_s"),
        ("POST", "/services/x/heartbeat", {"ttl_s": 86_401}, "ttl_s"),
        ("POST", "/services/x/heartbeat", {"ttl_s": 10**30}, "ttl_s"),
        ("POST", "/services/x/heartbeat", {"ttl_s": "90"}, "ttl_s"),
        ("POST", "/services/x/heartbeat", {"status": "maintenance"}, "status"),
        ("POST", "/services/x/heartbeat", {"metadata": []}, "metadata"),
        ("POST", "/services/x/heartbeat", {"version": "1\u0000"}, "version"),
        ("POST", "/services/x/heartbeat", {"colour": "red"}, "colour"),
        ("POST", "/heartbeats", {"items": [{"ref": "x", "response_time_ms": -1}]}, "items.0.response_time_ms"),
        ("PUT", "/services/x/health", {"status": "unhealthy", "failure_class": "moon"}, "failure_class"),
        ("PUT", "/services/x/health", {"status": "unhealthy", "message": "x" * 513}, "message"),
        ("POST", "/services/x/check?level=l3", None, "level"),
        ("POST", "/services/x/check?level=l1&wait=false", None, "level"),
        ("POST", "/services/x/check?wait=perhaps", None, "wait"),
        ("POST", "/services/check", {"selector": {"refs": []}}, "selector.refs"),
        ("POST", "/services/check", {"selector": {"refs": ["x"] * 501}}, "selector.refs"),
        ("POST", "/services/check", {}, "selector"),
        ("GET", "/services/x?expand=mood", None, "expand"),
        ("POST", "/services?probe=perhaps", {"name": "y"}, "probe"),
    ],
)
def test_what_is_wrong_with_a_beat_a_report_or_a_check_is_named(
    desk: Desk, method: str, path: str, body: object, param: str
) -> None:
    desk.make("x")
    status, _, named = desk.refused(method, path, body)
    assert (status, (named or "").startswith(param)) == (422, True), named
    assert desk.names("/services") == ["x"]


def test_a_workload_registers_itself_and_touches_nothing_else(desk: Desk) -> None:
    key = desk.people.key(tenant_id=desk.tenant, scopes=["registry:register:acme-"])["key"]
    put = "/services/acme-web?register=true"
    desk.people.gateway.wait_until(lambda: desk.ask("PUT", put, {"name": "acme-web"}, key=key).status in (200, 201))
    desk.make("other")
    web = desk.done("PUT", put, {"name": "acme-web", "version": "2"}, key=key)
    assert (web["version"], web["created_by"] != "admin") == ("2", True)
    assert desk.done("PUT", put, {"name": "acme-web", "version": "2"}, key=key)["row_version"] == web["row_version"]
    assert (
        desk.done("PUT", "/services/acme-2?register=true", {"name": "acme-2"}, key=key, status=201)["name"] == "acme-2"
    )
    assert desk.done("POST", "/services/acme-web/heartbeat", {"version": "3"}, key=key)["updated"] == 1
    assert desk.done("POST", "/heartbeats", {"items": [{"ref": "acme-web"}, {"ref": "acme-9"}]}, key=key) == {
        "updated": 1,
        "unknown": ["acme-9"],
    }
    assert desk.done("POST", "/services/Acme-Web/heartbeat", {}, key=key)["updated"] == 1
    desk.done("POST", "/services/acme-2/disable")
    again = desk.done("PUT", "/services/acme-2?register=true", {"name": "acme-2", "version": "2"}, key=key)
    assert (again["version"], again["is_enabled"], again["status"]) == ("2", False, "disabled")
    refused = (403, "permission_denied")
    for method, path, body in (
        ("PUT", "/services/other?register=true", {"name": "other"}),
        ("PUT", "/services/acme-web", {"name": "acme-web"}),
        ("PUT", "/services/acme-web/health", {"status": "healthy"}),
        ("POST", "/services/other/heartbeat", {}),
        ("POST", f"/services/{web['id']}/heartbeat", {}),
        ("POST", "/heartbeats", {"items": [{"ref": "acme-web"}, {"ref": "other"}]}),
        ("POST", "/services", {"name": "acme-3"}),
        ("POST", "/services?probe=true", {"name": "acme-3"}),
        ("POST", "/services/acme-web/check", None),
        ("POST", "/services/acme-web/disable", None),
        ("POST", "/services/import", {"format": "mcp_servers", "payload": {}}),
        ("DELETE", "/services/acme-web", None),
        ("GET", "/services/acme-web", None),
        ("GET", "/services", None),
    ):
        assert desk.refused(method, path, body, key=key)[:2] == refused, (method, path)
    for body in ({"name": "other"}, {"version": "2"}):
        assert desk.refused("PUT", put, body, key=key) == (422, "invalid_request", "name")
    assert sorted(desk.names("/services")) == ["acme-2", "acme-web", "other"]


def test_whoever_may_write_registers_under_any_name(desk: Desk) -> None:
    assert desk.done("PUT", "/services/web?register=true", {"name": "web"}, status=201)["row_version"] == 1
    tag = {"if-match": 'W/"7"'}
    assert desk.refused("PUT", "/services/web?register=true", {"name": "web"}, headers=tag)[0] == 412
    assert desk.refused("PUT", "/services/api?register=true", {"name": "api"}, headers=tag)[0] == 404
    assert desk.refused("PUT", "/services/web?register=true", {"name": "web"}, key=desk.reader)[0] == 403


def test_why_goes_with_what_failed(desk: Desk) -> None:
    desk.make("x")
    assert desk.refused("PUT", "/services/x/health", {"status": "healthy", "message": "fine"})[0] == 422


def test_the_checks_of_another_tenant_are_not_found(desk: Desk, people: People) -> None:
    theirs = Desk(people)
    theirs.make("secret")
    job = theirs.done("POST", "/services/secret/check?wait=false", status=202)["job"]
    assert theirs.done("GET", f"/checks/{job}")["due"] == 1
    assert desk.refused("GET", f"/checks/{job}") == (404, "not_found", "job")
    asked = desk.done("POST", "/services/check", {"selector": {"refs": ["secret"]}}, status=202)
    assert (asked["due"], asked["unknown"]) == (0, ["secret"])
    assert desk.refused("POST", "/services/check", {}, key=desk.reader)[:2] == (403, "permission_denied")


def test_lists_by_several_fields_by_page_and_by_members(desk: Desk) -> None:
    for name, priority, team in (("b", "low", "search"), ("a", "low", 7), ("c", "critical", ["search"])):
        desk.make(name, priority=priority, service_metadata={"team": team, "owner": {"on_call": True}}, tags=["x"])
    assert desk.names("/services?sort=-priority,name") == ["a", "b", "c"]
    assert desk.names("/services?sort=priority&sort=-name") == ["c", "b", "a"]
    assert desk.names("/services?sort=name&metadata.team=search&metadata.owner.on_call=true") == ["b", "c"]
    assert desk.names("/services?metadata.team=7") == ["a"]
    page = desk.ask("GET", "/services?sort=-priority,name&page=2&page_size=1&count=estimated&enabled=true")
    told = page.json()
    assert ([item["name"] for item in told["items"]], told["total"], told["total_is_estimated"]) == (["b"], 3, False)
    link = str(page.header("link")).partition(">")[0].removeprefix(f"<{PREFIX}")
    assert desk.names(link) == ["c"]
    assert desk.done("GET", "/services?q=a&count=estimated")["total_is_estimated"] is True
    for wrong, param in {
        "sort=name,-name": "sort",
        "sort=nothing": "sort.0",
        "page=101&page_size=50": "page",
        "page=1&cursor=eA": "page",
        "metadata.=x": "metadata.",
        "metadata.a..b=x": "metadata.a..b",
        "metadatum.a=x": "metadatum.a",
        "&".join(f"metadata.m{number}=1" for number in range(17)): "metadata",
    }.items():
        assert desk.refused("GET", f"/services?{wrong}")[::2] == (422, param), wrong


def test_numbers_of_services_are_those_of_what_passes(desk: Desk) -> None:
    for name, tags in (("a", ["x", "y"]), ("b", ["x"]), ("c", [])):
        desk.make(name, tags=tags, is_required=name != "c")
    desk.done("PUT", "/services/a/health", {"status": "unhealthy"})
    desk.done("PUT", "/services/b/dependencies/a")
    for query, total, tagged in (("", 3, [("x", 2), ("y", 1)]), ("?q=a", 1, [("x", 1), ("y", 1)])):
        facets = desk.done("GET", f"/services/facets{query}")
        assert (facets["total"], sum(facets["status"].values()), facets["tags_counted_in"]) == (total, total, total)
        assert [(one["tag"], one["services"]) for one in facets["tags"]] == tagged
    assert desk.done("GET", "/services/facets?required=true&tags=x&tags_match=none")["total"] == 0
    assert desk.done("GET", "/services/facets?status=unhealthy")["required"] == 1
    numbers = desk.done("GET", "/statistics")
    assert numbers["required_services"] == {"total": 2, "healthy": 0, "unhealthy_count": 1, "unhealthy": ["a"]}
    assert [one["name"] for one in numbers["top_failing"]] == ["a"]
    assert [(one["name"], one["dependents"]) for one in numbers["most_depended_on"]] == [("a", 1)]
    assert (numbers["stale"], numbers["flapping"], numbers["success_rate_1h"]) == (3, 0, None)
    summary = desk.done("GET", "/health/summary")
    assert (summary["required_unhealthy"], summary["by_status"]["unhealthy"]) == (["a"], 1)
    series = desk.done("GET", "/statistics/timeseries?metric=success_rate")
    assert (series["metric"], series["items"]) == ("success_rate", [])
    assert desk.refused("GET", "/statistics/timeseries?metric=nothing")[::2] == (422, "metric")
    assert desk.refused("POST", "/services", {"name": "facets"})[::2] == (422, "name")


def test_dependencies_go_both_ways_and_never_in_a_circle(desk: Desk) -> None:
    for name in ("web", "api", "db"):
        desk.make(name)
    desk.done("POST", "/services/web/dependencies", {"depends_on": "api"})
    desk.done("PUT", "/services/api/dependencies/db")
    answer = desk.ask("PUT", "/services/db/dependencies/web")
    assert (answer.status, answer.json()["code"]) == (409, "dependency_cycle")
    assert answer.json()["errors"] == [{"code": "dependency_cycle", "path": ["db", "web", "api", "db"]}]
    assert [end["name"] for end in desk.done("GET", "/services/api/dependents")["items"]] == ["web"]
    shown = desk.done("GET", "/services/api?expand=dependencies,dependents")
    assert [end["name"] for end in shown["expanded"]["dependencies"]] == ["db"]
    answer = desk.ask("DELETE", "/services/api")
    assert (answer.status, answer.json()["code"]) == (409, "has_dependents")
    assert answer.json()["errors"] == [{"code": "has_dependents", "name": "web"}]
    desk.done("DELETE", "/services/api?dependents=force")
    deleted = desk.done("GET", "/services/api?include_deleted=true&expand=dependencies,dependents")
    assert [end["name"] for end in deleted["expanded"]["dependents"]] == ["web"]
    assert [end["name"] for end in deleted["expanded"]["dependencies"]] == ["db"]
    desk.done("POST", "/services/api/restore")
    desk.done("DELETE", "/services/api?dependents=detach")
    assert desk.done("GET", "/services/web")["dependencies"] == []
    desk.done("POST", "/services/api/restore")
    desk.done("DELETE", "/services/api/dependencies/db")
    assert desk.done("GET", "/services/db")["dependents"] == []


# What became of them


def test_who_changed_what_is_told_by_member_and_by_page(desk: Desk) -> None:
    desk.make("weather", service_metadata={"team": "a", "tier": {"x": 1}, "api_key": "sk-made-up"})
    desk.done("PATCH", "/services/weather", {"version": "2", "service_metadata": {"tier": {"x": 2}}})
    desk.done("DELETE", "/services/weather")
    page = desk.done("GET", "/services/weather/audit")
    assert [entry["action"] for entry in page["items"]] == ["deleted", "updated", "created"]
    assert page["items"][1]["changes"] == [
        {"path": "service_metadata.tier.x", "old": 1, "new": 2},
        {"path": "version", "old": None, "new": "2"},
    ]
    assert "sk-made-up" not in str(page)
    desk.make("maps")
    seen, cursor = [], ""
    while cursor is not None:
        page = desk.done("GET", f"/audit?limit=2{cursor and f'&cursor={cursor}'}")
        seen += [entry["action"] for entry in page["items"]]
        cursor = page["next_cursor"]
    assert seen == ["created", "deleted", "updated", "created"]
    assert len(desk.done("GET", "/audit?service=weather&action=updated")["items"]) == 1
    assert desk.done("GET", "/audit?until=2020-01-01T00:00:00Z")["items"] == []
    assert desk.done("GET", "/audit?actor=nobody")["items"] == []
    assert desk.refused("GET", "/audit?action=shrugged")[2] == "action"
    assert desk.refused("GET", "/audit?service=nothing")[0] == 404


def test_a_service_goes_back_to_what_it_was(desk: Desk) -> None:
    desk.make("maps")
    desk.make("weather", tags=["a"], dependencies=["maps"], service_metadata={"team": "a", "token": "made-up"})
    desk.done("PATCH", "/services/weather", {"name": "climate", "tags": [], "dependencies": [], "port": 80})
    desk.done("PATCH", "/services/climate", {"service_metadata": {"team": "b", "token": "newer"}})
    desk.done("PUT", "/services/climate/health", {"status": "healthy"})
    versions = desk.done("GET", "/services/climate/versions")["items"]
    assert [entry["version"] for entry in versions] == [1, 2, 3, 4]
    assert desk.done("GET", "/services/climate")["row_version"] == 4
    first = desk.done("GET", "/services/climate/versions/1")["fields"]
    assert (first["name"], first["tags"], first["service_metadata"]["token"]) == ("weather", ["a"], "***")
    back = desk.done("POST", "/services/climate/versions/1/revert")
    assert (back["name"], back["tags"], back["port"], back["status"]) == ("weather", ["a"], None, "healthy")
    assert back["service_metadata"] == {"team": "a", "token": "newer"}
    assert len(back["dependencies"]) == 1
    assert desk.refused("GET", "/services/weather/versions/9") == (404, "not_found", "version")
    assert desk.refused("GET", "/services/weather/versions/0")[0] == 422


# The graph


def test_the_graph_is_shown_in_every_form(desk: Desk) -> None:
    for name, ends in (("db", []), ("cache", []), ("api", ["db", "cache"]), ("web", ["api"])):
        desk.make(name, dependencies=ends, is_required=name == "web")
    desk.done("PUT", "/services/api/dependencies/cache", {"kind": "optional"})
    near = desk.done("GET", "/services/api/dependencies")["items"]
    assert [(end["name"], end["kind"]) for end in near] == [("cache", "optional"), ("db", "runtime")]
    far = desk.done("GET", "/services/web/dependencies?depth=5")["items"]
    assert [end["name"] for end in far] == ["api", "cache", "db"]
    tree = desk.done("GET", "/services/db/dependents?depth=5&format=tree")
    assert (tree["name"], tree["services"][0]["name"], tree["services"][0]["services"][0]["name"]) == (
        "db",
        "api",
        "web",
    )
    graph = desk.done("GET", "/graph")
    assert ([node["name"] for node in graph["nodes"]], len(graph["edges"])) == (["api", "cache", "db", "web"], 3)
    assert len(desk.done("GET", "/graph?root=db&direction=dependents&depth=1")["nodes"]) == 2
    assert desk.ask("GET", "/graph?format=dot").body.startswith(b"digraph")
    assert b"-->" in desk.ask("GET", "/graph?format=mermaid").body
    layers = desk.done("GET", "/graph/order")["layers"]
    assert [[node["name"] for node in layer] for layer in layers] == [["cache", "db"], ["api"], ["web"]]
    assert desk.done("GET", "/graph/cycles") == {"cycles": []}
    assert desk.refused("GET", "/graph?root=nothing")[::2] == (404, "root")


def test_what_would_close_a_circle_is_told_before(desk: Desk) -> None:
    for name in ("a", "b", "c"):
        desk.make(name)
    desk.done("PUT", "/services/a/dependencies/b")
    fine = {"edges": [{"service": "b", "depends_on": "c"}]}
    assert desk.done("POST", "/graph/validate", fine, key=desk.reader) == {"valid": True, "path": None}
    circle = {"edges": [*fine["edges"], {"service": "c", "depends_on": "a"}]}
    verdict = desk.done("POST", "/graph/validate", circle)
    assert (verdict["valid"], sorted(set(verdict["path"]))) == (False, ["a", "b", "c"])
    itself = {"edges": [{"service": "a", "depends_on": "a"}]}
    assert desk.done("POST", "/graph/validate", itself) == {"valid": False, "path": ["a", "a"]}
    assert desk.done("GET", "/services/b/dependencies")["items"] == []


def test_an_impact_has_the_required_services_first(desk: Desk) -> None:
    desk.make("db")
    desk.make("api", dependencies=["db"])
    desk.make("web", dependencies=["api"], is_required=True)
    desk.done("PUT", "/services/db/health", {"status": "unhealthy"})
    impact = desk.done("GET", "/services/db/impact")
    assert (impact["total"], impact["required"]) == (2, 1)
    assert [(one["name"], one["direct"]) for one in impact["services"]] == [("web", False), ("api", True)]


# Documents of other programs


def test_a_clients_file_is_imported_without_its_secrets_and_written_again(desk: Desk) -> None:
    document = {
        "mcpServers": {
            "files": {"command": "npx", "args": ["-y", "@made-up/files"], "env": {"API_KEY": "sk-made-up-secret"}},
            "weather": {"url": "https://weather.example.org/mcp"},
        }
    }
    body = {"format": "mcp_servers", "document": document}
    tried = desk.done("POST", "/services/import", {**body, "dry_run": True})
    assert (tried["created"], desk.names("/services")) == (2, [])
    told = desk.done("POST", "/services/import", body)
    assert (told["created"], told["failed"], len(told["warnings"]) > 0) == (2, 0, True)
    shown = desk.ask("GET", "/services")
    assert b"sk-made-up-secret" not in shown.body
    assert b"sk-made-up-secret" not in desk.ask("GET", "/audit").body
    assert {item["name"]: item["protocol"] for item in shown.json()["items"]} == {"files": "stdio", "weather": "http"}
    again = desk.done("POST", "/services/import", {**body, "on_conflict": "skip"})
    assert (again["created"], again["skipped"]) == (0, 2)
    written = desk.done("GET", "/services/export?format=mcp_servers")["document"]["mcpServers"]
    assert written["weather"]["url"] == "https://weather.example.org/mcp"
    assert written["files"]["command"] == "npx"
    assert len(desk.done("GET", "/services/export?format=server_json&name=weather")["document"]["servers"]) == 1
    broken = {"format": "mcp_servers", "document": {"mcpServers": {"files": {"args": "x"}}}}
    assert desk.refused("POST", "/services/import", broken)[1] == "invalid_document"
