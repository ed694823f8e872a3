"""The answers that the reference shows are those a gateway gives."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from tests.contract.doc_pages import blocks, example, read
from tests.fixtures.gateway import Gateway


def shown(page: str, name: str) -> Any:
    return json.loads(example(read(page), name))


def shape(value: object) -> object:
    """Return the names in ``value``, nested as they are."""
    return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def test_an_error_under_v1_is_the_one_shown(gateway: Gateway) -> None:
    body = {"model": "nobody", "messages": [{"role": "user", "content": "hello"}]}
    answer = gateway.post("/v1/chat/completions", body, key=gateway.key)
    assert answer.status == 404
    assert answer.json() == shown("reference/errors.md", "openai error")


def test_an_error_elsewhere_is_the_one_shown(gateway: Gateway) -> None:
    answer = gateway.get("/nothing")
    assert answer.status == 404
    assert answer.header("content-type") == "application/problem+json"
    assert answer.json() == shown("reference/errors.md", "problem")


def test_each_dependency_is_a_boolean_as_shown(gateway: Gateway) -> None:
    assert gateway.get("/healthz/deps").json() == shown("reference/http.md", "healthz-deps")


def test_the_health_of_the_service_has_the_fields_shown(gateway: Gateway) -> None:
    assert shape(gateway.get("/health").json()) == shape(shown("reference/http.md", "health"))


@pytest.mark.parametrize("part", ["db", "cache", "vector"])
def test_the_health_of_a_part_has_the_fields_shown(gateway: Gateway, part: str) -> None:
    example_part = shown("reference/http.md", "health-part")
    one, all_of_them = gateway.get(f"/health/{part}").json(), gateway.get("/health/all").json()
    assert one == all_of_them[part]
    assert one.keys() == example_part.keys()


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/teams", "/v1/users", "/v1/tenants", "/v1/spend", "/v1/decisions"])
def test_what_needs_a_database_says_so_where_there_is_none(gateway: Gateway, path: str) -> None:
    answer = gateway.get(path, key=gateway.key)
    assert (answer.status, answer.json()["error"]["code"]) == (501, "not_built")


def test_the_signature_of_an_alert_is_checked_as_shown() -> None:
    text = next(block.text for block in blocks(read("howto/spend.md")) if block.language == "python")
    names: dict[str, Any] = {}
    exec(compile(text, "howto/spend.md", "exec"), names)
    body = example(read("reference/spend.md"), "budget alert").encode()
    signature = "sha256=" + hmac.new(b"made-up", body, hashlib.sha256).hexdigest()
    assert names["is_ours"](body, signature, "made-up")
    assert not names["is_ours"](body + b" ", signature, "made-up")


def test_a_request_through_a_proxy_is_not_one_of_this_machine(gateway: Gateway) -> None:
    assert gateway.get("/metrics").status == 200
    proxied = gateway.request("GET", "/metrics", headers={"x-forwarded-for": "127.0.0.1"})
    assert proxied.status == 401


def test_the_log_has_the_events_shown_for_a_request(gateway: Gateway) -> None:
    request_id = gateway.get("/healthz").header("x-request-id")

    def logged() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line.get("request_id") == request_id]

    # The line is written once the answer is out.
    gateway.wait_until(lambda: bool(logged()))
    assert [(line["event"], line["route"], line["ending"]) for line in logged()] == [("request", "healthz", "complete")]
