"""The files of MCP's clients become services and files again, and no secret is among what is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.errors import InvalidRequest
from hx_gateway.registry import formats
from hx_gateway.registry.formats import FormatError

# Assembled here, so that nobody takes them for real ones.
SECRET = "canary" + "-1a2b3c4d5e6f"
TOKEN = "ghp" + "_canary1a2b3c4d5e6f"
FILE: dict[str, Any] = {
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "@acme/files", "/srv/data"], "env": {"LEVEL": "debug"}},
        "mail": {
            "command": "uvx",
            "args": ["mail-server", "--token", SECRET, f"--api-key={SECRET}", f"MAIL_KEY={SECRET}", TOKEN],
            "env": {"MAIL_PASSWORD": SECRET, "PORT": 8025, "FROM_SHELL": "${HOME_OF_MAIL}"},
            "cwd": "/srv/mail",
        },
        "weather": {
            "type": "http",
            "url": f"https://weather.example.com/mcp?api_key={SECRET}&units=metric",
            "headers": {"Authorization": f"Bearer {SECRET}", "X-Api-Key": SECRET, "Accept": "application/json"},
        },
        "news": {"type": "sse", "url": f"https://me:{SECRET}@news.example.com/sse", "disabled": True},
        "live": {"url": "wss://live.example.com/mcp"},
    }
}


def read(document: Any) -> formats.Imported:
    return formats.read("mcp_servers", document)


def items(imported: formats.Imported) -> list[dict[str, Any]]:
    return [RegistryItem(**fields).to_dict() for fields in imported.services]


def test_commands_and_addresses_become_services() -> None:
    found = {fields["name"]: fields for fields in read(FILE).services}
    assert found["files"]["config"] == {
        "command": "npx",
        "args": ["-y", "@acme/files", "/srv/data"],
        "env": {"LEVEL": "***"},
    }
    assert {name: fields["protocol"].value for name, fields in found.items()} == {
        "files": "stdio",
        "mail": "stdio",
        "weather": "http",
        "news": "http",
        "live": "websocket",
    }
    assert found["news"]["config"] == {"transport": "sse"}
    assert [name for name, fields in found.items() if not fields["is_enabled"]] == ["news"]
    for fields in found.values():
        RegistryItem(**fields).validate_model()


def test_no_secret_is_kept_and_each_is_told_of() -> None:
    imported = read(FILE)
    kept = json.dumps([dict(fields) for fields in imported.services])
    assert SECRET not in kept
    assert TOKEN not in kept
    assert {warning.partition(": ")[0] for warning in imported.warnings} == {
        "mcpServers.files.env.LEVEL",
        *(f"mcpServers.mail.args[{index}]" for index in (2, 3, 4, 5)),
        "mcpServers.mail.env.MAIL_PASSWORD",
        "mcpServers.mail.env.PORT",
        "mcpServers.weather.url",
        "mcpServers.weather.headers.Authorization",
        "mcpServers.weather.headers.X-Api-Key",
        "mcpServers.news.url",
    }
    assert SECRET not in " ".join(imported.warnings)


def test_a_file_that_is_written_refers_to_variables_where_a_secret_was() -> None:
    exported = formats.write("mcp_servers", items(read(FILE)))
    servers = exported.document["mcpServers"]
    assert servers["mail"] == {
        "command": "uvx",
        "args": ["mail-server", "--token", "${TOKEN}", "--api-key=${API_KEY}", "MAIL_KEY=${MAIL_KEY}", "${MAIL_KEY}"],
        "env": {"MAIL_PASSWORD": "${MAIL_PASSWORD}", "PORT": "${PORT}", "FROM_SHELL": "${HOME_OF_MAIL}"},
        "cwd": "/srv/mail",
    }
    assert servers["weather"]["headers"] == {
        "Authorization": "Bearer ${AUTHORIZATION}",
        "X-Api-Key": "${X_API_KEY}",
        "Accept": "application/json",
    }
    assert servers["news"] == {"type": "sse", "url": "https://news.example.com/sse", "disabled": True}
    assert "live" not in servers
    assert any(warning.startswith("live is left out") for warning in exported.warnings)


def test_what_was_stored_in_plain_is_not_written_in_plain() -> None:
    config = {"command": "mail", "args": ["--password", SECRET], "env": {"A": SECRET}}
    web = {
        "protocol": "http",
        "endpoint": f"https://a.example.com/?token={SECRET}",
        "config": {"headers": {"X": SECRET}},
    }
    stored = [RegistryItem(name="a", config=config).to_dict(), RegistryItem(name="b", **web).to_dict()]
    assert SECRET not in json.dumps(formats.write("mcp_servers", stored).document)


def test_a_package_of_a_server_json_becomes_its_command() -> None:
    packages = [
        {
            "registryType": "oci",
            "identifier": "images.example.com/acme/mail:1.0.0",
            "transport": {"type": "stdio"},
            "runtimeArguments": [{"type": "named", "name": "--network", "value": "none"}],
            "packageArguments": [
                {"type": "positional", "valueHint": "folder", "isRequired": True},
                {"type": "named", "name": "--level", "default": "info"},
                {"type": "named", "name": "--verbose"},
            ],
            "environmentVariables": [
                {"name": "MAIL_KEY", "isSecret": True, "value": SECRET},
                {"name": "REGION", "value": "eu"},
                {"name": "OTHER"},
            ],
        }
    ]
    stored = RegistryItem(name="mail", config={"server_json": {"packages": packages}}).to_dict()
    written = formats.write("mcp_servers", [stored]).document["mcpServers"]["mail"]
    assert written == {
        "command": "docker",
        "args": [
            *("run", "-i", "--rm", "-e", "MAIL_KEY", "-e", "REGION", "--network=none"),
            *("images.example.com/acme/mail:1.0.0", "${FOLDER}", "--level=info"),
        ],
        "env": {"MAIL_KEY": "${MAIL_KEY}", "REGION": "eu"},
    }


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("npm", ["-y", "mail@1.0.0"]), ("pypi", ["mail==1.0.0"]), ("nuget", ["mail@1.0.0"])],
)
def test_packages_are_run_by_what_runs_their_kind(kind: str, arguments: list[str]) -> None:
    package = {"registryType": kind, "identifier": "mail", "version": "1.0.0", "transport": {"type": "stdio"}}
    stored = RegistryItem(name="mail", config={"server_json": {"packages": [package]}}).to_dict()
    written = formats.write("mcp_servers", [stored]).document["mcpServers"]["mail"]
    assert written["args"] == arguments


@pytest.mark.parametrize("root", ["mcpServers", "servers"])
def test_the_files_of_several_clients_are_known(root: str) -> None:
    assert read({root: {"a": {"command": "a"}}, "inputs": []}).services[0]["name"] == "a"
    assert read({"mcp": {"servers": {"a": {"command": "a"}}}}).services[0]["name"] == "a"


def test_what_is_not_taken_over_is_told_of() -> None:
    imported = read({"mcpServers": {"a": {"command": "a", "alwaysAllow": ["x"], "timeout": 5}}})
    assert imported.warnings == ["mcpServers.a: not taken over: alwaysAllow, timeout."]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ([], None),
        ({}, "mcpServers"),
        ({"mcpServers": []}, "mcpServers"),
        ({"mcpServers": {"a": 1}}, "mcpServers.a"),
        ({"mcpServers": {" ": {"command": "a"}}}, "mcpServers. "),
        ({"mcpServers": {"a": {}}}, "mcpServers.a"),
        ({"mcpServers": {"a": {"command": "a", "url": "https://a.example"}}}, "mcpServers.a"),
        ({"mcpServers": {"a": {"command": ""}}}, "mcpServers.a.command"),
        ({"mcpServers": {"a": {"command": "a", "type": "http"}}}, "mcpServers.a.type"),
        ({"mcpServers": {"a": {"url": "https://a.example", "type": "stdio"}}}, "mcpServers.a.command"),
        ({"mcpServers": {"a": {"url": "https://a.example", "type": "ftp"}}}, "mcpServers.a.type"),
        ({"mcpServers": {"a": {"url": "https://a.example", "type": []}}}, "mcpServers.a.type"),
        ({"mcpServers": {"a": {"command": "a", "args": "x"}}}, "mcpServers.a.args"),
        ({"mcpServers": {"a": {"command": "a", "args": ["x", 1]}}}, "mcpServers.a.args[1]"),
        ({"mcpServers": {"a": {"command": "a", "env": []}}}, "mcpServers.a.env"),
        ({"mcpServers": {"a": {"command": "a", "env": {"A": None}}}}, "mcpServers.a.env.A"),
        ({"mcpServers": {"a": {"url": "a.example"}}}, "mcpServers.a.url"),
        ({"mcpServers": {"a": {"url": "https://a.example", "headers": {"H": []}}}}, "mcpServers.a.headers.H"),
        ({"mcpServers": {"a": {"command": "a", "disabled": "no"}}}, "mcpServers.a.disabled"),
        ({"mcpServers": {str(number): {"command": "a"} for number in range(501)}}, "mcpServers"),
    ],
)
def test_a_document_that_is_none_is_refused_with_the_place(document: Any, path: str | None) -> None:
    with pytest.raises(FormatError) as caught:
        read(document)
    assert (caught.value.param, caught.value.status) == (path, 400)


def test_a_format_that_nobody_knows_is_refused() -> None:
    for call in (lambda: formats.read("toml", {}), lambda: formats.write("toml", [])):
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.param == "format"


VALUES = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=20)
NAMES = st.from_regex(r"[A-Z][A-Z_]{0,10}", fullmatch=True)
SERVERS = st.one_of(
    st.fixed_dictionaries(
        {"command": st.just("run"), "args": st.lists(VALUES, max_size=4)},
        optional={"env": st.dictionaries(NAMES, VALUES)},
    ),
    st.fixed_dictionaries(
        {"url": st.just("https://a.example.com/mcp"), "type": st.sampled_from(["http", "sse"])},
        optional={"headers": st.dictionaries(NAMES, VALUES, min_size=1)},
    ),
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), SERVERS, max_size=4))
def test_a_file_that_was_written_is_read_and_written_the_same(servers: dict[str, Any]) -> None:
    once = formats.write("mcp_servers", items(read({"mcpServers": servers}))).document
    assert formats.write("mcp_servers", items(read(once))).document == once
    assert list(once["mcpServers"]) == list(servers)
    for name, entry in once["mcpServers"].items():
        kept = {**entry.get("env", {}), **entry.get("headers", {})}
        given_values = {**servers[name].get("env", {}), **servers[name].get("headers", {})}
        assert kept.keys() == given_values.keys()
        assert all("$" in value for value in kept.values())
