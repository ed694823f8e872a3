"""Checks presented keys: the admin key, keys of our form, and imported ones; against what is known or can be asked."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from hx_gateway.access.key_cache import RETRY_SECONDS, Entry, KeyCache
from hx_gateway.access.key_format import parse_key
from hx_gateway.access.known_key import KeySource, KnownKey, Standing
from hx_gateway.access.look_ups import IMPORTED_PREFIX, LookUps
from hx_gateway.access.peppers import Peppers
from hx_gateway.access.principal import Authenticator, Principal
from hx_gateway.access.shared_keys import SharedKeys
from hx_gateway.errors import InvalidApiKey, Unavailable
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks

STALE_MAX_SECONDS = 24 * 3600.0
IMPORTED_SECONDS = 60.0
REREAD_SECONDS = 5.0
WARM_KEYS = 2000
# At once. Those that are left out come with their next use.
MAX_RENEWALS = 4

Count = Callable[[str], None]
_log = structlog.get_logger()


def count_nothing(_outcome: str) -> None:
    """Stand in for a metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRules:
    """Seconds. Beyond ``stale_max`` a key is not served without asking, however long the database is away."""

    stale_max: float = STALE_MAX_SECONDS
    look_up_timeout: float = 1.0


class KeyAuthenticator:
    """The admin key first, which needs no store; then keys of our form; then imported ones, where there are any.

    A text that is no key of ours costs no look-up. One that may be costs at most one at a time, and none while its row
    is fresh. While the database cannot be asked, keys that are known go on for ``stale_max``, and others are
    :class:`~hx_gateway.errors.Unavailable`: never "no such key". ``expires_at`` holds always. Why a key does not hold
    any more is told only to whoever has its secret.

    ``shared`` is what other processes looked up. ``reread`` returns the peppers as they are in their file now.
    ``count`` gets one word for each key: ``hit``, ``stale``, ``asked``, ``absent``, ``malformed``, ``unavailable``,
    and ``renewed`` or ``renewal_failed`` for digests made with the current pepper.
    """

    def __init__(
        self,
        *,
        admin: Authenticator,
        peppers: Peppers,
        source: KeySource,
        cache: KeyCache,
        rules: KeyRules | None = None,
        shared: SharedKeys | None = None,
        reread: Callable[[], Peppers] | None = None,
        count: Count = count_nothing,
        clock: Clock | None = None,
    ) -> None:
        self._admin = admin
        self._peppers = peppers
        self._source = source
        self._cache = cache
        self._rules = rules or KeyRules()
        self._reread = reread
        self._reread_at = float("-inf")
        self._count = count
        self._clock = clock or SystemClock()
        self._look_ups = LookUps(
            source,
            cache,
            timeout=self._rules.look_up_timeout,
            stale_max=self._rules.stale_max,
            shared=shared,
            clock=self._clock,
        )
        self._renewing: dict[str, asyncio.Task[None]] = {}
        self._renew_at = 0.0
        self._imported: bool | None = None
        self._imported_at = float("-inf")

    @property
    def peppers(self) -> Peppers:
        """The peppers as they were last read."""
        return self._peppers

    async def authenticate(self, presented: str) -> Principal | None:
        """Return whose key it is, ``None`` for no key of anybody's.

        Raises ``InvalidApiKey`` with the code ``key_expired``, ``key_blocked`` or ``key_revoked`` for a right secret
        of a key that does not hold any more, and ``Unavailable`` where nobody can tell.
        """
        admin = await self._admin.authenticate(presented)
        if admin is not None:
            return admin
        parsed = parse_key(presented)
        if parsed is not None:
            known = await self._find(parsed.id)
        elif await self._any_imported():
            known = await self._find(IMPORTED_PREFIX + _sha256(presented).hex())
        else:
            self._count("malformed")
            return None
        if known is None:
            self._peppers.waste(presented)
            return None
        if not await self._is_right(presented, known):
            return None
        self._check_standing(known)
        return known.principal

    async def warm(self, limit: int = WARM_KEYS) -> int:
        """Look up many keys before anybody presents them; return how many. None while nobody can be asked."""
        try:
            return await self._look_ups.warm(limit)
        except Unavailable:
            return 0

    async def aclose(self) -> None:
        """End what runs in the background."""
        await end_tasks(self._renewing.values())
        await self._look_ups.aclose()

    def forget_imported(self) -> None:
        """Ask anew, at the next use, whether there are imported keys."""
        self._imported_at = float("-inf")

    async def _find(self, lookup: str) -> KnownKey | None:
        entry = self._cache.get(lookup)
        if entry is not None and self._cache.is_fresh(entry):
            if self._cache.is_due(entry) and self._cache.may_ask(entry):
                self._look_ups.start(lookup)
            self._count("hit")
            return entry.known
        if entry is None and self._cache.is_absent(lookup):
            self._count("absent")
            return None
        if entry is not None and not self._cache.may_ask(entry) and self._is_usable(entry):
            self._count("stale")
            return entry.known
        try:
            known = await self._look_ups.ask(lookup)
        except Unavailable:
            # Looked for again: a change may have come in meanwhile, and what was known is not so any more.
            entry = self._cache.get(lookup)
            if entry is None or not self._is_usable(entry):
                self._count("unavailable")
                raise
            self._count("stale")
            return entry.known
        self._count("asked" if known is not None else "absent")
        return known

    def _is_usable(self, entry: Entry) -> bool:
        return self._cache.age(entry) <= self._rules.stale_max

    async def _is_right(self, presented: str, known: KnownKey) -> bool:
        if known.digest is None:
            right = known.imported_sha256 is not None and _same(_sha256(presented), known.imported_sha256)
            if right:
                self._renew(presented, known)
            return right
        await self._learn_peppers(known)
        if self._peppers.matches(presented, known.pepper_id, known.digest):
            if known.pepper_id != self._peppers.current:
                self._renew(presented, known)
            return True
        if known.previous_digest is not None and self._in_grace(known):
            return self._peppers.matches(presented, known.previous_pepper_id, known.previous_digest)
        return False

    def _in_grace(self, known: KnownKey) -> bool:
        return known.previous_expires_at is not None and self._clock.now() < known.previous_expires_at

    async def _learn_peppers(self, known: KnownKey) -> None:
        """Read the peppers again for a digest of one that was added meanwhile. Raises ``Unavailable`` without it."""
        if self._peppers.knows(known.pepper_id):
            return
        now = self._clock.monotonic()
        if self._reread is not None and now >= self._reread_at:
            self._reread_at = now + REREAD_SECONDS
            try:
                self._peppers = await asyncio.to_thread(self._reread)
            except (OSError, ValueError) as error:
                _log.warning("peppers_unreadable", reason=str(error))
        if not self._peppers.knows(known.pepper_id):
            _log.error("pepper_unknown", pepper_id=known.pepper_id, key_id=known.id)
            raise Unavailable(
                "The API key cannot be checked: the gateway lacks the pepper that it was stored with.",
                code="pepper_unknown",
            )

    def _check_standing(self, known: KnownKey) -> None:
        if known.standing is Standing.DELETED:
            raise _refused("The API key was revoked: ask whoever gave it to you for another.", "key_revoked")
        if known.standing is Standing.BLOCKED:
            raise _refused(
                "The API key is blocked, or whom it belongs to, or a key above it: ask an administrator.", "key_blocked"
            )
        if known.expires_at is not None and self._clock.now() >= known.expires_at:
            raise _refused("The API key has expired: ask whoever gave it to you for another.", "key_expired")

    def _renew(self, presented: str, known: KnownKey) -> None:
        """Have the digest made with the current pepper, in the background: the request does not depend on it."""
        if known.id in self._renewing or len(self._renewing) >= MAX_RENEWALS:
            return
        if self._clock.monotonic() < self._renew_at:
            return
        pepper_id, digest = self._peppers.digest(presented)
        task = asyncio.create_task(self._keep_digest(known, pepper_id, digest))
        self._renewing[known.id] = task
        task.add_done_callback(lambda _task: self._renewing.pop(known.id, None))

    async def _keep_digest(self, known: KnownKey, pepper_id: str, digest: bytes) -> None:
        try:
            async with asyncio.timeout(self._rules.look_up_timeout):
                await self._source.keep_digest(known, pepper_id, digest)
        except Exception as error:  # noqa: BLE001 - the old digest still serves, whatever kept the new one from the row
            self._renew_at = self._clock.monotonic() + REREAD_SECONDS
            self._count("renewal_failed")
            _log.warning("digest_not_renewed", key_id=known.id, reason=type(error).__name__)
            return
        self._count("renewed")
        self._cache.doubt(known.id)
        if known.imported_sha256 is not None:
            self._cache.doubt(IMPORTED_PREFIX + known.imported_sha256.hex())

    async def _any_imported(self) -> bool:
        if self._imported is None or self._clock.monotonic() - self._imported_at >= IMPORTED_SECONDS:
            try:
                self._imported = await self._look_ups.any_imported()
                self._imported_at = self._clock.monotonic()
            except Unavailable:
                # Where there were none a minute ago, changes would have told of the first: see ``forget_imported``.
                if self._imported is None:
                    self._count("unavailable")
                    raise
                self._imported_at = self._clock.monotonic() - IMPORTED_SECONDS + RETRY_SECONDS
        return self._imported


def _refused(message: str, code: str) -> InvalidApiKey:
    return InvalidApiKey(message, code=code, headers={"www-authenticate": "Bearer"})


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)
