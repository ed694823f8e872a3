"""What ``smoke`` makes of a gateway's answers, right and wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from hx_gateway.cli import smoke
from hx_gateway.cli.smoke_checks import ADMIN_ROUTES, Check, SmokeTest, Target
from hx_gateway.services.upstream.base import CallFacts, UpstreamHead, UpstreamPhase, UpstreamRefused, UpstreamRequest

ADMIN, MEMBER = "made-up-admin-key", "made-up-member-key"
TARGET = Target("http://127.0.0.1:1", ADMIN, "hx-chat", "emb-premium", 3)
REFUSED = UpstreamRefused("refused", phase=UpstreamPhase.CONNECT, facts=CallFacts())
KEY = {"id": "key-1", "key": MEMBER}
CHAT = {"choices": [{"message": {"content": "HX-OK"}}]}
RIGHT: dict[tuple[str, str], Any] = {
    ("GET", "/v1/models"): {"data": [{"id": "hx-chat"}]},
    ("GET", "/healthz/deps"): {"postgres": True, "redis": True, "qdrant": True},
    **{("GET", f"/health/{part}"): {"status": "healthy"} for part in ("db", "cache", "vector")},
    **{("GET", path): {"data": []} for path in ADMIN_ROUTES},
    ("POST", "/v1/keys"): KEY,
    ("DELETE", "/v1/keys/key-1"): KEY,
    ("POST", "/v1/embeddings"): {"data": [{"embedding": [0, 0, 1]}]},
    ("POST", "/v1/chat/completions"): CHAT,
}


class StandIn:
    """Answers as a gateway without fault would, but for what ``wrong`` says: a status and a body, or an error."""

    def __init__(self, wrong: Mapping[tuple[str, str], Any] | None = None) -> None:
        self.wrong = wrong or {}
        self.asked: list[tuple[str, str, str | None]] = []

    def call(self, request: UpstreamRequest) -> StandInCall:
        return StandInCall(self, request)

    async def close(self) -> None:
        pass

    def answer(self, request: UpstreamRequest) -> tuple[int, bytes]:
        path = request.url.removeprefix(TARGET.url)
        key = request.headers.get("authorization", "").removeprefix("Bearer ") or None
        self.asked.append((request.method, path, key))
        given = self.wrong.get((request.method, path))
        if isinstance(given, BaseException):
            raise given
        if given is not None:
            return int(given[0]), bytes(given[1])
        if path in ADMIN_ROUTES and key != ADMIN:
            return (403 if key == MEMBER else 401), b"{}"
        assert isinstance(request.body, bytes)
        if b'"stream": true' in request.body:
            return 200, b"data: {}\n\ndata: [DONE]\n\n"
        made = request.method == "POST" and path == "/v1/keys"
        return (201 if made else 200), json.dumps(RIGHT[request.method, path]).encode()


class StandInCall:
    def __init__(self, gateway: StandIn, request: UpstreamRequest) -> None:
        self._gateway = gateway
        self._request = request
        self._body = b""

    async def head(self) -> UpstreamHead:
        status, self._body = self._gateway.answer(self._request)
        return UpstreamHead(status, ())

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._body


async def run(gateway: StandIn, target: Target = TARGET) -> dict[str, Check]:
    checks: list[Check] = []
    await SmokeTest(target, gateway, checks.append).run()  # type: ignore[arg-type]
    return {check.name: check for check in checks}


async def failures(wrong: Mapping[tuple[str, str], Any], target: Target = TARGET) -> dict[str, str]:
    return {
        name: check.detail for name, check in (await run(StandIn(wrong), target)).items() if check.outcome == "fail"
    }


async def test_a_gateway_without_fault_passes_every_check() -> None:
    checks = await run(StandIn())
    assert {check.outcome for check in checks.values()} == {"pass"}
    assert len(checks) == 10 + 3 * len(ADMIN_ROUTES)


async def test_each_admin_route_is_asked_with_every_kind_of_key() -> None:
    gateway = StandIn()
    await run(gateway)
    for path in ADMIN_ROUTES:
        assert [key for method, asked, key in gateway.asked if (method, asked) == ("GET", path)] == [
            ADMIN,
            None,
            MEMBER,
        ]


async def test_a_route_that_lets_everybody_in_fails_and_the_key_is_deleted_all_the_same() -> None:
    gateway = StandIn({("GET", "/v1/teams"): (200, b"[]")})
    checks = await run(gateway)
    assert [name for name, check in checks.items() if check.outcome == "fail"] == [
        "GET /v1/teams: 401 without a key",
        "GET /v1/teams: 403 with a member's key",
    ]
    assert checks["GET /v1/teams: 401 without a key"].detail == "status 200, not 401: []"
    assert ("DELETE", "/v1/keys/key-1", ADMIN) in gateway.asked


@pytest.mark.parametrize("asked", [("GET", "/v1/users"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")])
async def test_an_answer_without_a_database_fails_whatever_its_status(asked: tuple[str, str]) -> None:
    said = b'{"error": "No connected db."}'
    for status in (200, 401, 403, 500):
        failed = await failures({asked: (status, said)})
        assert failed
        assert all("'No connected db'" in detail for detail in failed.values())


async def test_a_store_that_is_away_fails() -> None:
    away = json.dumps({"postgres": True, "redis": False, "qdrant": True}).encode()
    assert list(await failures({("GET", "/healthz/deps"): (200, away)})) == ["redis is healthy"]


async def test_a_store_that_nobody_tells_of_fails() -> None:
    failed = await failures({("GET", "/healthz/deps"): (200, b'{"postgres": true, "redis": true}')})
    assert list(failed) == ["/healthz/deps has the three stores", "qdrant is healthy"]


async def test_a_store_that_is_not_configured_passes_and_is_told_of() -> None:
    checks = await run(StandIn({("GET", "/health/vector"): (200, b'{"status": "not_configured"}')}))
    assert (checks["qdrant is healthy"].outcome, checks["qdrant is healthy"].detail) == ("pass", "not configured")


async def test_without_a_members_key_nothing_is_said_of_403() -> None:
    gateway = StandIn({("POST", "/v1/keys"): (503, b"{}")})
    checks = await run(gateway)
    assert [name for name, check in checks.items() if check.outcome == "fail"] == ["a temporary member's key is made"]
    skipped = {name for name, check in checks.items() if check.outcome == "skip"}
    assert skipped == {f"GET {path}: 403 with a member's key" for path in ADMIN_ROUTES}
    assert not [method for method, _, _ in gateway.asked if method == "DELETE"]


async def test_a_key_that_cannot_be_deleted_is_named() -> None:
    failed = await failures({("DELETE", "/v1/keys/key-1"): (503, b"{}")})
    assert failed == {"the temporary key is deleted": "key-1 is still there, and ends after 300 s: {}"}


@pytest.mark.parametrize(
    ("asked", "answer", "detail"),
    [
        ("/v1/embeddings", b'{"data": [{"embedding": [1]}]}', "1 numbers, not 3"),
        ("/v1/embeddings", b'{"data": []}', "IndexError"),
        ("/v1/chat/completions", b'{"choices": [{"message": {"content": "Sure! HX-OK"}}]}', "it said 'Sure! HX-OK'"),
        ("/v1/chat/completions", b'{"choices": [{"message": {"content": null}}]}', "AttributeError"),
        ("/v1/chat/completions", b"<html>", "JSONDecodeError"),
    ],
)
async def test_an_answer_that_is_not_the_one_asked_for_fails(asked: str, answer: bytes, detail: str) -> None:
    failed = await failures({("POST", asked): (200, answer)})
    assert any(detail in text for text in failed.values())


async def test_a_stream_that_breaks_off_fails() -> None:
    broken = json.dumps(CHAT).encode()
    assert list(await failures({("POST", "/v1/chat/completions"): (200, broken)})) == ["hx-chat streams to the end"]


async def test_where_nobody_listens_one_check_tells_of_it() -> None:
    checks = await run(StandIn({("GET", "/v1/models"): REFUSED}))
    assert [check.detail.partition(":")[0] for check in checks.values()] == ["nothing listens there"]


async def test_a_gateway_that_goes_away_midway_ends_the_run() -> None:
    gateway = StandIn({("GET", "/v1/users"): REFUSED})
    checks = await run(gateway)
    assert [name for name, check in checks.items() if check.outcome == "fail"] == [
        "GET /v1/users: 200 with the admin key"
    ]
    assert gateway.asked[-1][:2] == ("DELETE", "/v1/keys/key-1")


async def test_no_database_leaves_the_admin_routes_out() -> None:
    gateway = StandIn()
    checks = await run(gateway, Target(TARGET.url, ADMIN, "hx-chat", "emb-premium", 3, database=False))
    assert [check.name for check in checks.values() if check.outcome == "skip"] == ["admin routes"]
    assert not {path for _, path, _ in gateway.asked} & set(ADMIN_ROUTES)


async def test_whoever_is_told_to_end_deletes_the_key_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(StandIn):
        def answer(self, request: UpstreamRequest) -> tuple[int, bytes]:
            if request.url.endswith("/v1/users"):
                os.kill(os.getpid(), signal.SIGTERM)
            return super().answer(request)

    gateway = Ended()
    monkeypatch.setattr(smoke, "HttpUpstream", lambda: gateway)

    async def slow(self: StandInCall) -> UpstreamHead:
        head = await real(self)
        await asyncio.sleep(0.01)
        return head

    real = StandInCall.head
    monkeypatch.setattr(StandInCall, "head", slow)
    task = asyncio.create_task(smoke._run(TARGET, lambda _check: None))
    with pytest.raises(asyncio.CancelledError):
        await task
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert gateway.asked[-1][:2] == ("DELETE", "/v1/keys/key-1")
