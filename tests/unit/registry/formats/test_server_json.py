"""Documents of the official registry become services and documents again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry import formats
from hx_gateway.registry.formats import FormatError, ServersReader
from hx_gateway.registry.formats.server_json import MAX_WARNINGS
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.server_json import OFFICIAL_META
from tests.unit.registry.official.documents import BUNDLE, IMAGE, NPM, REMOTE, server

NAMESPACE = "com.acme"
SECRET = "canary-of-a-document"


def read(document: Any) -> formats.Imported:
    return formats.read("server_json", document, naming=Naming(NAMESPACE))


def write(imported: formats.Imported) -> dict[str, Any]:
    stored = [RegistryItem(**fields).to_dict() for fields in imported.services]
    return formats.write("server_json", stored, naming=Naming(NAMESPACE)).document


def answered(document: dict[str, Any], **official: Any) -> dict[str, Any]:
    return {"server": document, "_meta": {OFFICIAL_META: {"status": "active", "isLatest": True, **official}}}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda document: document,
        lambda document: [document],
        answered,
        lambda document: [answered(document)],
        lambda document: {"servers": [answered(document)], "metadata": {"count": 1}},
        lambda document: {"servers": [{"server": document}]},
        lambda document: {"servers": [document]},
    ],
)
def test_a_document_is_found_however_it_is_wrapped(wrapped: Any) -> None:
    (fields,) = read(wrapped(server())).services
    assert (fields["name"], fields["version"], fields["endpoint"]) == ("com.example/mail", "1.0.0", REMOTE["url"])


def test_what_comes_from_a_registry_is_official() -> None:
    (fields,) = read(answered(server(), status="deprecated", statusMessage="Old.")).services
    assert (fields["build_type"], fields["source"]) == ("official", "official")
    assert fields["service_metadata"] == {"deprecated": True, "status_message": "Old."}
    (fields,) = read(server()).services
    assert (fields["build_type"], fields["source"]) == ("external", "server.json")


def test_of_several_versions_the_latest_is_taken_and_of_deleted_ones_none() -> None:
    imported = read(
        [
            answered(server(version="1.10.0"), isLatest=False),
            answered(server(version="1.9.0"), isLatest=False),
            answered(server(name="com.example/gone"), status="deleted"),
            answered(server(name="com.example/post", version="2.0.0"), isLatest=False),
            answered(server(name="com.example/post", version="1.0.0")),
        ]
    )
    found = {fields["name"]: fields["version"] for fields in imported.services}
    assert found == {"com.example/mail": "1.10.0", "com.example/post": "1.0.0"}
    assert len(imported.warnings) == 3


def test_values_that_are_called_secret_are_not_kept() -> None:
    variable = {"name": "KEY", "isSecret": True, "value": SECRET, "default": SECRET, "description": "A key."}
    header = {"name": "Authorization", "isSecret": True, "value": f"Bearer {SECRET}"}
    imported = read(
        server(packages=[{**NPM, "environmentVariables": [variable]}], remotes=[{**REMOTE, "headers": [header]}])
    )
    assert SECRET not in json.dumps(imported.services)
    assert len(imported.warnings) == 2
    stored = imported.services[0]["config"]["server_json"]
    assert stored["packages"][0]["environmentVariables"] == [{"name": "KEY", "isSecret": True, "description": "A key."}]


def test_what_only_we_know_of_a_service_comes_along() -> None:
    stored = RegistryItem(name="my mail", tags=["demo"], priority="high", build_type="stub", is_required=True).to_dict()
    document = formats.write("server_json", [stored], naming=Naming(NAMESPACE)).document
    (fields,) = read(document).services
    assert (fields["name"], fields["tags"], fields["priority"]) == ("my mail", ["demo"], "high")
    assert (fields["build_type"], fields["is_required"]) == ("stub", True)
    RegistryItem(**fields).validate_model()


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (7, None),
        ({"servers": {}}, "servers"),
        ([1], "[0]"),
        ({}, "name"),
        ({"servers": [{"server": {}}]}, "servers[0].server.name"),
        ({"servers": [answered(server()), answered(server(version="latest"))]}, "servers[1].server.version"),
        ([server(remotes=[{"type": "sse"}])], "[0].remotes[0].url"),
        ({"server": 5}, "server"),
        ([server(name=f"com.example/m{number}") for number in range(501)], None),
    ],
)
def test_a_document_that_is_none_is_refused_with_the_place(document: Any, path: str | None) -> None:
    with pytest.raises(FormatError) as caught:
        read(document)
    assert (caught.value.param, caught.value.status) == (path, 400)


DOCUMENTS = st.builds(
    server,
    name=st.sampled_from(["com.acme/mail", "com.example/mail", "com.example/post"]),
    title=st.none() | st.just("Mail"),
    packages=st.none() | st.lists(st.sampled_from([NPM, IMAGE, BUNDLE]), min_size=1, max_size=2),
    remotes=st.none() | st.just([REMOTE]),
)


@given(st.lists(DOCUMENTS, max_size=3, unique_by=lambda document: document["name"]))
def test_documents_survive_the_way_through_services(documents: list[dict[str, Any]]) -> None:
    page = write(read(documents))
    assert [each["server"] for each in page["servers"]] == documents
    assert page["metadata"] == {"count": len(documents)}
    again = write(read(page))
    assert [each["server"] for each in again["servers"]] == documents


def test_the_servers_of_a_registry_are_gathered_over_its_pages_with_warnings_of_a_number_that_is_known() -> None:
    reader = ServersReader(Naming(NAMESPACE))
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        reader.take([{"server": server(version=version)}, *[7] * 100])
    assert len(reader) == 1
    imported = reader.imported()
    assert [fields["version"] for fields in imported.services] == ["1.10.0"]
    assert imported.warnings[0] == "one without a name: left out. servers[1] must be an object."
    assert (len(imported.warnings), imported.warnings[-1]) == (MAX_WARNINGS + 1, "100 more.")
