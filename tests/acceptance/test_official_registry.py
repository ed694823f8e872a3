"""A client that knows the official MCP registry's API and nothing else finds, publishes and takes back servers here."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import quote
from uuid import uuid4

import msgspec
import pytest

from tests.acceptance.people import UNPROBED, People, World, living, populate
from tests.fixtures.gateway import Answer
from tests.fixtures.servers import Servers
from tests.unit.registry.official.documents import NPM, REMOTE, server

pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="module")


# The shapes of the official OpenAPI document, as far as we answer with them; what is not in them is not there.


class Official(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What the registry says of a version."""

    status: Literal["active", "deprecated", "deleted"]
    status_changed_at: str
    published_at: str
    updated_at: str
    is_latest: bool
    status_message: str | msgspec.UnsetType = msgspec.UNSET


class Server(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The document."""

    name: str
    description: str
    version: str
    schema_: str | msgspec.UnsetType = msgspec.field(name="$schema", default=msgspec.UNSET)
    title: str | msgspec.UnsetType = msgspec.UNSET
    packages: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    remotes: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


class Meta(msgspec.Struct):
    """What stands beside it; registries may add what is theirs."""

    official: Official = msgspec.field(name="io.modelcontextprotocol.registry/official")


class ServerResponse(msgspec.Struct, forbid_unknown_fields=True):
    """A version of a server."""

    server: Server
    meta: Meta = msgspec.field(name="_meta")


class Metadata(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Of a page."""

    count: int
    next_cursor: str | msgspec.UnsetType = msgspec.UNSET


class ServerList(msgspec.Struct, forbid_unknown_fields=True):
    """A page."""

    servers: list[ServerResponse]
    metadata: Metadata


class AllVersionsStatusResponse(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What became of all versions."""

    updated_count: int
    servers: list[ServerResponse]


class Problem(msgspec.Struct):
    """An error, in both of its shapes."""

    title: str
    status: int
    detail: str
    errors: list[dict[str, str]]
    error: str


class Client:
    """Knows the official API only, under one prefix and with one key."""

    def __init__(self, people: People, key: str, prefix: str = "/v0.1") -> None:
        self._people = people
        self._key = key
        self._prefix = prefix

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        return self._people.ask(method, self._prefix + path, body, key=self._key)

    def get(self, path: str, kind: Any = ServerList) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.body
        return msgspec.json.decode(answer.body, type=kind)

    def refused(self, method: str, path: str, body: object = None) -> Problem:
        answer = self.ask(method, path, body)
        assert answer.header("content-type") == "application/problem+json", answer.body
        problem = msgspec.json.decode(answer.body, type=Problem)
        assert problem.status == answer.status
        return problem

    def publish(self, **more: Any) -> ServerResponse:
        answer = self.ask("POST", "/publish", server(**more))
        assert answer.status == 200, answer.body
        return msgspec.json.decode(answer.body, type=ServerResponse)

    def one(self, name: str, version: str = "latest", more: str = "") -> ServerResponse:
        found: ServerResponse = self.get(f"{path_of(name)}/versions/{version}{more}", ServerResponse)
        return found

    def walk(self, query: str) -> Iterator[ServerResponse]:
        cursor = ""
        while True:
            page: ServerList = self.get(f"/servers?{query}{cursor}")
            assert page.metadata.count == len(page.servers)
            yield from page.servers
            if page.metadata.next_cursor is msgspec.UNSET:
                return
            cursor = f"&cursor={quote(str(page.metadata.next_cursor), safe='')}"


def path_of(name: str) -> str:
    return f"/servers/{quote(name, safe='')}"


@pytest.fixture(scope="module")
def world(servers: Servers) -> Iterator[World]:
    with living(servers, UNPROBED) as people:
        yield populate(people)


@pytest.fixture(params=["/v0.1", "/v0"])
def client(world: World, request: pytest.FixtureRequest) -> Client:
    return Client(world.people, world.keys["member"], request.param)


@pytest.fixture
def name() -> str:
    return f"com.example/{uuid4().hex}"


def test_a_server_is_published_found_deprecated_and_deleted(client: Client, name: str) -> None:
    published = client.publish(name=name, title="Mail", packages=[NPM])
    assert published.server.packages == [NPM]
    assert published.meta.official.is_latest
    assert client.one(name) == client.one(name, "1.0.0") == published
    newer = client.publish(name=name, version="1.1.0")
    assert client.one(name) == newer
    versions = client.get(f"{path_of(name)}/versions")
    assert [found.server.version for found in versions.servers] == ["1.1.0", "1.0.0"]
    answer = client.ask(
        "PATCH", f"{path_of(name)}/versions/1.0.0/status", {"status": "deprecated", "statusMessage": "Use 1.1.0."}
    )
    changed = msgspec.json.decode(answer.body, type=ServerResponse)
    assert (changed.meta.official.status, changed.meta.official.status_message) == ("deprecated", "Use 1.1.0.")
    answer = client.ask("DELETE", f"{path_of(name)}/versions/1.1.0")
    assert msgspec.json.decode(answer.body, type=ServerResponse).meta.official.status == "deleted"
    assert client.one(name).server.version == "1.0.0"
    answer = client.ask("PATCH", f"{path_of(name)}/status", {"status": "deleted"})
    assert msgspec.json.decode(answer.body, type=AllVersionsStatusResponse).updated_count == 1
    assert client.refused("GET", f"{path_of(name)}/versions/latest").error == "Server not found."
    assert client.one(name, "1.1.0", "?include_deleted=true").meta.official.status == "deleted"


def test_pages_hold_every_server_once_while_others_publish(client: Client) -> None:
    space = f"com.example.{uuid4().hex}"
    for number in range(7):
        client.publish(name=f"{space}/s{number}")
    seen = []
    for found in client.walk(f"search={space}&version=latest&limit=2"):
        seen.append(found.server.name)
        client.publish(name=found.server.name, version=f"1.0.{len(seen)}")
    assert seen == [f"{space}/s{number}" for number in range(7)]
    changed = [found.server.version for found in client.walk(f"search={space}&updated_since=2026-01-01T00:00:00Z")]
    assert len(changed) == 14


def test_a_version_with_build_metadata_is_named_in_a_path(client: Client, name: str) -> None:
    client.publish(name=name, version="1.0.0+20261125")
    assert client.one(name, "1.0.0%2B20261125").server.version == "1.0.0+20261125"


def test_a_name_may_come_with_its_slash_as_it_is(client: Client, name: str) -> None:
    client.publish(name=name)
    assert client.get(f"/servers/{name}/versions/latest", ServerResponse).server.name == name


def test_a_document_is_validated_without_being_published(client: Client, name: str) -> None:
    good = client.ask("POST", "/validate", server(name=name))
    assert (good.status, good.json()["valid"]) == (200, True)
    bad = client.ask("POST", "/validate", server(name=name, version="latest", remotes=[{"type": "sse"}])).json()
    assert bad["valid"] is False
    assert {issue["path"] for issue in bad["issues"]} == {"version", "remotes[0].url"}
    assert {"type", "path", "message", "severity", "reference"} == bad["issues"][0].keys()
    assert client.ask("POST", "/validate", [1]).json()["issues"][0]["type"] == "json"
    assert client.refused("GET", f"{path_of(name)}/versions/latest").status == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/servers?limit=0", None, 422),
        ("GET", "/servers?limit=101", None, 422),
        ("GET", "/servers?updated_since=yesterday", None, 400),
        ("GET", "/servers?updated_since=2026-01-01T00:00:00Z&include_deleted=false", None, 400),
        ("GET", "/servers?cursor=nonsense", None, 400),
        ("GET", f"/servers?cursor={base64.urlsafe_b64encode(b'{}').decode()}", None, 400),
        ("GET", "/servers/com.example%2Fmail", None, 404),
        ("GET", "/servers/com.example%2Fnobody/versions", None, 404),
        ("GET", "/servers/com.example%2Fmail/status", None, 405),
        ("PATCH", "/servers/com.example%2Fmail/versions/1.0.0", {"status": "deleted"}, 405),
        ("PATCH", "/servers/com.example%2Fnobody/status", {"status": "deleted"}, 404),
        ("PATCH", "/servers/com.example%2Fnobody/status", {"status": "gone"}, 400),
        ("PATCH", "/servers/com.example%2Fnobody/status", {"status": "active", "statusMessage": "x"}, 400),
        ("DELETE", "/servers/com.example%2Fnobody/versions/1.0.0", None, 404),
        ("POST", "/publish", {"name": "x"}, 400),
        ("POST", "/publish", [1], 400),
        ("POST", "/auth/github-at", {"github_token": "x"}, 501),
        ("DELETE", "/servers", None, 405),
        ("GET", "/publish", None, 405),
        ("GET", "/nothing", None, 404),
        ("GET", "/servers/com.example%2F..%2Fmail/versions", None, 400),
        ("GET", "/servers//versions", None, 400),
        ("POST", "/publish", {"name": "x" * 200_000}, 413),
    ],
)
def test_what_is_refused_is_told_of_in_both_shapes(
    client: Client, method: str, path: str, body: object, status: int
) -> None:
    problem = client.refused(method, path, body)
    assert problem.status == status
    assert problem.error == problem.detail
    assert problem.errors


def test_a_version_is_published_once(client: Client, name: str) -> None:
    client.publish(name=name)
    problem = client.refused("POST", "/publish", server(name=name))
    assert (problem.status, problem.title) == (400, "Bad Request")
    assert "duplicate version" in problem.errors[0]["message"]


def test_another_tenant_sees_nothing_of_it(world: World, client: Client, name: str) -> None:
    client.publish(name=name)
    rival = Client(world.people, world.keys["other tenant"])
    assert list(rival.walk(f"search={quote(name, safe='')}&include_deleted=true")) == []
    assert rival.refused("GET", f"{path_of(name)}/versions/1.0.0").status == 404
    assert rival.refused("DELETE", f"{path_of(name)}/versions/1.0.0").status == 404
    assert rival.refused("PUT", f"{path_of(name)}/versions/1.0.0", server(name=name)).status == 404
    assert client.one(name).meta.official.status == "active"


def test_only_who_administers_a_tenant_replaces_what_was_published(world: World, client: Client, name: str) -> None:
    client.publish(name=name)
    mended = server(name=name, description="Mended.", remotes=[REMOTE])
    assert client.refused("PUT", f"{path_of(name)}/versions/1.0.0", mended).status == 403
    admin = Client(world.people, world.keys["tenant admin"])
    assert admin.ask("PUT", f"{path_of(name)}/versions/1.0.0", mended).status == 200
    assert client.one(name).server.description == "Mended."


def test_without_a_key_nothing_is_read(world: World) -> None:
    nobody = Client(world.people, "")
    assert nobody.refused("GET", "/servers").status == 401
    assert nobody.refused("POST", "/validate", server()).status == 401
    for path in ("/health", "/ping", "/version"):
        assert nobody.ask("GET", path).status == 200
