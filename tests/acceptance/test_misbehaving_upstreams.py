"""Whatever a model's server does, the client gets a clear answer and nothing of the server's own."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.gateway import NO_STORES, Answer, Gateway
from tests.fixtures.zoo import ANSWER, DONE, MODES, USAGE_EVENT, Zoo, data_event, delta

UPSTREAM_KEY = "sk-made-up-credential-of-the-gateway-itself"
PROTOCOL = "upstream_protocol_error"

# Unary: status and code of the answer; None where it is the upstream's own.
UNARY: dict[str, tuple[int, str | None]] = {
    "ok": (200, None), "early_103": (200, None), "continue_100": (200, None), "split_head": (200, None),
    "half_close": (200, None), "http10_close": (200, None), "duplicate_headers": (200, None),
    "cookie_and_server": (200, None), "error_in_200": (200, None), "empty_body": (200, None),
    "gzip_answer": (200, None), "large_answer": (200, None), "counted": (200, None),
    "status_400": (400, None), "status_404": (404, None),
    "status_401": (502, "upstream_auth_failed"),
    "status_429": (429, "upstream_rate_limited"), "status_429_date": (429, "upstream_rate_limited"),
    "status_429_ms": (429, "upstream_rate_limited"), "status_429_long": (429, "upstream_rate_limited"),
    "status_500": (502, "upstream_error"), "status_502_html": (502, "upstream_error"),
    "status_503": (503, "upstream_overloaded"),
    "redirect_301": (502, PROTOCOL), "redirect_302": (502, PROTOCOL), "redirect_307": (502, PROTOCOL),
    "wrong_content_type": (502, PROTOCOL), "not_http": (502, PROTOCOL), "huge_head": (502, PROTOCOL),
    "many_fields": (502, PROTOCOL), "two_lengths": (502, PROTOCOL),
    "hang_before_head": (504, "upstream_timeout"), "slow_head": (504, "upstream_timeout"),
    "hang_mid_body": (504, "upstream_timeout"),
    "rst_before_head": (502, "upstream_error"), "close_before_head": (502, "upstream_error"),
    "close_mid_body": (502, "upstream_error"), "partial_head": (502, "upstream_error"),
}  # fmt: skip
# Streams: the code of the error event they end with, None where they end as the upstream's does.
STREAMED: dict[str, str | None] = {
    "ok": None, "slow_stream": None, "no_done": None, "done_then_more": None, "split_utf8": None, "sse_crlf": None,
    "sse_cr": None, "bom": None, "no_space": None, "comments": None, "counted": None, "invalid_json": None,
    "null_usage": None,
    "usage_twice": None, "negative_usage": None, "error_event": None, "huge_line": None, "many_events": None,
    "hang_mid_stream": "upstream_timeout", "rst_mid_stream": "upstream_error", "close_mid_stream": "upstream_error",
    "bad_chunk": PROTOCOL, "chunk_overflow": PROTOCOL,
}  # fmt: skip


@pytest.fixture(scope="module")
def proxy(zoo_beside: Zoo) -> Iterator[Gateway]:
    """Run a gateway whose only upstream is the zoo, with short limits on time."""
    environ = {
        **NO_STORES,
        "LITELLM_BASE_URL": zoo_beside.url,
        "LITELLM_API_KEY": UPSTREAM_KEY,
        "HX_UPSTREAM_HEAD_TIMEOUT": "0.7",
        "HX_UPSTREAM_IDLE_TIMEOUT": "0.7",
    }
    with tempfile.TemporaryDirectory(prefix="hxgw-") as directory:
        running = Gateway(environ, Path(directory)).start()
        yield running
        running.stop()


def chat(proxy: Gateway, mode: str, **fields: object) -> Answer:
    body = {"model": f"zoo:{mode}", "messages": [{"role": "user", "content": "hi"}], **fields}
    return proxy.post("/v1/chat/completions", body, key=proxy.key)


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_every_mode_has_its_expected_answer() -> None:
    apart = {"echo", "drip", "stale", "stale_after_partial"}
    assert set(MODES) == set(UNARY) | set(STREAMED) | apart


@pytest.mark.parametrize("mode", sorted(UNARY))
def test_a_unary_call(proxy: Gateway, zoo_beside: Zoo, mode: str) -> None:
    status, code = UNARY[mode]
    before = len(zoo_beside.requests)
    answer = chat(proxy, mode)
    assert answer.complete
    assert answer.status == status
    assert answer.header("x-request-id")
    assert UPSTREAM_KEY.encode() not in answer.body
    # A kept connection that ends before the first byte of an answer is tried once more on a new one.
    tries = {1, 2} if mode in ("rst_before_head", "close_before_head") else {1}
    assert len(zoo_beside.requests) - before in tries
    if code is not None:
        assert answer.json()["error"]["code"] == code
        assert b"127.0.0.1" not in answer.body
        assert b"secret-host" not in answer.body
    elif mode in ("status_400", "status_404"):
        assert answer.json()["error"]["code"] == "upstream_code"
    elif mode not in ("counted", "error_in_200", "empty_body", "gzip_answer", "large_answer"):
        assert answer.json() == ANSWER


@pytest.mark.parametrize("mode", sorted(STREAMED))
def test_a_stream(proxy: Gateway, mode: str) -> None:
    code = STREAMED[mode]
    answer = chat(proxy, mode, stream=True)
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream"
    assert answer.complete is (code is None)
    if code is None:
        return
    events = answer.body.split(b"\n\n")
    assert b"[DONE]" not in answer.body
    assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == code
    assert events[-1] == b""


@pytest.mark.parametrize("mode", ["hang_before_head", "close_before_head", "hang_mid_body", "not_http"])
def test_a_failure_that_may_have_cost_money_says_not_to_try_again(proxy: Gateway, mode: str) -> None:
    assert chat(proxy, mode).header("x-should-retry") == "false"


@pytest.mark.parametrize(
    ("mode", "name", "value"),
    [
        ("status_429", "retry-after", "7"),
        ("status_429_ms", "retry-after-ms", "1500"),
        ("status_429_long", "retry-after", "60"),
        ("status_429_date", "retry-after", None),
        ("status_503", "retry-after", "3"),
    ],
)
def test_the_time_to_wait_is_passed_on_within_reason(proxy: Gateway, mode: str, name: str, value: str | None) -> None:
    assert chat(proxy, mode).header(name) == value


def test_only_headers_that_mean_something_reach_the_client(proxy: Gateway) -> None:
    names = {name for name, _ in chat(proxy, "cookie_and_server").headers}
    assert names == {"content-type", "content-length", "openai-version", "x-request-id", "date", "connection"}


def test_a_streams_bytes_are_the_upstreams_but_for_the_usage_event(proxy: Gateway) -> None:
    expected = data_event(delta("hello")) + data_event(delta(" zoo"))
    assert chat(proxy, "ok", stream=True).body == expected + DONE
    asked = chat(proxy, "ok", stream=True, stream_options={"include_usage": True}).body
    assert asked == expected + data_event(USAGE_EVENT) + DONE


def test_the_request_reaches_the_upstream_with_every_field_and_our_credential(proxy: Gateway, zoo_beside: Zoo) -> None:
    chat(proxy, "ok", unknown_field={"a": [1.50, None]}, temperature=0)
    seen = zoo_beside.requests[-1]
    assert seen.json()["unknown_field"] == {"a": [1.5, None]}
    assert seen.json()["model"] == "zoo:ok"
    assert seen.path == "/v1/chat/completions"
    assert seen.header("authorization") == f"Bearer {UPSTREAM_KEY}"
    assert proxy.key not in json.dumps(seen.headers)
    assert seen.header("accept-encoding") == "identity"


def test_other_paths_are_passed_through_with_our_credential(proxy: Gateway, zoo_beside: Zoo) -> None:
    headers = {"x-forwarded-for": "1.2.3.4", "cookie": "a=b", "x-custom": "kept"}
    answer = proxy.request("POST", "/v1/echo/moderations?x=1", {"input": "hi"}, key=proxy.key, headers=headers)
    assert answer.status == 200
    seen = zoo_beside.requests[-1]
    assert (seen.method, seen.path, seen.json()) == ("POST", "/v1/echo/moderations?x=1", {"input": "hi"})
    assert seen.header("authorization") == f"Bearer {UPSTREAM_KEY}"
    assert seen.header("x-custom") == "kept"
    assert seen.header("cookie") is None
    assert seen.header("x-forwarded-for") is None


@pytest.mark.parametrize("path", ["/v1/organization/users", "/v1/key/generate", "/v1/model/info", "/v1/%6bey/list"])
def test_what_manages_the_upstream_is_never_forwarded(proxy: Gateway, zoo_beside: Zoo, path: str) -> None:
    before = len(zoo_beside.requests)
    answer = proxy.get(path, key=proxy.key)
    assert (answer.status, answer.json()["error"]["code"]) == (403, "management_path")
    assert len(zoo_beside.requests) == before


@pytest.mark.parametrize(
    "path", ["/v1/keys", "/v1/keys/1", "/v1/tenants", "/v1/spend/logs", "/v1/decisions/1", "/v1/traces"]
)
def test_what_is_the_gateways_own_never_leaves_it(proxy: Gateway, zoo_beside: Zoo, path: str) -> None:
    before = len(zoo_beside.requests)
    answer = proxy.get(path, key=proxy.key)
    assert (answer.status, answer.json()["error"]["code"]) == (501, "not_built")
    assert len(zoo_beside.requests) == before


def test_the_upstreams_own_models_are_listed(proxy: Gateway) -> None:
    assert [model["id"] for model in proxy.get("/v1/models", key=proxy.key).json()["data"]] == ["zoo:ok"]


@pytest.mark.parametrize("mode", ["hang_before_head", "hang_mid_body", "hang_mid_stream", "drip"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_ends_the_upstream_call_at_once(
    start_gateway: Callable[..., Gateway], zoo_beside: Zoo, mode: str, how: str
) -> None:
    gateway = start_gateway({"LITELLM_BASE_URL": zoo_beside.url})
    body = json.dumps({"model": f"zoo:{mode}", "stream": "stream" in mode, "messages": [{"role": "user"}]}).encode()
    before = len(zoo_beside.requests)
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.key}\r\n"
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: len(zoo_beside.requests) > before)
        time.sleep(0.1)
        upstream_connection = zoo_beside.requests[-1].connection
        assert upstream_connection in zoo_beside.open
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    wait_for(lambda: upstream_connection not in zoo_beside.open)
    wait_for(lambda: '"ending":"client_gone"' in gateway.log())


def test_running_streams_finish_after_sigterm_and_new_work_is_refused(
    start_gateway: Callable[..., Gateway], zoo_beside: Zoo
) -> None:
    gateway = start_gateway({"LITELLM_BASE_URL": zoo_beside.url})
    before = len(zoo_beside.requests)
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(chat(gateway, "slow_stream", stream=True))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(zoo_beside.requests) == before + 10)
    assert gateway.process is not None
    gateway.process.terminate()
    wait_for(lambda: gateway.get("/readyz").status == 503)
    refused = chat(gateway, "ok")
    assert (refused.status, refused.json()["error"]["code"]) == (503, "draining")
    for thread in threads:
        thread.join()
    assert all(answer.complete and answer.body.endswith(DONE) for answer in answers)
    assert gateway.stop() == 0


def test_streams_that_outlast_the_drain_time_end_with_an_error_event(
    start_gateway: Callable[..., Gateway], zoo_beside: Zoo
) -> None:
    gateway = start_gateway({"LITELLM_BASE_URL": zoo_beside.url, "HX_DRAIN_SECONDS": "0.3"})
    before = len(zoo_beside.requests)
    answers: list[Answer] = []
    streaming = threading.Thread(target=lambda: answers.append(chat(gateway, "hang_mid_stream", stream=True)))
    waiting = threading.Thread(target=lambda: answers.append(chat(gateway, "hang_before_head")))
    for thread in (streaming, waiting):
        thread.start()
    wait_for(lambda: len(zoo_beside.requests) == before + 2)
    time.sleep(0.2)
    assert gateway.stop() == 0
    for thread in (streaming, waiting):
        thread.join()
    streamed = next(answer for answer in answers if answer.status == 200)
    unary = next(answer for answer in answers if answer.status != 200)
    assert not streamed.complete
    assert b"gateway_draining" in streamed.body
    assert (unary.status, unary.json()["error"]["code"]) == (503, "gateway_draining")
