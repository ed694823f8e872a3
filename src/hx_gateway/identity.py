"""Composes who may call: peppers, keys as they are known and changed, what tells of changes, and the directory."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from hx_gateway.access.admin_key import AdminKeyAuthenticator
from hx_gateway.access.authenticator import KeyAuthenticator, KeyRules
from hx_gateway.access.directory import Directory
from hx_gateway.access.invalidation import POSTGRES_CHANNEL, REDIS_CHANNEL, Invalidation
from hx_gateway.access.key_cache import KeyCache
from hx_gateway.access.key_source import PostgresKeySource
from hx_gateway.access.minting import PepperedMinter
from hx_gateway.access.peppers import PEPPER_FILE, PepperError, Peppers, load_or_create_peppers, load_peppers
from hx_gateway.access.shared_keys import SharedKeys
from hx_gateway.access.snapshot import SNAPSHOT_FILE, KeySnapshot
from hx_gateway.allowances import Budget
from hx_gateway.limits.windows import window_of
from hx_gateway.registry.official.registry import OfficialRegistry
from hx_gateway.services.database import DatabaseManager
from hx_gateway.services.listener import Ears, Listener
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.postgres_listener import PostgresListener
from hx_gateway.services.redis import RedisService
from hx_gateway.services.redis_pubsub import RedisListener, publisher
from hx_gateway.services.redis_values import RedisValues
from hx_gateway.settings import NOT_CONFIGURED, Settings, SettingsError
from hx_gateway.telemetry import Metrics

AUDIT_PURPOSE = "audit-chain-1"
POSTGRES, REDIS = "postgres", "redis"


class Identity:
    """Knows keys and changes them, over one database; ``authenticator`` is for the pipeline, ``directory`` for admins.

    ``official`` is the registry of servers over the same database and in the same audit log.

    Raises ``SettingsError`` for peppers that must not be used.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        admin: AdminKeyAuthenticator,
        postgres: PostgresService,
        redis: RedisService | None,
    ) -> None:
        self._data_dir = settings.data_dir or Path(".data")
        self._pepper_file = settings.pepper_file
        self._stale_max = settings.key_stale_max
        self._pg_url = _url(settings.pg_url)
        self._redis_url = _url(settings.redis_url) if redis is not None else None
        self._peppers = self._first_peppers()
        self._cache = KeyCache()
        shared = SharedKeys(RedisValues(redis), self._peppers) if redis is not None else None
        self.authenticator = KeyAuthenticator(
            admin=admin,
            peppers=self._peppers,
            source=PostgresKeySource(postgres, default_rpm=settings.default_key_rpm),
            cache=self._cache,
            rules=KeyRules(stale_max=settings.key_stale_max),
            shared=shared,
            reread=self._read_peppers,
            count=lambda outcome: metrics.key_checks.labels(outcome).inc(),
        )
        self._invalidation = Invalidation(
            self._cache,
            sources=(POSTGRES, REDIS) if redis is not None else (POSTGRES,),
            publish=publisher(redis, REDIS_CHANNEL) if redis is not None else None,
            shared=shared,
            heard_key=self.authenticator.forget_imported,
        )
        self._database = DatabaseManager(
            self._pg_url, pool_size=settings.pool_size, max_overflow=settings.pool_overflow
        )
        audit_key = self._peppers.derive(AUDIT_PURPOSE, self._peppers.oldest)
        assert audit_key is not None
        self.official = OfficialRegistry(self._database, audit_key=audit_key)
        self.directory = Directory(
            self._database,
            mint=PepperedMinter(lambda: self.authenticator.peppers),
            audit_key=audit_key,
            announce=self._invalidation.announce,
            window_of=current_window,
        )

    async def open(self, stack: AsyncExitStack) -> None:
        """Begin to hear of changes; what is known of keys is kept on disk for a start without the database."""
        stack.push_async_callback(self._database.close)
        max_age = timedelta(seconds=self._stale_max)
        snapshot = KeySnapshot(self._data_dir / SNAPSHOT_FILE, self._peppers, self._cache, max_age=max_age)
        await snapshot.start()
        stack.push_async_callback(snapshot.aclose)
        for listener in self._listeners():
            await listener.start()
            stack.push_async_callback(listener.close)
        await self.authenticator.warm()
        stack.push_async_callback(self.authenticator.aclose)

    def _listeners(self) -> list[Listener]:
        listeners: list[Listener] = [PostgresListener(self._pg_url, POSTGRES_CHANNEL, self._ears(POSTGRES))]
        if self._redis_url is not None:
            listeners.append(RedisListener(self._redis_url, REDIS_CHANNEL, self._ears(REDIS)))
        return listeners

    def _ears(self, source: str) -> Ears:
        told = self._invalidation
        return Ears(heard=told.heard, lost=partial(told.lost, source), healed=partial(told.healed, source))

    def _first_peppers(self) -> Peppers:
        try:
            if self._pepper_file is not None:
                return load_peppers(self._pepper_file)
            return load_or_create_peppers(self._data_dir)
        except (PepperError, OSError) as error:
            raise SettingsError(f"HX_PEPPER_FILE: {error}") from error

    def _read_peppers(self) -> Peppers:
        return load_peppers(self._pepper_file or self._data_dir / PEPPER_FILE)


def current_window(budget: Budget, at: datetime) -> tuple[str, datetime | None]:
    """Return the name of a budget's window at a moment, and when it ends."""
    window = window_of(budget.period, budget.time_zone, at)
    return window.id, window.end


def _url(secret: object) -> str:
    value = getattr(secret, "get_secret_value", lambda: NOT_CONFIGURED)()
    return str(value)
