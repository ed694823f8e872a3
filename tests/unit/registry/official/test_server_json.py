"""A ``server.json`` is held to the rules of its schema and of the official registry, each named with its place."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.registry.official.package_rules import sources_of
from hx_gateway.registry.official.server_json import (
    MAX_DOCUMENT_BYTES,
    OFFICIAL_META,
    PUBLISHER_META,
    InvalidServer,
    Rules,
    errors_of,
    kept,
    validate,
)
from tests.unit.registry.official.documents import BUNDLE, IMAGE, NPM, REMOTE, server

PACKAGES = "https://packages.example.org"
SOURCES = {"npm": (PACKAGES,), "oci": ("images.example.org",), "mcpb": (".example.org",)}
HTTP = {"type": "streamable-http", "url": "https://x.example.com/{port}"}
FULL = server(
    title="Mail",
    websiteUrl="https://example.com/mail",
    repository={"url": "https://github.com/acme/mail", "source": "github", "id": "1", "subfolder": "src/mail"},
    icons=[{"src": "https://example.com/i.png", "mimeType": "image/png", "sizes": ["48x48", "any"], "theme": "dark"}],
    packages=[
        {
            **NPM,
            "registryBaseUrl": PACKAGES,
            "runtimeHint": "npx",
            "runtimeArguments": [{"type": "named", "name": "--quiet"}],
            "packageArguments": [{"type": "positional", "valueHint": "folder", "isRepeated": True}],
            "environmentVariables": [{"name": "MAIL_KEY", "isSecret": True, "isRequired": True, "format": "string"}],
        },
        IMAGE,
        BUNDLE,
    ],
    remotes=[{"type": "sse", "url": "https://{region}.example.com/sse", "variables": {"region": {"default": "eu"}}}],
    _meta={PUBLISHER_META: {"build": "17"}},
)


def found(document: Any, rules: Rules | None = None) -> list[tuple[str, str]]:
    """Return the places and the rules of what keeps a document from being published."""
    return [(issue.path, issue.reference) for issue in errors_of(validate(document, rules))]


def package(**more: Any) -> dict[str, Any]:
    changed = {**NPM, **more}
    return server(packages=[{name: value for name, value in changed.items() if value is not None}])


def test_a_document_with_everything_has_nothing_wrong() -> None:
    assert validate(FULL) == []


@pytest.mark.parametrize("field", ["name", "description", "version"])
def test_what_is_required_is_missed(field: str) -> None:
    assert found(server(**{field: None})) == [(field, "#/definitions/ServerDetail/required")]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"name": "mail"}, "name"),
        ({"name": "com.example/mail/more"}, "name"),
        ({"name": "com.example/-mail"}, "name"),
        ({"name": "com.example-/mail"}, "name"),
        ({"name": "com_example/mail"}, "name"),
        ({"name": "com.example/mail\n"}, "name"),
        ({"name": "com.example/" + "m" * 189}, "name"),
        ({"name": 7}, "name"),
        ({"title": ""}, "title"),
        ({"title": "  "}, "title"),
        ({"title": "t" * 101}, "title"),
        ({"description": ""}, "description"),
        ({"description": "d" * 101}, "description"),
        ({"version": "latest"}, "version"),
        ({"version": "^1.0.0"}, "version"),
        ({"version": "1.x"}, "version"),
        ({"version": "1/2"}, "version"),
        ({"version": "v" * 256}, "version"),
        ({"version": ""}, "version"),
        ({"$schema": ""}, "$schema"),
        ({"websiteUrl": "http://example.com"}, "websiteUrl"),
        ({"websiteUrl": "/mail"}, "websiteUrl"),
        ({"websiteUrl": ""}, "websiteUrl"),
        ({"icons": [{}]}, "icons[0].src"),
        ({"icons": [{"src": "http://example.com/i.png"}]}, "icons[0].src"),
        ({"icons": [{"src": "https://e.com/" + "i" * 256}]}, "icons[0].src"),
        ({"icons": [{"src": "https://e.com/i", "mimeType": "text/html"}]}, "icons[0].mimeType"),
        ({"icons": [{"src": "https://e.com/i", "sizes": ["big"]}]}, "icons[0].sizes[0]"),
        ({"icons": [{"src": "https://e.com/i", "theme": "red"}]}, "icons[0].theme"),
        ({"repository": {"url": "https://github.com/acme/mail"}}, "repository.source"),
        ({"repository": {"url": "https://example.com/acme/mail", "source": "github"}}, "repository.url"),
        ({"repository": {"url": "acme/mail", "source": "other"}}, "repository.url"),
        (
            {"repository": {"url": "https://github.com/a/b", "source": "github", "subfolder": "../b"}},
            "repository.subfolder",
        ),
        ({"remotes": [{"type": "stdio"}]}, "remotes[0].type"),
        ({"remotes": [{"type": "sse"}]}, "remotes[0].url"),
        ({"remotes": [{"type": "sse", "url": "ftp://example.com"}]}, "remotes[0].url"),
        ({"remotes": [{"type": "sse", "url": "https://example.com/{who}"}]}, "remotes[0].url"),
        ({"remotes": [{"type": "sse", "url": "https://me:secret@example.com/"}]}, "remotes[0].url"),
        ({"remotes": [{**REMOTE, "headers": [{"value": "x"}]}]}, "remotes[0].headers[0].name"),
        ({"_meta": {PUBLISHER_META: {"x": "y" * 4096}}}, f"_meta.{PUBLISHER_META}"),
        ({"_meta": {"not a name": {}}}, "_meta.not a name"),
        ({"_meta": []}, "_meta"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named(more: dict[str, Any], path: str) -> None:
    assert [place for place, _ in found(server(**more))] == [path]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (package(registryType=None), "packages[0].registryType"),
        (package(registryType="brew"), "packages[0].registryType"),
        (package(identifier=""), "packages[0].identifier"),
        (package(identifier="@acme/mail more"), "packages[0].identifier"),
        (package(version=None), "packages[0].version"),
        (package(version="latest"), "packages[0].version"),
        (package(version="~1.2"), "packages[0].version"),
        (package(version="1.0 - 2.0"), "packages[0].version"),
        (package(fileSha256="ABC"), "packages[0].fileSha256"),
        (package(transport=None), "packages[0].transport"),
        (package(transport={"type": "pigeon"}), "packages[0].transport.type"),
        (package(transport={"type": "stdio", "url": "https://example.com"}), "packages[0].transport.url"),
        (package(transport=HTTP), "packages[0].transport.url"),
        (package(packageArguments=[{"type": "positional"}]), "packages[0].packageArguments[0]"),
        (package(packageArguments=[{"type": "named"}]), "packages[0].packageArguments[0].name"),
        (package(packageArguments=[{"type": "named", "name": "--a b"}]), "packages[0].packageArguments[0].name"),
        (package(packageArguments=[{"type": "named", "name": "--a<"}]), "packages[0].packageArguments[0].name"),
        (
            package(packageArguments=[{"type": "named", "name": "--port", "value": "--port 80"}]),
            "packages[0].packageArguments[0].value",
        ),
        (package(environmentVariables=[{}]), "packages[0].environmentVariables[0].name"),
        (
            package(environmentVariables=[{"name": "A", "format": "date"}]),
            "packages[0].environmentVariables[0].format",
        ),
        (server(packages=[{**IMAGE, "version": "1.0.0"}]), "packages[0].version"),
        (server(packages=[{**IMAGE, "registryBaseUrl": "https://images.example.com"}]), "packages[0].registryBaseUrl"),
        (server(packages=[{**IMAGE, "identifier": "Not An Image"}]), "packages[0].identifier"),
        (server(packages=[{**IMAGE, "identifier": "IMAGES.EXAMPLE.COM/acme/mail:1"}]), "packages[0].identifier"),
        (
            server(packages=[{name: value for name, value in BUNDLE.items() if name != "fileSha256"}]),
            "packages[0].fileSha256",
        ),
        (server(packages=[{**BUNDLE, "identifier": "mail.mcpb"}]), "packages[0].identifier"),
    ],
)
def test_a_package_that_breaks_a_rule_is_named(document: dict[str, Any], path: str) -> None:
    assert [place for place, _ in found(document)] == [path]


@pytest.mark.parametrize(
    "more",
    [
        {"environmentVariables": [{"name": "port"}]},
        {"packageArguments": [{"type": "positional", "valueHint": "port"}]},
        {"packageArguments": [{"type": "named", "name": "--port"}]},
    ],
)
def test_a_variable_of_a_packages_address_is_one_of_its_inputs(more: dict[str, Any]) -> None:
    assert found(package(transport=HTTP, **more)) == []


@pytest.mark.parametrize(
    "document",
    [
        package(registryBaseUrl=f"{PACKAGES}/"),
        server(packages=[{**IMAGE, "identifier": "images.example.org/m:1"}]),
        server(packages=[{**BUNDLE, "identifier": "https://files.example.org/m.mcpb"}]),
    ],
)
def test_packages_of_a_place_that_is_allowed_are_let_through(document: dict[str, Any]) -> None:
    assert found(document, Rules(sources=SOURCES)) == []


@pytest.mark.parametrize(
    ("document", "rules", "reference"),
    [
        (package(registryBaseUrl="https://npm.acme.example"), Rules(sources=SOURCES), "base-url"),
        (server(packages=[{**IMAGE, "identifier": "reg.acme.example/m:1"}]), Rules(sources=SOURCES), "base-url"),
        (
            server(packages=[{**BUNDLE, "identifier": "https://acme.example/m.mcpb"}]),
            Rules(sources=SOURCES),
            "base-url",
        ),
        (
            server(remotes=[{**REMOTE, "url": "http://10.0.0.7/mcp"}]),
            Rules(public_remotes=True),
            "remote-is-public",
        ),
        (package(registryType="brew"), Rules(), "registry-type"),
    ],
)
def test_a_rule_of_the_official_registry_is_turned_on_and_off(
    document: dict[str, Any], rules: Rules, reference: str
) -> None:
    off = Rules(known_registries=False)
    assert [name for _, name in found(document, rules)] == [reference]
    assert found(document, off) == []


def test_sources_are_read_as_they_are_written_in_a_setting() -> None:
    words = ("npm=https://packages.example.com/npm/", "oci=images.example.com", "oci=.images.example.net")
    assert sources_of(words) == {
        "npm": ["https://packages.example.com/npm"],
        "oci": ["images.example.com", ".images.example.net"],
    }


@pytest.mark.parametrize(
    "word",
    ["", "npm", "brew=https://example.com", "npm=example.com", "npm=https://a@example.com", "oci=https://example.com"],
)
def test_a_source_that_cannot_be_one_is_named(word: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(word))):
        sources_of((word,))


def test_an_image_that_names_no_host_is_of_no_source() -> None:
    document = server(packages=[{**IMAGE, "identifier": "acme/mail:1.0.0"}])
    assert [name for _, name in found(document, Rules(sources=SOURCES))] == ["base-url"]


def test_what_is_worth_a_warning_keeps_nobody_from_publishing() -> None:
    document = server(
        **{"$schema": None, "name": "acme/mail", "colour": "red"},
        remotes=[REMOTE, REMOTE],
        packages=[
            {
                **NPM,
                "runtimeArguments": [{"type": "named", "name": "-y"}],
                "environmentVariables": [{"name": "K", "isSecret": True, "value": "x"}],
            }
        ],
        _meta={"com.example/own": {}},
    )
    issues = validate(document)
    assert errors_of(issues) == []
    assert {(issue.path, issue.severity) for issue in issues} == {
        ("$schema", "warning"),
        ("name", "warning"),
        ("colour", "warning"),
        ("remotes[1].url", "warning"),
        ("packages[0].runtimeHint", "warning"),
        ("packages[0].environmentVariables[0]", "warning"),
        ("_meta.com.example/own", "warning"),
    }


def test_errors_come_first_and_are_not_crowded_out_by_warnings() -> None:
    document = server(**{f"unknown{number}": 1 for number in range(500)}, version="latest")
    issues = validate(document)
    assert len(issues) == 100
    assert issues[0].path == "version"


@pytest.mark.parametrize("document", [None, 7, [], "x"])
def test_what_is_no_object_is_no_document(document: Any) -> None:
    assert found(document) == [("", "#/definitions/ServerDetail")]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_the_database_cannot_hold_is_refused(text: str) -> None:
    assert found(server(description=text)) == [("", "storable-json")]


def test_a_document_has_a_size() -> None:
    assert ("", "document-size") in found(server(remotes=[{**REMOTE, "headers": [{"name": "h" * MAX_DOCUMENT_BYTES}]}]))


def test_of_meta_only_the_publishers_part_is_kept() -> None:
    meta = {PUBLISHER_META: {"build": 1}, "com.example/own": 2, OFFICIAL_META: {"status": "deleted"}}
    assert kept(server(_meta=meta), Rules())["_meta"] == {PUBLISHER_META: {"build": 1}}
    everything = kept(server(_meta=meta), Rules(publisher_meta_only=False))
    assert everything["_meta"] == {PUBLISHER_META: {"build": 1}, "com.example/own": 2}
    assert "_meta" not in kept(server(_meta={"com.example/own": 2}), Rules())


def test_a_refusal_tells_of_all_that_is_wrong() -> None:
    error = InvalidServer(errors_of(validate(server(name="x", version="latest"))))
    assert error.param == "name"
    assert "(1 more)" in error.message
    assert [detail["location"] for detail in error.details] == ["body.name", "body.version"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3),
    max_leaves=8,
)
NAMED = st.sampled_from([*FULL, "packages", "type", "url", "registryType", "identifier", "variables", "version"])


@given(st.dictionaries(NAMED, JSON | st.lists(st.dictionaries(NAMED, JSON)), max_size=6))
def test_whatever_is_sent_is_answered_with_issues(more: dict[str, Any]) -> None:
    for issue in validate({**server(), **more}):
        assert issue.message
        assert issue.reference
