"""What is read: settings of a service, where it is, answers of MCP, and reasons that may be shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.db.models.health_config import HealthConfig, health_config, health_problems
from hx_gateway.db.models.registry_items import RegistryItem, ServiceProtocol
from hx_gateway.db.models.validation import InvalidModel
from hx_gateway.registry.probing import mcp_messages
from hx_gateway.registry.probing.http_probe import _retry_after, by_status
from hx_gateway.registry.probing.mcp_messages import answer_in_body, discover, first_answer
from hx_gateway.registry.probing.outcome import FailureClass, redacted
from hx_gateway.registry.probing.state import HealthState
from hx_gateway.registry.probing.stdio_probe import StdioCommand
from hx_gateway.registry.probing.target import Target
from hx_gateway.services.egress.errors import _FAILURE_CLASSES
from hx_gateway.services.egress.http import EgressResponse

RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": ["2026-07-28"]}}
JSON_VALUES = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5)

# config.health


@pytest.mark.parametrize(
    ("health", "rule"),
    [
        ([], "health must be an object"),
        ({"interval": 4}, "health.interval must be a number of seconds from 5 to 3600"),
        ({"interval": True}, "health.interval must be a number of seconds from 5 to 3600"),
        ({"timeout": "5"}, "health.timeout must be a number of seconds from 0.5 to 30"),
        ({"timeout": float("inf")}, "health.timeout must be a number of seconds from 0.5 to 30"),
        ({"failures": 0}, "health.failures must be an integer from 1 to 10"),
        ({"successes": 2.5}, "health.successes must be an integer from 1 to 10"),
        ({"send": ""}, "health.send must be a text of 1 to 1024 characters"),
        ({"mcp": "yes"}, "health.mcp must be true or false"),
        ({"tools_seconds": 5}, "health.tools_seconds must be a number of seconds from 60 to 86400, or 0 for never"),
        ({"tools_seconds": False}, "health.tools_seconds must be a number of seconds from 60 to 86400"),
        ({"intervall": 5}, "health.intervall is not a setting; known are "),
    ],
)
def test_a_setting_that_breaks_a_rule_is_refused_with_its_name(health: Any, rule: str) -> None:
    (found,) = health_problems({"health": health})
    assert found.startswith(rule)
    with pytest.raises(InvalidModel, match="config: "):
        RegistryItem(name="one", config={"health": health}).validate_model()


def test_settings_within_the_limits_are_taken() -> None:
    health = {
        "interval": 5,
        "timeout": 30,
        "failures": 10,
        "successes": 1,
        "send": "PING",
        "expect": "A",
        "mcp": True,
        "tools_seconds": 0,
    }
    assert list(health_problems({"health": health})) == []
    assert health_config({"health": health}) == HealthConfig(
        interval=5.0, timeout=30.0, failures=10, successes=1, send="PING", expect="A", mcp=True, tools_seconds=0.0
    )


def test_a_number_beyond_a_limit_that_was_stored_counts_as_the_limit() -> None:
    found = health_config({"health": {"interval": 1, "timeout": 1e9, "failures": 99, "successes": -1}})
    assert found == HealthConfig(interval=5.0, timeout=30.0, failures=10, successes=1)
    stored = [health_config({"health": {"tools_seconds": value}}).tools_seconds for value in (-1, 0, 1, 1e9, "x")]
    assert stored == [0.0, 0.0, 60.0, 86_400.0, None]


@given(st.dictionaries(st.sampled_from(["interval", "timeout", "failures", "send", "mcp", "x"]), JSON_VALUES))
def test_whatever_was_stored_can_be_read(health: dict[str, Any]) -> None:
    found = health_config({"health": health})
    assert found.interval is None or 5 <= found.interval <= 3600


# Where a service is


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"protocol": "http", "endpoint": "https://a.example/mcp"}, "https://a.example/mcp"),
        ({"protocol": "http", "endpoint": "https://a/", "health_check_url": "https://a/h"}, "https://a/h"),
        ({"protocol": "tcp", "endpoint": "a.example", "port": 7000}, "tcp://a.example:7000"),
        ({"protocol": "tcp", "endpoint": "tcp://a.example:7000", "port": 1}, "tcp://a.example:7000"),
        ({"protocol": "tcp", "location": "a.example:7000"}, "tcp://a.example:7000"),
        ({"protocol": "unix_socket", "location": "/run/a.sock"}, "unix:///run/a.sock"),
        ({"protocol": "unix_socket", "endpoint": "unix:///run/a.sock"}, "unix:///run/a.sock"),
        ({"protocol": "websocket", "endpoint": "wss://a/x"}, "wss://a/x"),
        ({"protocol": "stdio", "endpoint": "https://a/"}, None),
        ({"protocol": "tcp"}, None),
    ],
)
def test_where_a_service_is_probed(fields: dict[str, Any], url: str | None) -> None:
    assert Target(**{**fields, "protocol": ServiceProtocol(fields["protocol"])}).url == url


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.example:8443/mcp", "a.example:8443"),
        ("https://user@a.example/mcp", "a.example"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_services_of_one_host_share_its_slots(url: str, host: str) -> None:
    assert Target(protocol=ServiceProtocol.HTTP, endpoint=url).host == host


# Answers


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(RESULT),
        f"event: message\ndata: {json.dumps(RESULT)}\n\n",
        f": ping\r\n\r\ndata: {json.dumps(RESULT)}\r\n\r\n",
        f'data: {{"jsonrpc": "2.0", "method": "notifications/message"}}\n\ndata: {json.dumps(RESULT)}\n\n',
    ],
)
def test_an_answer_is_found_in_json_and_in_events(body: str) -> None:
    answer = answer_in_body(body.encode())
    assert answer is not None
    assert answer.serves


@pytest.mark.parametrize("body", ["", "<html></html>", "{", "[1]", "data: {\n\n", '{"jsonrpc": "2.0", "result": 1}'])
def test_what_is_no_answer_is_none(body: str) -> None:
    assert answer_in_body(body.encode()) is None


def test_a_stream_is_enough_once_the_whole_answer_came() -> None:
    body = f"data: {json.dumps(RESULT)}\n\n".encode()
    enough = first_answer()
    assert [enough(bytearray(body[:end])) for end in (10, len(body) - 2, len(body))] == [False, False, True]


def test_each_event_is_looked_at_once_however_slowly_a_stream_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[bytes] = []
    monkeypatch.setattr(mcp_messages, "event_data", looked_at.append)
    enough, body = first_answer(), bytearray()
    for byte in b": one\n\n: two\r\n\r\n: three":
        body.append(byte)
        assert not enough(body)
    # The second CR ends the second event; the LF after it opens the next one.
    assert looked_at == [b": one\n\n", b": two\r\n\r"]


def test_a_modern_server_of_other_revisions_serves() -> None:
    answer = answer_in_body(b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -32022, "message": "x"}}')
    assert answer is not None
    assert answer.serves


def test_a_request_carries_what_the_revision_asks_for() -> None:
    meta = json.loads(discover())["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {}


@pytest.mark.parametrize(
    ("value", "seconds"), [("120", 120.0), ("99999999", 3600.0), ("soon", None), ("", None), ("-1", None)]
)
def test_when_to_come_back_is_read(value: str, seconds: float | None) -> None:
    assert _retry_after(EgressResponse(429, (("retry-after", value),), b"")) == seconds


def test_a_time_to_come_back_that_is_past_is_now() -> None:
    response = EgressResponse(429, (("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),), b"")
    assert _retry_after(response) == 0.0
    assert by_status(response) is not None


# Reasons, state


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a\n\x00b\x1b[0m", "a b [0m"),
        ("see https://user:secret@a.example/x", "see https://***@a.example/x"),
        ("x" * 600, "x" * 511 + "…"),
    ],
)
def test_a_reason_is_one_line_without_credentials(said: str, kept: str) -> None:
    assert redacted(said) == kept


def test_every_failure_class_of_the_way_out_is_one_of_ours() -> None:
    assert {FailureClass(name) for name in _FAILURE_CLASSES.values()} <= set(FailureClass)
    assert FailureClass("egress_denied")


def test_a_command_needs_a_program() -> None:
    with pytest.raises(ValueError, match="must begin with a program"):
        StdioCommand(argv=())


def test_the_health_of_a_new_service_is_shown_as_json_has_it() -> None:
    fields = {"protocol": "http", "endpoint": "https://example.org/mcp", "priority": "critical"}
    item = RegistryItem(name="one", config={"health": {"failures": 5}}, **fields)
    shown = HealthState.of(item).to_dict()
    assert shown["service_id"] == str(item.id)
    assert (shown["status"], shown["observed"], shown["admin_state"]) == ("unknown", "unknown", "active")
    assert (shown["interval_seconds"], shown["failures_to_unhealthy"]) == (15, 5)
    json.dumps(shown)
