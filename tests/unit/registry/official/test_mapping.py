"""Services as documents, and documents as services: what is made is valid, and nothing is lost on the way."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.models.registry_items import BuildType, RegistryItem, ServiceProtocol
from hx_gateway.registry.official.mapping import SERVER_JSON, Lifecycle, ServerMapping, fields_of, with_config
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.server_json import OFFICIAL_META, errors_of, validate
from tests.unit.registry.official.documents import BUNDLE, IMAGE, NPM, REMOTE, server

NAMING = Naming("com.acme")
MAPPING = ServerMapping(NAMING)
ID = UUID("6f1f2f0e-0000-4000-8000-000000000000")
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
SSE = {"type": "sse", "url": "https://mail.example.com/sse"}


def item(**fields: Any) -> dict[str, Any]:
    return RegistryItem(**{"id": ID, "name": "mail", **fields}).to_dict()


def document(**fields: Any) -> dict[str, Any]:
    return MAPPING.document_of(item(**fields))


def test_a_service_that_is_spoken_to_over_http_is_a_remote() -> None:
    made = document(protocol="http", endpoint="https://mail.example.com/mcp", description="Mail.", version="1.2.3")
    assert (made["name"], made["description"], made["version"]) == ("com.acme/mail", "Mail.", "1.2.3")
    assert made["remotes"] == [REMOTE]
    assert document(protocol="http", endpoint=SSE["url"], config={"transport": "sse"})["remotes"] == [SSE]


def test_through_the_gateway_every_service_is_a_remote() -> None:
    through = ServerMapping(NAMING, gateway_url="https://gw.example.com/")
    made = through.document_of(item(name="my mail", protocol="tcp"))
    (remote,) = made["remotes"]
    assert remote["url"] == "https://gw.example.com/mcp/s/my%20mail"
    assert remote["headers"][0]["isSecret"] is True
    assert errors_of(validate(made)) == []


@pytest.mark.parametrize("protocol", ["websocket", "tcp", "unix_socket", "stdio"])
def test_what_no_client_could_speak_to_is_no_remote(protocol: str) -> None:
    assert "remotes" not in document(protocol=protocol, endpoint="wss://mail.example.com/mcp")


def test_a_package_in_the_config_is_one() -> None:
    package = {"registryType": "npm", "identifier": "@acme/mail", "version": "1.0.0"}
    assert document(config={"package": package})["packages"] == [NPM]
    assert "packages" not in document(config={"package": {"identifier": "@acme/mail"}})


@pytest.mark.parametrize("version", [None, "", "latest", "^1.0", "1 0"])
def test_a_service_without_a_version_that_is_one_has_the_first_there_is(version: str | None) -> None:
    assert document(version=version)["version"] == "0.0.0"


def test_texts_are_cut_and_never_empty() -> None:
    made = document(display_name="T" * 200, description="d" * 200)
    assert (len(made["title"]), len(made["description"])) == (100, 100)
    assert document(description="  ")["description"] == "mail"
    assert document(name="my mail")["title"] == "my mail"


def test_a_secret_in_an_address_becomes_a_variable() -> None:
    made = document(protocol="http", endpoint="https://mail.example.com/mcp?api_key=abc&x=1")
    (remote,) = made["remotes"]
    assert remote["url"] == "https://mail.example.com/mcp?api_key={api_key}&x=1"
    assert remote["variables"] == {"api_key": {"isRequired": True, "isSecret": True}}


TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=150)
ITEMS = st.fixed_dictionaries(
    {
        "name": TEXTS.filter(lambda name: name.strip() == name != ""),
        "display_name": st.none() | TEXTS,
        "description": st.none() | TEXTS,
        "version": st.none() | TEXTS.map(lambda text: text[:50]),
        "protocol": st.sampled_from(ServiceProtocol),
        "endpoint": st.none() | TEXTS | st.just("https://mail.example.com/{a}"),
        "config": st.dictionaries(
            st.sampled_from(["package", "transport", SERVER_JSON]),
            TEXTS | st.dictionaries(st.sampled_from(["packages", "remotes", "icons", "identifier"]), TEXTS),
        ),
    }
)


@given(ITEMS)
def test_whatever_a_service_holds_its_document_is_valid(fields: dict[str, Any]) -> None:
    assert errors_of(validate(document(**fields))) == []


DOCUMENTS = st.builds(
    server,
    name=st.sampled_from(["com.acme/mail", "io.example/mail"]),
    title=st.none() | st.just("Mail"),
    version=st.sampled_from(["1.0.0", "2026-11-25", "1.0.0-rc.1"]),
    packages=st.none() | st.lists(st.sampled_from([NPM, IMAGE, BUNDLE]), min_size=1, max_size=2),
    remotes=st.none() | st.lists(st.sampled_from([REMOTE, SSE]), min_size=1, max_size=2, unique_by=str),
    websiteUrl=st.none() | st.just("https://example.com"),
    repository=st.none() | st.just({"url": "https://github.com/acme/mail", "source": "github"}),
    icons=st.none() | st.just([{"src": "https://example.com/i.png"}]),
)


@given(DOCUMENTS)
def test_a_document_survives_the_way_through_a_service(before: dict[str, Any]) -> None:
    fields = fields_of(before, NAMING)
    assert MAPPING.document_of(item(**fields)) == before


@pytest.mark.parametrize(
    ("more", "build_type", "protocol", "endpoint"),
    [
        ({}, BuildType.EXTERNAL, ServiceProtocol.HTTP, REMOTE["url"]),
        ({"remotes": [SSE, REMOTE]}, BuildType.EXTERNAL, ServiceProtocol.HTTP, REMOTE["url"]),
        ({"remotes": None, "packages": [IMAGE]}, BuildType.DOCKER, ServiceProtocol.STDIO, None),
        ({"remotes": None, "packages": [NPM]}, BuildType.CUSTOM, ServiceProtocol.STDIO, None),
        ({"packages": [NPM]}, BuildType.CUSTOM, ServiceProtocol.HTTP, REMOTE["url"]),
        ({"remotes": None}, BuildType.CUSTOM, ServiceProtocol.STDIO, None),
        (
            {"remotes": None, "packages": [{**NPM, "transport": {"type": "sse", "url": "http://localhost:80/sse"}}]},
            BuildType.CUSTOM,
            ServiceProtocol.HTTP,
            "http://localhost:80/sse",
        ),
        (
            {"remotes": [{"type": "sse", "url": "https://{r}.example.com", "variables": {"r": {}}}]},
            BuildType.EXTERNAL,
            ServiceProtocol.HTTP,
            None,
        ),
    ],
)
def test_a_document_says_how_a_service_is_made_and_spoken_to(
    more: dict[str, Any], build_type: BuildType, protocol: ServiceProtocol, endpoint: str | None
) -> None:
    fields = fields_of(server(**more), NAMING)
    assert (fields["build_type"], fields["protocol"], fields["endpoint"]) == (build_type, protocol, endpoint)
    RegistryItem(**fields).validate_model()


def test_what_a_document_adds_to_a_config_takes_the_place_of_what_another_one_added() -> None:
    before = {"command": "mail", "transport": "sse", SERVER_JSON: {"remotes": [SSE]}}
    added = fields_of(server(), NAMING)["config"]
    assert with_config(before, added) == {"command": "mail", SERVER_JSON: {"remotes": [REMOTE]}}


def test_what_the_registry_says_stands_beside_the_document() -> None:
    lifecycle = Lifecycle(
        status="deprecated", message="Old.", changed_at=NOON, published_at=NOON, updated_at=NOON, is_latest=False
    )
    said = MAPPING.response(server(), lifecycle, item())["_meta"]
    assert said[OFFICIAL_META] == {
        "status": "deprecated",
        "statusMessage": "Old.",
        "statusChangedAt": "2026-11-25T12:00:00Z",
        "publishedAt": "2026-11-25T12:00:00Z",
        "updatedAt": "2026-11-25T12:00:00Z",
        "isLatest": False,
    }
    assert said["com.acme/service"]["status"] == "unknown"
    assert MAPPING.response(server(), lifecycle)["_meta"].keys() == {OFFICIAL_META}
