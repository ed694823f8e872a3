"""Tells an operator's webhook that a budget is over its soft limit: once for each window, by one of all workers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import structlog

from hx_gateway.allowances import Budget
from hx_gateway.errors import HXError
from hx_gateway.kit.backoff import Backoff
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.money import usd_text
from hx_gateway.services.upstream.base import Timeouts, Upstream, UpstreamError, UpstreamRequest

SIGNATURE = "x-hx-signature"
CROSSED = "budget.soft_limit_crossed"
CAPACITY = 1_000
TRIES = 3
# One that could not be told is tried again by the next call, but not by each.
FORGET_SECONDS = 300.0
TIMEOUTS = Timeouts(connect=5.0, head=10.0, idle=10.0, total=20.0)
MAX_ANSWER_BYTES = 64 * 1024
# Windows that were told or tried: the oldest are forgotten, and the database then says that they were.
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftLimitCrossed:
    """A window of a budget has spent, or reserved, more than the soft limit. ``window`` is as ``2026-11``."""

    tenant_id: str
    budget: Budget
    window: str
    spent_nano: int


class NotTold(Exception):
    """The webhook did not take an alert; the text is for the log."""


class Claim:
    """Which worker tells: ``take`` says whether it is this one, ``give_back`` lets another. Both ask the database."""

    def __init__(
        self,
        take: Callable[[str, str, str], Awaitable[bool]],
        give_back: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._take = take
        self._give_back = give_back

    async def take(self, alert: SoftLimitCrossed) -> bool:
        """Claim the window. Raises ``Unavailable`` while the database is away."""
        return await self._take(alert.tenant_id, alert.budget.id, alert.window)

    async def give_back(self, alert: SoftLimitCrossed) -> None:
        """Give the window back. Raises ``Unavailable`` while the database is away."""
        await self._give_back(alert.budget.id, alert.window)


class BudgetAlerts:
    """Takes crossings from the hot path, and tells of them behind it.

    Fail-open: an alert that cannot be told is logged and given back; it is told again when a later call crosses.
    ``run`` is one task; ``dropped`` counts what came while the queue was full.
    """

    def __init__(
        self, send: Callable[[SoftLimitCrossed], Awaitable[None]], claim: Claim, *, clock: Clock | None = None
    ) -> None:
        self._send = send
        self._claim = claim
        self._clock = clock or SystemClock()
        self._waiting: asyncio.Queue[SoftLimitCrossed] = asyncio.Queue(CAPACITY)
        # By window: until when it needs no further look.
        self._quiet: dict[tuple[str, str], float] = {}
        self._log = structlog.get_logger()
        self.dropped = 0
        self.told = 0

    def notice(self, alert: SoftLimitCrossed) -> None:
        """Note a crossing; returns at once and never raises. Repeated ones of a window cost a look-up."""
        key = (alert.budget.id, alert.window)
        if self._clock.monotonic() < self._quiet.get(key, 0.0):
            return
        try:
            self._waiting.put_nowait(alert)
        except asyncio.QueueFull:
            self.dropped += 1
            return
        self._quieten(key, float("inf"))

    async def run(self) -> None:
        """Tell of crossings as they come, until cancelled."""
        while True:
            await self._tell(await self._waiting.get())

    async def _tell(self, alert: SoftLimitCrossed) -> None:
        key = (alert.budget.id, alert.window)
        try:
            if not await self._claim.take(alert):
                return
        except HXError as error:
            self._failed(alert, key, error)
            return
        try:
            await self._try(alert)
            self.told += 1
        except NotTold as error:
            self._failed(alert, key, error)
            try:
                await self._claim.give_back(alert)
            except HXError as away:
                self._failed(alert, key, away)

    async def _try(self, alert: SoftLimitCrossed) -> None:
        backoff = Backoff(first=1.0, most=10.0)
        for left in range(TRIES - 1, -1, -1):
            try:
                await self._send(alert)
            except NotTold:
                if not left:
                    raise
                await self._clock.sleep(backoff.next())
            else:
                return

    def _failed(self, alert: SoftLimitCrossed, key: tuple[str, str], error: Exception) -> None:
        self._quieten(key, self._clock.monotonic() + FORGET_SECONDS)
        self._log.warning(
            "budget_alert_failed",
            budget_id=alert.budget.id,
            window=alert.window,
            tenant_id=alert.tenant_id,
            reason=str(error),
        )

    def _quieten(self, key: tuple[str, str], until: float) -> None:
        self._quiet.pop(key, None)
        if len(self._quiet) >= REMEMBERED:
            del self._quiet[next(iter(self._quiet))]
        self._quiet[key] = until


class Webhook:
    """Posts alerts as JSON to ``url``, the operator's own choice. 2xx takes one; anything else raises :class:`NotTold`.

    With ``secret`` each post carries ``x-hx-signature: sha256=<hex>``, the HMAC of its body, whose ``id`` is the same
    in no two alerts and whose ``sent_at`` tells an old one that is sent again by somebody else.
    """

    def __init__(
        self,
        upstream: Upstream,
        url: str,
        secret: str | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._upstream = upstream
        self._url = url
        self._secret = secret.encode() if secret else None
        self._now = now

    async def __call__(self, alert: SoftLimitCrossed) -> None:
        """Send an alert once."""
        body = self._body(alert)
        headers = {"content-type": "application/json", "user-agent": "hx-gateway"}
        if self._secret is not None:
            headers[SIGNATURE] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        request = UpstreamRequest(method="POST", url=self._url, headers=headers, body=body, timeouts=TIMEOUTS)
        call = self._upstream.call(request)
        try:
            head = await call.head()
            read = 0
            async for chunk in call.chunks():
                read += len(chunk)
                if read > MAX_ANSWER_BYTES:
                    break
        except UpstreamError as error:
            raise NotTold(type(error).__name__) from error
        finally:
            call.abort()
        if not 200 <= head.status < 300:
            raise NotTold(f"answered {head.status}")

    def _body(self, alert: SoftLimitCrossed) -> bytes:
        budget = alert.budget
        soft = budget.limit_nano if budget.soft_nano is None else budget.soft_nano
        return msgspec.json.encode(
            {
                "type": CROSSED,
                "id": str(uuid4()),
                "sent_at": self._now(),
                "tenant_id": alert.tenant_id,
                "budget_id": budget.id,
                "window": alert.window,
                "period": budget.period,
                "owner_kind": budget.kind,
                "owner_id": budget.owner_id,
                "soft_usd": _usd(soft),
                "limit_usd": _usd(budget.limit_nano),
                "spent_usd": _usd(alert.spent_nano),
            }
        )


def _usd(nano: int) -> msgspec.Raw:
    return msgspec.Raw(usd_text(nano).encode())
