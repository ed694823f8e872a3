"""What the tests of probing stand on: a way out to loopback, time that runs fast, web servers that answer as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from aiohttp import web

from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.registry.probing import HealthState, Prober
from hx_gateway.registry.transactions import Transactions
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.policy import EgressPolicy
from hx_gateway.services.egress.url import NETWORK_SCHEMES
from hx_gateway.telemetry import Metrics
from tests.fixtures.egress import TLS, FixedDns
from tests.integration.registry.registries import Registry

AUDIT_KEY = b"k" * 32
WAIT_SECONDS = 60.0
SPEED = 20.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FastClock:
    """Time that runs ``speed`` times as fast as the machine's, for who waits and for who asks what it is."""

    def __init__(self, speed: float = SPEED, *, ahead: timedelta = timedelta()) -> None:
        self._speed = speed
        self._began = time.monotonic()
        self._start = datetime.now(UTC) + ahead

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * self._speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds / self._speed, 0.01))


def way_out(*, sockets: tuple[Path, ...] = (), seconds: float = 30.0) -> EgressGuard:
    """Return a guard that allows 127.0.0.1 at any port, and no name."""
    policy = EgressPolicy(
        allow_networks=(ip_network("127.0.0.1/32"),),
        schemes=NETWORK_SCHEMES,
        ports=(range(1, 65_536),),
        socket_directories=sockets,
        read_seconds=seconds,
        total_seconds=seconds,
    )
    return EgressGuard(policy, resolver=FixedDns({}), ssl_context=TLS)


@asynccontextmanager
async def probing(registry: Registry, **options: Any) -> AsyncIterator[Prober]:
    """Run a prober over all services of the registry's database."""
    options.setdefault("clock", FastClock())
    transactions = Transactions(registry.database, audit_key=AUDIT_KEY)
    prober = Prober(transactions, way_out(), metrics=Metrics(), **options)
    prober.start()
    try:
        yield prober
    finally:
        await prober.aclose()


async def until(condition: Callable[[], Awaitable[bool]], *, seconds: float = WAIT_SECONDS) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def until_status(prober: Prober, registry: Registry, item: RegistryItem, status: str) -> HealthState:
    """Wait until a service has a status; return its health then."""

    async def there() -> bool:
        return (await prober.repository.state(registry.tenant, item.id)).status == status

    await until(there)
    return await prober.repository.state(registry.tenant, item.id)


@asynccontextmanager
async def web_server(handler: Handler) -> AsyncIterator[str]:
    """Serve every path with ``handler``; give the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert runner.addresses
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answering(status: int = 200, **options: Any) -> Handler:
    """Return a handler that always answers so."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, **options)

    return answer
