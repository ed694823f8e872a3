"""The alert of a budget: told once, by one worker, and never at the cost of a call."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from hx_gateway.allowances import Budget, Period, ScopeKind
from hx_gateway.services.base import DependencyError, FailureKind
from hx_gateway.services.upstream.base import (
    CallFacts,
    UpstreamHead,
    UpstreamPhase,
    UpstreamRefused,
    UpstreamRequest,
)
from hx_gateway.spend.alerts import CAPACITY, FORGET_SECONDS, BudgetAlerts, Claim, NotTold, SoftLimitCrossed, Webhook

BUDGET = Budget(
    id="bg-1",
    kind=ScopeKind.KEY,
    owner_id="k-1",
    limit_nano=10_000_000_000,
    soft_nano=8_000_000_000,
    period=Period.MONTH,
)
CROSSED = SoftLimitCrossed(tenant_id="acme", budget=BUDGET, window="2026-11", spent_nano=8_000_000_001)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class QuickClock:
    """A clock that sleeps no longer than it must."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@dataclass
class Told:
    """A webhook and a database that a test can fail."""

    failures: int = 0
    claimed: bool = True
    away: bool = False
    sent: list[SoftLimitCrossed] = field(default_factory=list)
    given_back: list[tuple[str, str]] = field(default_factory=list)

    async def send(self, alert: SoftLimitCrossed) -> None:
        if self.failures:
            self.failures -= 1
            raise NotTold("answered 500")
        self.sent.append(alert)

    async def take(self, _tenant: str, _budget: str, _window: str) -> bool:
        if self.away:
            raise DependencyError("PostgreSQL", FailureKind.REFUSED)
        return self.claimed

    async def give_back(self, budget: str, window: str) -> None:
        self.given_back.append((budget, window))


@asynccontextmanager
async def running(told: Told, clock: QuickClock) -> AsyncIterator[BudgetAlerts]:
    alerts = BudgetAlerts(told.send, Claim(told.take, told.give_back), clock=clock)
    task = asyncio.create_task(alerts.run())
    yield alerts
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_window_is_told_once_however_many_calls_cross() -> None:
    told = Told()
    async with running(told, QuickClock()) as alerts:
        for _ in range(5):
            alerts.notice(CROSSED)
            await settled()
    assert told.sent == [CROSSED]
    assert alerts.told == 1


async def test_the_next_window_is_told_again() -> None:
    told = Told()
    later = SoftLimitCrossed(tenant_id="acme", budget=BUDGET, window="2026-12", spent_nano=9_000_000_000)
    async with running(told, QuickClock()) as alerts:
        alerts.notice(CROSSED)
        alerts.notice(later)
        await settled()
    assert told.sent == [CROSSED, later]


async def test_what_another_worker_told_is_not_told() -> None:
    told = Told(claimed=False)
    async with running(told, QuickClock()) as alerts:
        alerts.notice(CROSSED)
        await settled()
    assert (told.sent, told.given_back) == ([], [])


async def test_a_webhook_that_fails_twice_is_told_the_third_time_after_longer_waits() -> None:
    told, clock = Told(failures=2), QuickClock()
    async with running(told, clock) as alerts:
        alerts.notice(CROSSED)
        await settled()
    assert told.sent == [CROSSED]
    assert 0.5 <= clock.slept[0] <= 1.0 <= clock.slept[1] <= 2.0


async def test_what_could_not_be_told_is_given_back_and_told_by_a_later_call() -> None:
    told, clock = Told(failures=3), QuickClock()
    async with running(told, clock) as alerts:
        alerts.notice(CROSSED)
        await settled()
        assert (told.sent, told.given_back) == ([], [("bg-1", "2026-11")])
        alerts.notice(CROSSED)
        await settled()
        assert told.sent == []
        clock.seconds = FORGET_SECONDS
        alerts.notice(CROSSED)
        await settled()
    assert told.sent == [CROSSED]


async def test_without_the_database_nobody_is_told_twice_and_it_is_tried_again_later() -> None:
    told, clock = Told(away=True), QuickClock()
    async with running(told, clock) as alerts:
        alerts.notice(CROSSED)
        await settled()
        told.away = False
        clock.seconds = FORGET_SECONDS
        alerts.notice(CROSSED)
        await settled()
    assert told.sent == [CROSSED]


async def test_a_queue_that_is_full_drops_and_counts() -> None:
    told = Told()
    alerts = BudgetAlerts(told.send, Claim(told.take, told.give_back), clock=QuickClock())
    for number in range(CAPACITY + 3):
        alerts.notice(SoftLimitCrossed(tenant_id="acme", budget=BUDGET, window=f"w{number}", spent_nano=1))
    assert alerts.dropped == 3


@dataclass
class Answering:
    """An upstream that answers with a status, or not at all."""

    status: int = 204
    refuses: bool = False
    requests: list[UpstreamRequest] = field(default_factory=list)
    facts: CallFacts = field(default_factory=CallFacts)

    def call(self, request: UpstreamRequest, *, fresh: bool = False) -> Answering:
        self.requests.append(request)
        return self

    async def head(self) -> UpstreamHead:
        if self.refuses:
            raise UpstreamRefused("no", phase=UpstreamPhase.CONNECT, facts=self.facts)
        return UpstreamHead(self.status, ())

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"ok"

    def abort(self) -> None: ...

    async def close(self) -> None: ...


async def posted(upstream: Answering, secret: str | None = None) -> tuple[UpstreamRequest, Any]:
    await Webhook(upstream, "https://hooks.example.org/x", secret, now=lambda: NOW)(CROSSED)
    (request,) = upstream.requests
    assert isinstance(request.body, bytes)
    return request, msgspec.json.decode(request.body)


async def test_an_alert_says_whose_budget_it_is_and_how_much_was_spent() -> None:
    request, body = await posted(Answering())
    assert (request.method, request.url) == ("POST", "https://hooks.example.org/x")
    assert len(body.pop("id")) == 36
    assert body == {
        "type": "budget.soft_limit_crossed",
        "sent_at": "2026-11-24T12:00:00Z",
        "tenant_id": "acme",
        "budget_id": "bg-1",
        "window": "2026-11",
        "period": "month",
        "owner_kind": "key",
        "owner_id": "k-1",
        "soft_usd": 8,
        "limit_usd": 10,
        "spent_usd": 8.000000001,
    }


async def test_an_alert_is_signed_with_the_secret_alone() -> None:
    request, _ = await posted(Answering(), secret="between us")
    assert isinstance(request.body, bytes)
    expected = hmac.new(b"between us", request.body, hashlib.sha256).hexdigest()
    assert request.headers["x-hx-signature"] == f"sha256={expected}"
    unsigned, _ = await posted(Answering())
    assert "x-hx-signature" not in unsigned.headers


@pytest.mark.parametrize(
    "make", [lambda: Answering(status=500), lambda: Answering(status=302), lambda: Answering(refuses=True)]
)
async def test_a_webhook_that_does_not_take_it_is_told_apart(make: Callable[[], Answering]) -> None:
    call: Awaitable[object] = posted(make())
    with pytest.raises(NotTold):
        await call
