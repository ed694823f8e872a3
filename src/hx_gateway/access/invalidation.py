"""Carries changes of keys, users, teams and tenants to every process that remembers keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import msgspec
import structlog

from hx_gateway.access.key_cache import KeyCache
from hx_gateway.access.shared_keys import SharedKeys
from hx_gateway.errors import Unavailable
from hx_gateway.services.base import FailureKind

POSTGRES_CHANNEL = "hx_access"
REDIS_CHANNEL = "hx:access"

Kind = Literal["key", "user", "team", "tenant"]
Publish = Callable[[str], Awaitable[None]]
_log = structlog.get_logger()


class Change(msgspec.Struct, frozen=True):
    """What is told of a change: whose row it was. What it changed is read from there."""

    kind: Kind
    id: str
    tenant_id: str


class Invalidation:
    """Hears of changes through ``sources`` (names of listeners) and makes the cache forget what they concern.

    A change is told after it was committed, so that whoever looks a key up anew finds it. While one of the sources is
    lost, what is cached counts as fresh for ten seconds at most, and after it heals everything is looked up anew:
    that is how long a change can go unnoticed that nobody could tell. With no source it is so all the time.
    ``heard_key`` is called for each change of a key.
    """

    def __init__(
        self,
        cache: KeyCache,
        *,
        sources: Iterable[str] = (),
        publish: Publish | None = None,
        shared: SharedKeys | None = None,
        heard_key: Callable[[], None] | None = None,
    ) -> None:
        self._cache = cache
        self._sources = frozenset(sources)
        self._up: set[str] = set()
        self._publish = publish
        self._shared = shared
        self._heard_key = heard_key

    def heard(self, payload: str) -> None:
        """Take what a listener heard. What cannot be read may concern any key."""
        try:
            change = msgspec.json.decode(payload, type=Change)
        except (msgspec.DecodeError, UnicodeError):
            _log.warning("access_change_unreadable", length=len(payload))
            self._cache.doubt_all()
            return
        self._apply(change)

    def lost(self, source: str, kind: FailureKind) -> None:
        """Take note that changes told through ``source`` do not arrive."""
        self._up.discard(source)
        self._cache.pushed = False
        _log.warning("access_listener_lost", source=source, reason=kind.value)

    def healed(self, source: str) -> None:
        """Take note that they arrive from now on; what was told before may have been missed."""
        self._up.add(source)
        self._cache.doubt_all()
        self._cache.pushed = self._sources <= self._up
        _log.info("access_listener_up", source=source)

    async def announce(self, kind: Kind, object_id: str, tenant_id: str) -> None:
        """Tell everybody of a change that is committed. Never raises: PostgreSQL tells of it, too."""
        change = Change(kind, object_id, tenant_id)
        self._apply(change)
        if self._shared is not None:
            await self._shared.forget(kind, object_id)
        if self._publish is None:
            return
        try:
            await self._publish(msgspec.json.encode(change).decode())
        except Unavailable as error:
            _log.warning("access_change_not_published", kind=kind, reason=str(error))

    def _apply(self, change: Change) -> None:
        self._cache.drop(change.kind, change.id)
        if change.kind == "key" and self._heard_key is not None:
            self._heard_key()
