"""A gateway takes servers from another one and from registries that misbehave: once, or again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.registry.app import app
from hx_gateway.registry.import_places import MAX_OF_TENANT
from hx_gateway.registry.repository import MAX_BULK
from tests.acceptance.people import UNPROBED, People, living
from tests.acceptance.test_registry_http import PREFIX
from tests.fixtures.foreign_registry import ForeignRegistry, foreign_registry
from tests.fixtures.gateway import Answer, Gateway
from tests.fixtures.servers import SERVERS, Servers, running_servers
from tests.integration.db.databases import migrated_database
from tests.unit.registry.official.documents import IMAGE, server

SECONDS = 60.0
PUBLIC = "https://gateway.example.com"
ALLOWED = {**UNPROBED, "HX_EGRESS_ALLOW": "127.0.0.1/32"}


@pytest.fixture(scope="module")
def stores() -> Iterator[Servers]:
    with running_servers(SERVERS[0]) as servers:
        yield servers


@pytest.fixture(scope="module")
def upstream(stores: Servers) -> Iterator[People]:
    """Run a gateway with a database of its own, whose servers everybody may read."""
    with migrated_database(stores.postgres) as url:
        environ = {
            **UNPROBED,
            "PG_URL": stores.postgres.ordinary_url(url),
            "REDIS_URL": "none",
            "HX_REGISTRY_PUBLIC_TENANT": "default",
            "HX_REGISTRY_NAMESPACE": "com.acme",
            "HX_REGISTRY_PACKAGE_SOURCES": "oci=images.example.com",
        }
        with living(stores, environ) as people:
            yield people


@pytest.fixture(scope="module")
def people(stores: Servers, upstream: People) -> Iterator[People]:
    """Run a gateway that follows the other one for its tenant ``default``."""
    environ = {**ALLOWED, "HX_REGISTRY_SYNC": f"default={upstream.gateway.url}", "HX_PUBLIC_URL": PUBLIC}
    with living(stores, environ) as found:
        yield found


@pytest.fixture
def foreign() -> Iterator[ForeignRegistry]:
    with foreign_registry() as registry:
        yield registry


@pytest.fixture
def name() -> str:
    return f"com.example/{uuid4().hex}"


def synced(people: People) -> dict[str, Any]:
    """Follow now, and return how that went."""
    before = people.done("GET", f"{PREFIX}/sync")["items"]
    answer = people.ask("POST", f"{PREFIX}/sync")
    assert answer.status == 202, answer.body

    def ended() -> bool:
        (item,) = people.done("GET", f"{PREFIX}/sync")["items"]
        return not item["running"] and [item[at] for at in ENDS] != [(before or [{}])[0].get(at) for at in ENDS]

    people.gateway.wait_until(ended, SECONDS)
    return dict(people.done("GET", f"{PREFIX}/sync")["items"][0])


ENDS = ("succeeded_at", "failed_at")


def services(people: People, name: str) -> list[Any]:
    """Return the service of a name, which no path can have for its slash."""
    items = people.done("GET", f"{PREFIX}/services?limit=200&sort=-created_at")["items"]
    return [item for item in items if item["name"] == name]


def service(people: People, name: str) -> Any:
    (found,) = services(people, name)
    return found


def publish(people: People, name: str, **more: Any) -> None:
    people.done("POST", "/v0.1/publish", server(name=name, **more))


# Settings


def test_who_shows_no_key_reads_the_public_tenant_under_the_namespace_that_was_set(upstream: People) -> None:
    upstream.ask("POST", f"{PREFIX}/services", {"name": "plain", "protocol": "http", "endpoint": "https://a.example"})
    answer = upstream.ask("GET", "/v0.1/servers/com.acme%2Fplain/versions/latest", key="")
    assert answer.status == 200, answer.body
    assert answer.json()["server"]["remotes"][0]["url"] == "https://a.example"
    assert upstream.ask("POST", "/v0.1/publish", server(name="com.example/x"), key="").status == 401


def test_packages_come_from_the_sources_that_were_set(upstream: People, name: str) -> None:
    publish(upstream, name, packages=[IMAGE])
    other = {**IMAGE, "identifier": "images.example.net/acme/mail:1.0.0"}
    refused = upstream.ask("POST", "/v0.1/publish", server(name=name, version="2.0.0", packages=[other]))
    assert (refused.status, refused.json()["errors"][0]["location"]) == (400, "body.packages[0].identifier")


def test_clients_are_sent_to_the_gateways_own_address(people: People) -> None:
    people.ask("POST", f"{PREFIX}/services", {"name": "near", "protocol": "http", "endpoint": "https://a.example"})
    found = people.done("GET", "/v0.1/servers/internal.hx-gateway%2Fnear/versions/latest")
    assert found["server"]["remotes"][0]["url"] == f"{PUBLIC}/mcp/s/near"
    assert people.ask("GET", "/v0.1/servers", key="").status == 401


# Following


def test_a_gateway_follows_another_one(people: People, upstream: People, name: str) -> None:
    publish(upstream, name, title="Mail")
    state = synced(people)
    assert (state["last_error"], state["created"] >= 1) == (None, True)
    shown = service(people, name)
    assert (shown["display_name"], shown["source"], shown["build_type"]) == ("Mail", "official", "official")
    assert (shown["registry_url"], shown["created_by"]) == (upstream.gateway.url, "sync")
    people.done("PATCH", f"{PREFIX}/services/{shown['id']}", {"display_name": "Our mail"})
    since = people.done("GET", f"{PREFIX}/changes")["next_since"]
    publish(upstream, name, version="2.0.0", title="Post")
    synced(people)
    shown = service(people, name)
    assert (shown["display_name"], shown["version"]) == ("Our mail", "2.0.0")
    upstream.done("PATCH", f"/v0.1/servers/{quote(name, safe='')}/status", {"status": "deleted"})
    assert synced(people)["disabled"] == 1
    shown = service(people, name)
    assert (shown["status"], shown["is_enabled"], shown["deleted_at"]) == ("disabled", False, None)
    told = people.done("GET", f"{PREFIX}/changes?since={since}")["items"]
    assert [event["data"]["actor"]["key"] for event in told] == ["sync", "sync"]
    assert told[-1]["data"]["after"] == {"status": "disabled", "is_enabled": False}
    metrics = people.gateway.get("/metrics", key=people.gateway.key).body.decode()
    assert "hx_registry_sync_last_success_timestamp_seconds{" in metrics


def test_a_gateway_that_is_stopped_in_the_middle_goes_on_when_it_is_back(
    stores: Servers, foreign: ForeignRegistry
) -> None:
    with migrated_database(stores.postgres) as url:
        environ = {**ALLOWED, "PG_URL": stores.postgres.ordinary_url(url), "HX_REGISTRY_SYNC": f"default={foreign.url}"}
        for number in range(7):
            foreign.put(f"com.example/s{number}")
        page = foreign.page

        def stops(query: Any) -> Any:
            if "cursor" in query:
                foreign.gate.clear()
                foreign.gate.wait()
            return page(query)

        foreign.page = stops  # type: ignore[method-assign]
        with living(stores, environ) as people:
            people.gateway.wait_until(lambda: not foreign.gate.is_set(), SECONDS)
            assert people.done("GET", f"{PREFIX}/services?count=exact")["total"] == 3
        foreign.page = page  # type: ignore[method-assign]
        foreign.gate.set()
        with living(stores, environ) as people:
            people.gateway.wait_until(lambda: bool(state_of(people)["succeeded_at"]), SECONDS)
            assert people.done("GET", f"{PREFIX}/services?count=exact")["total"] == 7


def state_of(people: People) -> dict[str, Any]:
    items = people.done("GET", f"{PREFIX}/sync")["items"]
    return dict(items[0]) if items else {"succeeded_at": None}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HX_REGISTRY_NAMESPACE", "not a namespace"),
        ("HX_REGISTRY_PACKAGE_SOURCES", "oci"),
        ("HX_REGISTRY_SYNC", "https://registry.example.com"),
        ("HX_REGISTRY_SYNC", "default=ftp://registry.example.com"),
    ],
)
def test_a_setting_that_cannot_be_stops_the_start(stores: Servers, tmp_path: Any, variable: str, value: str) -> None:
    environ = {"PG_URL": stores.postgres.ordinary_url(), "REDIS_URL": "none", "QDRANT_URL": "none", variable: value}
    gateway = Gateway(environ, tmp_path).start(wait=False)
    assert gateway.process is not None
    assert gateway.process.wait(SECONDS) == 78
    assert variable in gateway.log()


# Importing


def imported(people: People, source: str, **more: Any) -> Any:
    body = {"format": "official_registry", "source": source, **more}
    return people.ask("POST", f"{PREFIX}/services/import", body)


def test_all_pages_of_a_registry_are_imported(people: People, foreign: ForeignRegistry) -> None:
    space = f"com.example.{uuid4().hex}"
    for number in range(7):
        foreign.put(f"{space}/s{number}")
    tried = imported(people, foreign.url, dry_run=True).json()
    assert (tried["dry_run"], tried["created"]) == (True, 7)
    assert services(people, f"{space}/s0") == []
    told = imported(people, foreign.url, mode="atomic").json()
    assert (told["created"], told["failed"], [each["index"] for each in told["results"]]) == (7, 0, list(range(7)))
    shown = service(people, f"{space}/s0")
    assert (shown["source"], shown["registry_url"]) == ("official", foreign.url)
    since = foreign.now.isoformat()
    again = imported(people, foreign.url, updated_since=since, on_conflict="update").json()
    assert (again["updated"], again["created"]) == (1, 0)
    assert imported(people, f"{foreign.url}/odd", on_conflict="skip").json()["skipped"] == 7
    assert len(imported(people, f"{foreign.url}/odd", on_conflict="skip").json()["warnings"]) == 18


def test_so_many_registries_are_imported_at_once_and_whoever_is_too_many_is_told_when_to_come_again(
    people: People, foreign: ForeignRegistry
) -> None:
    foreign.put(f"com.example/{uuid4().hex}")
    foreign.gate.clear()
    other = people.made("tenants", id=f"tn-{uuid4().hex[:12]}")["id"]
    body = {"format": "official_registry", "source": foreign.url, "on_conflict": "skip"}

    def ask(tenant: str) -> Answer:
        return people.ask("POST", f"{PREFIX}/services/import?tenant_id={tenant}", body)

    with ThreadPoolExecutor() as runners:
        begun = [runners.submit(ask, "default") for _ in range(MAX_OF_TENANT + 1)]
        refused = next(as_completed(begun, SECONDS)).result()
        assert (refused.status, refused.json()["code"]) == (429, "imports_busy"), refused.body
        assert (refused.header("retry-after"), refused.header("retry-after-ms")) == ("10", "10000")
        others = runners.submit(ask, other)
        document = {"format": "mcp_servers", "document": {"mcpServers": {}}}
        assert people.ask("POST", f"{PREFIX}/services/import", document).status == 200
        foreign.gate.set()
        assert sorted(one.result().status for one in begun) == [200] * MAX_OF_TENANT + [429]
        assert others.result().status == 200
    assert ask("default").status == 200


def test_a_registry_with_more_than_is_imported_is_refused_as_soon_as_that_is_known(
    people: People, foreign: ForeignRegistry
) -> None:
    for number in range(MAX_BULK + 30):
        foreign.put(f"com.example.many/s{number}")
    foreign.page_servers = 100
    answer = imported(people, foreign.url, mode="atomic")
    assert (answer.status, answer.json()["param"]) == (422, "source")
    assert "more than 500 servers" in answer.json()["detail"]
    assert len(foreign.asked) == 6
    assert services(people, "com.example.many/s0") == []


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"source": "https://registry.example.com", "document": {}}, "document", "invalid_request"),
        ({}, "source", "invalid_request"),
        ({"source": "registry.example.com"}, "source", "source_refused"),
        ({"source": "http://169.254.169.254/"}, "source", "source_refused"),
        ({"source": "http://127.0.0.1:1024"}, "source", "source_failed"),
        ({"source": "https://a\x00.example.com"}, "source", "source_refused"),
        ({"source": "https://registry.example.com", "updated_since": "yesterday"}, "updated_since", "invalid_request"),
        ({"format": "server_json", "document": {}, "updated_since": "2026-01-01T00:00:00Z"}, "updated_since", None),
        ({"format": "server_json"}, "document", None),
    ],
)
def test_what_cannot_be_imported_is_refused(people: People, body: Any, param: str, code: str | None) -> None:
    answer = people.ask("POST", f"{PREFIX}/services/import", {"format": "official_registry", **body})
    assert (answer.status, answer.json()["param"]) == (422, param)
    assert code is None or answer.json()["code"] == code


@pytest.mark.parametrize("mode", ["redirects", "fails", "page", "other", "cursor", "deep", "large"])
def test_a_registry_that_misbehaves_is_told_of(people: People, foreign: ForeignRegistry, mode: str) -> None:
    answer = imported(people, f"{foreign.url}/{mode}")
    assert (answer.status, answer.json()["param"]) == (422, "source")
    assert answer.json()["code"] in ("source_failed", "source_refused")


# The command line


def run(people: People, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", people.gateway.url, "--key", people.gateway.key])


def test_registries_are_imported_and_followed_from_the_command_line(
    people: People, foreign: ForeignRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    space = f"com.example.{uuid4().hex}"
    for number in range(4):
        foreign.put(f"{space}/s{number}")
    result = run(people, "import", "--format", "official_registry", foreign.url)
    assert (result.exit_code, result.stdout) == (0, "4 created\n"), result.output
    file = tmp_path / "clients.json"
    file.write_text(json.dumps({"mcpServers": {f"clients-{uuid4().hex}": {"url": "https://mail.example.com/mcp"}}}))
    result = run(people, "import", "--format", "mcp_servers", str(file))
    assert (result.exit_code, result.stdout) == (0, "1 created\n"), result.output
    refused = run(people, "import", "--format", "official_registry", f"{foreign.url}/fails")
    assert (refused.exit_code, "status 500" in refused.output) == (1, True)
    result = run(people, "sync", "--now")
    assert (result.exit_code, "watermark" in result.stdout) == (0, True), result.output
    assert json.loads(run(people, "sync", "--json").stdout)["items"][0]["tenant_id"] == "default"
