"""Composes the registry: its catalogue, its changes and who is told of them, answers that are kept, and its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import msgspec
import structlog
from fastapi import FastAPI

from hx_gateway.errors import Unavailable
from hx_gateway.events import OperationFinished
from hx_gateway.pipeline.routes import Handler, RouteSpec
from hx_gateway.registry.api.asking import RegistryParts
from hx_gateway.registry.api.router import include, registry_routes
from hx_gateway.registry.audit_trail import POSTGRES_CHANNEL
from hx_gateway.registry.bulk import Bulk
from hx_gateway.registry.catalog import Catalog
from hx_gateway.registry.checks import Checks
from hx_gateway.registry.dependencies import Dependencies
from hx_gateway.registry.feed.changes import Change
from hx_gateway.registry.feed.follow import ChangeFeed
from hx_gateway.registry.feed.repository import ChangeRepository
from hx_gateway.registry.history import History
from hx_gateway.registry.hot_reads import HotReads
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.package_rules import Sources, sources_of
from hx_gateway.registry.official.registry import OfficialRegistry
from hx_gateway.registry.official.routes import official_routes
from hx_gateway.registry.official.server_json import Rules
from hx_gateway.registry.official.source import PAGE_BYTES, RegistrySource
from hx_gateway.registry.probing import Prober
from hx_gateway.registry.probing.commands import CommandsError, load_commands
from hx_gateway.registry.service_gauge import ServiceGauge
from hx_gateway.registry.standing import Standing
from hx_gateway.registry.sync.followed import Followed, followed_of
from hx_gateway.registry.sync.job import RegistrySync
from hx_gateway.registry.tools import Tools
from hx_gateway.registry.transactions import Observe, Transactions
from hx_gateway.services.database import DatabaseManager
from hx_gateway.services.egress.guard import EgressGuard
from hx_gateway.services.egress.policy import EgressPolicy
from hx_gateway.services.listener import Ears
from hx_gateway.services.postgres_listener import PostgresListener
from hx_gateway.services.redis import RedisService
from hx_gateway.services.redis_pubsub import publisher
from hx_gateway.services.redis_values import RedisValues
from hx_gateway.settings import Settings, SettingsError
from hx_gateway.telemetry import Metrics

# Where changes of services are published, for whoever has a Redis rather than a stream.
REDIS_CHANNEL = "hx:registry"
# The longest a service may be asked for, by its own settings.
PROBE_SECONDS = 30.0
# What telling Redis may add to a change that is committed already, however many services it was about.
ANNOUNCE_SECONDS = 0.5
_log = structlog.get_logger()


class Registering:
    """The registry over one database. ``feed`` is stopped with the server, so that nobody follows it for ever.

    ``export`` is called for each operation that somebody asked for.

    Raises ``SettingsError`` for a setting that cannot be used: what users' URLs may reach, commands, names, sources.

    Redis tells others of changes and keeps answers for other processes; without it, or while it is away, nothing is
    missing but that: PostgreSQL tells every process of changes.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        database: DatabaseManager,
        redis: RedisService | None,
        *,
        audit_key: bytes,
        export: Observe | None = None,
    ) -> None:
        self._pg_url = settings.pg_url
        self._redis = redis
        self._publish = publisher(redis, REDIS_CHANNEL) if redis is not None else None
        self.feed = ChangeFeed(ChangeRepository(database))
        self.hot = HotReads(
            self.feed,
            values=RedisValues(redis) if redis is not None else None,
            count=lambda outcome: metrics.registry_reads.labels(outcome).inc(),
        )
        self._metrics, self._export = metrics, export
        transactions = Transactions(database, audit_key=audit_key, announce=self._announce, observe=self._observe)
        self._guard = EgressGuard(egress_policy(settings))
        sources = RegistrySource(self._guard.reading(PAGE_BYTES))
        self.prober = _prober(settings, transactions, self._guard, metrics) if settings.registry_probing else None
        self._gauge = ServiceGauge(database, metrics, probing=self.prober is not None)
        self._public_tenant = settings.registry_public_tenant
        self.official = OfficialRegistry(
            transactions,
            naming=_naming(settings),
            gateway_url=settings.public_url,
            rules=Rules(sources=_sources(settings)),
        )
        self.sync = RegistrySync(
            transactions,
            sources,
            _followed(settings),
            naming=self.official.naming,
            metrics=metrics,
            interval=timedelta(seconds=settings.registry_sync_seconds),
        )
        self.parts = RegistryParts(
            catalog=Catalog(transactions),
            bulk=Bulk(transactions),
            standing=Standing(transactions, self.prober),
            checks=Checks(transactions, probing=self.prober is not None),
            history=History(transactions),
            dependencies=Dependencies(transactions),
            tools=Tools(transactions, self.prober),
            feed=self.feed,
            hot=self.hot,
            sources=sources,
            sync=self.sync,
            naming=self.official.naming,
            require_if_match=settings.registry_require_if_match,
        )

    def include(self, api: FastAPI) -> None:
        """Add what FastAPI serves to ``api``."""
        include(api, self.parts)

    def routes(self, handler: Handler) -> list[RouteSpec]:
        """Return every route; ``handler`` answers those that :meth:`include` added."""
        return [
            *registry_routes(self.parts, handler),
            *official_routes(self.official, public_reads_tenant=self._public_tenant),
        ]

    async def open(self, stack: AsyncExitStack) -> None:
        """Begin to hear of changes, to follow other registries, and to probe."""
        assert self._pg_url is not None
        feed = self.feed
        ears = Ears(heard=feed.heard, lost=feed.lost, healed=feed.healed)
        listener = PostgresListener(self._pg_url.get_secret_value(), POSTGRES_CHANNEL, ears)
        await listener.start()
        stack.push_async_callback(listener.close)
        stack.push_async_callback(self.hot.aclose)
        stack.callback(self._guard.close)
        self.sync.start()
        stack.push_async_callback(self.sync.aclose)
        self._gauge.start()
        stack.push_async_callback(self._gauge.aclose)
        if self.prober is not None:
            self.prober.start()
            stack.push_async_callback(self.prober.aclose)

    def _observe(self, operation: OperationFinished) -> None:
        outcome = operation.error_code or "ok"
        self._metrics.registry_operations.labels(operation.operation, outcome).observe(operation.seconds)
        if self._export is not None:
            self._export(operation)

    async def _announce(self, tenant_id: str, changes: Sequence[Change]) -> None:
        """Tell of changes that are committed: here at once, elsewhere through Redis. Never raises."""
        self.feed.heard(tenant_id)
        if self._publish is None or self._redis is None or not self._redis.sample.healthy:
            return
        try:
            async with asyncio.timeout(ANNOUNCE_SECONDS):
                for change in changes:
                    await self._publish(msgspec.json.encode(change.notice(tenant_id)).decode())
        except (Unavailable, TimeoutError) as error:
            _log.warning("registry_changes_not_published", count=len(changes), reason=str(error) or "too slow")


