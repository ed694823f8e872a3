"""From a service that is not there yet to one that is gone for good, over HTTP, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.sse_client import EventStream
from tests.acceptance.test_registry_http import PREFIX, Desk
from tests.fixtures.servers import Servers

SECONDS = 30.0
OWNED = ("id", "created_at", "dependents", "health_score", "last_seen", "row_version", "success_count")


@pytest.fixture(scope="module")
def people(servers: Servers) -> Iterator[People]:
    with living(servers, UNPROBED) as found:
        yield found


@pytest.fixture
def desk(people: People) -> Desk:
    return Desk(people)


@pytest.fixture
def admin(desk: Desk) -> str:
    """Give the key of an admin of the tenant."""
    return str(desk.people.key(tenant_id=desk.tenant, admin_role="tenant_admin")["key"])


# For good


def test_what_is_deleted_may_be_removed_for_good_by_an_admin(desk: Desk, admin: str) -> None:
    made = desk.make("weather")
    events = EventStream(desk.people.gateway, f"{PREFIX}/events?since=0", key=desk.reader, seconds=SECONDS)
    assert desk.refused("DELETE", "/services/weather?hard=true", key=admin) == (409, "not_deleted", "hard")
    desk.done("DELETE", "/services/weather")
    shown = f"/services/{made['id']}?include_deleted=true"
    assert desk.done("GET", shown)["is_deleted"] is True
    assert desk.refused("DELETE", "/services/weather?hard=true") == (403, "permission_denied", "hard")
    stale = {"if-match": 'W/"1"'}
    assert desk.refused("DELETE", "/services/weather?hard=true", key=admin, headers=stale)[0] == 412
    gone = desk.done("DELETE", "/services/weather?hard=true", key=admin)
    assert (gone["id"], gone["is_deleted"]) == (made["id"], True)
    # What was kept of it is not found any more.
    assert desk.refused("GET", shown) == (404, "not_found", "ref")
    assert desk.names("/services?include_deleted=true") == []
    assert desk.refused("POST", "/services/weather/restore")[0] == 404
    assert desk.refused("DELETE", "/services/weather?hard=true", key=admin)[0] == 404
    assert desk.refused("DELETE", "/services/weather?hard=maybe", key=admin)[2] == "hard"
    again = desk.make("weather")
    assert again["id"] != made["id"]
    told = [events.next() for _ in range(4)]
    assert [(event.type, event.data["subject"]) for event in told] == [
        ("service.created", "weather"),
        ("service.deleted", "weather"),
        ("service.purged", "weather"),
        ("service.created", "weather"),
    ]
    events.cut()
    page = desk.done("GET", f"/audit?service={made['id']}")
    assert [entry["action"] for entry in page["items"]] == ["purged", "deleted", "created"]
    assert [entry["service_id"] for entry in desk.done("GET", "/audit?action=purged")["items"]] == [made["id"]]


def test_many_are_removed_for_good(desk: Desk, admin: str) -> None:
    for name in ("one", "two", "three"):
        desk.make(name)
    desk.done("DELETE", "/services/bulk", {"selector": {"refs": ["one", "two"]}})
    body = {"selector": {"filter": {"include_deleted": "only"}}, "hard": True}
    assert desk.refused("DELETE", "/services/bulk", body) == (403, "permission_denied", "hard")
    tried = desk.done("DELETE", "/services/bulk", {**body, "dry_run": True}, key=admin)
    assert (tried["purged"], tried["dry_run"]) == (2, True)
    done = desk.done("DELETE", "/services/bulk", body, key=admin)
    assert (done["purged"], done["deleted"], done["failed"]) == (2, 0, 0)
    assert desk.names("/services?include_deleted=true") == ["three"]
    assert desk.refused("DELETE", "/services/bulk", {**body, "hard": "yes"}, key=admin)[2] == "hard"


# Not there yet


def test_a_service_waits_for_names_that_nobody_has_yet(desk: Desk) -> None:
    made = desk.make("weather", pending_dependencies=["maps"])
    assert (made["dependencies"], made["pending_dependencies"]) == ([], ["maps"])
    since = desk.done("GET", "/changes")["next_since"]
    maps = desk.make("maps")
    shown = desk.done("GET", "/services/weather")
    assert (shown["dependencies"], shown["pending_dependencies"]) == ([maps["id"]], [])
    changes = desk.done("GET", f"/changes?since={since}&types=service.dependency_changed")["items"]
    assert [(change["subject"], change["data"]["changed_fields"]) for change in changes] == [
        ("weather", ["dependencies", "pending_dependencies"])
    ]
    # Without it, a name that nobody has is refused as ever.
    assert desk.refused("POST", "/services", {"name": "web", "dependencies": ["nothing"]})[0] == 404
    assert desk.done("PATCH", "/services/weather", {"pending_dependencies": ["tiles"]})["row_version"] == 3
    items = [{"name": "web", "pending_dependencies": ["api"]}, {"name": "api"}]
    assert desk.done("POST", "/services/bulk", {"items": items})["created"] == 2
    assert len(desk.done("GET", "/services/web")["dependencies"]) == 1


@pytest.mark.parametrize("names", [["web"], ["a", "A"], [""], "a", ["a\u0000"], ["x" * 256], [5], None, ["a"] * 201])
def test_names_that_nobody_can_have_are_refused(desk: Desk, names: Any) -> None:
    status, _, param = desk.refused("POST", "/services", {"name": "web", "pending_dependencies": names})
    assert (status, (param or "").partition(".")[0]) == (422, "pending_dependencies")


# Read, edited, put back


def test_a_service_that_was_read_can_be_edited_and_put_back(desk: Desk) -> None:
    desk.make("maps")
    desk.make("weather", tags=["a"], dependencies=["maps"], pending_dependencies=["clock"], port=80)
    desk.make("web", dependencies=["weather"])
    desk.done("PUT", "/services/weather/health", {"status": "healthy"})
    answer = desk.ask("GET", "/services/weather?expand=dependencies")
    document = answer.json()
    put = desk.ask("PUT", "/services/weather", document, headers={"if-match": answer.header("etag")})
    assert (put.status, put.json()["row_version"]) == (200, document["row_version"])
    edited = {**document, "tags": ["b"], "id": "made up", "success_count": -1, "dependents": [], "tenant_id": 5}
    for method in ("PUT", "PATCH"):
        now = desk.done(method, "/services/weather", edited)
        assert (now["tags"], now["row_version"]) == (["b"], document["row_version"] + 1)
        assert {name: now[name] for name in OWNED[:3]} == {name: document[name] for name in OWNED[:3]}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_what_only_the_gateway_sets_is_refused_where_that_is_asked_for(desk: Desk, method: str) -> None:
    document = desk.make("weather")
    answer = desk.ask(method, "/services/weather?strict=true", {"name": "weather", **dict.fromkeys(OWNED, 1)})
    assert answer.status == 422
    assert [error["param"] for error in answer.json()["errors"]] == sorted(OWNED)
    assert desk.done(method, "/services/weather?strict=true", {"name": "weather"})["id"] == document["id"]
    # What nobody knows is refused always.
    assert desk.refused(method, "/services/weather", {"name": "weather", "nickname": "x"})[2] == "nickname"
    assert desk.refused("POST", "/services", {"name": "web", "id": document["id"]})[2] == "id"


# What goes with lists


@pytest.mark.parametrize("path", ["/services", "/services/healthy", "/services/by-tag/a"])
def test_a_list_says_what_comes_after_it(desk: Desk, path: str) -> None:
    desk.make("weather")
    index = desk.ask("GET", path).header("x-registry-index")
    assert desk.done("GET", f"/changes?since={index}")["items"] == []
    desk.make("maps")
    assert [change["subject"] for change in desk.done("GET", f"/changes?since={index}")["items"]] == ["maps"]


def test_an_admin_of_the_platform_is_told_of_a_tenant_that_there_is_not(desk: Desk, people: People) -> None:
    root = people.gateway.key
    for path in ("/services", "/statistics", "/tags", "/services/weather"):
        assert desk.refused("GET", f"{path}?tenant_id=tn-nobody", key=root) == (404, "not_found", "tenant_id")
        assert desk.ask("GET", f"{path}?tenant_id={desk.tenant}", key=root).status in (200, 404)
