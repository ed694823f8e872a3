"""Keys made up for tests, whoever keeps them, and a clock that a test moves."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hx_gateway.access.admin_key import AdminKeyAuthenticator
from hx_gateway.access.authenticator import KeyAuthenticator, KeyRules
from hx_gateway.access.key_cache import KeyCache
from hx_gateway.access.key_format import MintedKey, mint_key
from hx_gateway.access.known_key import KnownKey
from hx_gateway.access.peppers import Peppers
from hx_gateway.access.principal import DEFAULT_TENANT, KeyId, Principal, Scope
from hx_gateway.access.shared_keys import SharedKeys
from hx_gateway.errors import Unavailable

ADMIN_KEY = "sk-hx-admin-made-up-for-tests-0123456789abcdef"
PEPPERS = Peppers({"pp-1": os.urandom(32)}, "pp-1")
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


class FakeClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def known_key(minted: MintedKey, peppers: Peppers = PEPPERS, **changes: Any) -> KnownKey:
    """Return what a row of ``minted`` says."""
    pepper_id, digest = peppers.digest(minted.text)
    principal = Principal(key_id=KeyId(minted.id), tenant_id=DEFAULT_TENANT, scopes=frozenset({Scope.MODELS}))
    plain = KnownKey(id=minted.id, version=1, principal=principal, digest=digest, pepper_id=pepper_id)
    return replace(plain, **changes)


@dataclass
class FakeSource:
    """Keeps keys in memory, counts what it is asked, and is away when a test says so."""

    keys: dict[str, KnownKey] = field(default_factory=dict)
    asked: int = 0
    asked_for_imported: int = 0
    failure: BaseException | None = None
    gate: asyncio.Event | None = None
    kept: list[tuple[str, str]] = field(default_factory=list)

    def add(self, **changes: Any) -> MintedKey:
        minted = mint_key()
        self.keys[minted.id] = known_key(minted, **changes)
        return minted

    def add_imported(self, text: str) -> MintedKey:
        sha256 = hashlib.sha256(text.encode()).digest()
        return self.add(digest=None, pepper_id="", imported_sha256=sha256)

    async def load(self, key_id: str) -> KnownKey | None:
        self.asked += 1
        found = self.keys.get(key_id)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return found

    async def load_imported(self, sha256: bytes) -> KnownKey | None:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return next((known for known in self.keys.values() if known.imported_sha256 == sha256), None)

    async def any_imported(self) -> bool:
        self.asked_for_imported += 1
        if self.failure is not None:
            raise self.failure
        return any(known.imported_sha256 for known in self.keys.values())

    async def load_active(self, limit: int) -> list[KnownKey]:
        if self.failure is not None:
            raise self.failure
        return list(self.keys.values())[:limit]

    async def keep_digest(self, known: KnownKey, pepper_id: str, digest: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.kept.append((known.id, pepper_id))
        here = self.keys[known.id]
        self.keys[known.id] = replace(here, digest=digest, pepper_id=pepper_id, version=here.version + 1)


@dataclass
class FakeValues:
    """Texts that several desks share."""

    texts: dict[str, str] = field(default_factory=dict)
    failure: Unavailable | None = None

    async def get(self, names: Sequence[str]) -> list[str | None]:
        if self.failure is not None:
            raise self.failure
        return [self.texts.get(name) for name in names]

    async def put(self, name: str, text: str, keep_seconds: int, *, forget: Sequence[str] = ()) -> None:
        if self.failure is not None:
            raise self.failure
        self.texts[name] = text
        for other in forget:
            self.texts.pop(other, None)


class Desk:
    """An authenticator and everything around it."""

    def __init__(
        self,
        source: FakeSource,
        *,
        peppers: Peppers = PEPPERS,
        values: FakeValues | None = None,
        clock: FakeClock | None = None,
        **more: Any,
    ) -> None:
        self.source = source
        self.clock = clock or FakeClock()
        self.shared = None if values is None else SharedKeys(values, peppers, clock=self.clock)
        self.counts: Counter[str] = Counter()
        self.cache = KeyCache(monotonic=self.clock.monotonic)
        self.cache.pushed = True
        self.authenticator = KeyAuthenticator(
            admin=AdminKeyAuthenticator(ADMIN_KEY),
            peppers=peppers,
            source=source,
            cache=self.cache,
            rules=KeyRules(look_up_timeout=0.5),
            count=lambda outcome: self.counts.update([outcome]),
            clock=self.clock,
            shared=self.shared,
            **more,
        )

    async def lets_in(self, text: str) -> str | None:
        """Return the id of the key that was accepted."""
        principal = await self.authenticator.authenticate(text)
        return None if principal is None else principal.key_id