def egress_policy(settings: Settings) -> EgressPolicy:
    """Return what URLs of users may reach. Raises ``SettingsError``."""
    networks, hosts = [], []
    for word in settings.egress_allow:
        try:
            networks.append(ip_network(word))
        except ValueError:
            hosts.append(word)
    try:
        ports = tuple(_ports(word) for word in settings.egress_ports)
    except ValueError as error:
        raise SettingsError(f"HX_EGRESS_PORTS: {error}.") from error
    try:
        return EgressPolicy(
            allow_networks=tuple(networks),
            allow_hosts=frozenset(hosts),
            schemes=frozenset(settings.egress_schemes),
            ports=ports,
            socket_directories=tuple(map(Path, settings.egress_socket_dirs)),
            read_seconds=PROBE_SECONDS,
            total_seconds=PROBE_SECONDS,
        )
    except ValueError as error:
        raise SettingsError(f"HX_EGRESS_ALLOW, _SCHEMES or _SOCKET_DIRS: {error}.") from error


def _naming(settings: Settings) -> Naming:
    try:
        return Naming(settings.registry_namespace)
    except ValueError as error:
        raise SettingsError(f"HX_REGISTRY_NAMESPACE: {error}.") from error


def _followed(settings: Settings) -> tuple[Followed, ...]:
    try:
        return followed_of(settings.registry_sync)
    except ValueError as error:
        raise SettingsError(f"HX_REGISTRY_SYNC: {error}.") from error


def _sources(settings: Settings) -> Sources:
    try:
        return sources_of(settings.registry_package_sources)
    except ValueError as error:
        raise SettingsError(f"HX_REGISTRY_PACKAGE_SOURCES: {error}.") from error


def _ports(word: str) -> range:
    first, _, last = word.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise ValueError(f"{word!r} is no port and no range of ports, as 1024-65535")
    found = range(int(first), int(last or first) + 1)
    if not found or not 1 <= found[0] <= found[-1] <= 65535:
        raise ValueError(f"{word!r} is not within 1 to 65535")
    return found


def _prober(settings: Settings, transactions: Transactions, guard: EgressGuard, metrics: Metrics) -> Prober:
    path = settings.registry_commands_file
    try:
        commands = {} if path is None else load_commands(path)
    except CommandsError as error:
        raise SettingsError(f"HX_REGISTRY_COMMANDS: {error}") from error
    return Prober(transactions, guard, metrics=metrics, commands=commands)
