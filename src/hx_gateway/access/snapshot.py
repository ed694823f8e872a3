"""Keeps what is known of keys on disk, so that a process that starts while the database is away knows them."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from hx_gateway.access.key_cache import KeyCache
from hx_gateway.access.known_key import KnownKey
from hx_gateway.access.peppers import Peppers
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.kit.tasks import end_tasks

SNAPSHOT_FILE = "keys.snapshot"
WRITE_SECONDS = 60.0
# A change is written sooner: it may be a key that must not be served again.
CHANGE_SECONDS = 1.0
# Without changes it is written so often, for the ages in it.
REWRITE_SECONDS = 600.0
MAX_KEYS = 10_000
MAX_BYTES = 64 * 1024 * 1024
MAX_AGE = timedelta(hours=24)
_PURPOSE = "key-snapshot-2"
_MAGIC = b"hx-keys-1\n"
_MAC_BYTES = hashlib.sha256().digest_size
_log = structlog.get_logger()


class KeptKey(msgspec.Struct, array_like=True):
    """A key, what it is looked up by, and when the database last said so."""

    lookup: str
    confirmed_at: datetime
    known: KnownKey


class KeySnapshot:
    """One signed file for all processes of a host: digests and grants, never a secret.

    What is read from it is never fresh: it is served only while the database cannot be asked. A file that was changed,
    is older than ``max_age``, is somebody else's, or was signed with a pepper that is not ours, is ignored with a log
    event. Processes that share the file keep each other's keys in it, but for those that they were told have changed.
    """

    def __init__(
        self,
        path: Path,
        peppers: Peppers,
        cache: KeyCache,
        *,
        max_age: timedelta = MAX_AGE,
        max_keys: int = MAX_KEYS,
        write_seconds: float = WRITE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self._path = path
        self._peppers = peppers
        self._cache = cache
        self._max_age = max_age
        self._max_keys = max_keys
        self._write_seconds = write_seconds
        self._clock = clock or SystemClock()
        self._written_revision = cache.revision
        self._written_at = self._clock.monotonic()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over the keys of the file, and keep it up to date from now on."""
        await self.load()
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Write once more, and stop."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks([task])
        if self._cache.revision != self._written_revision:
            await self.write()

    async def load(self) -> int:
        """Take over the keys of the file; return how many."""
        kept = await asyncio.to_thread(self._read)
        now = self._clock.now()
        taken = 0
        for key in kept:
            age = (now - key.confirmed_at).total_seconds()
            if not self._cache.changed_since(key.known, age):
                self._cache.restore(key.lookup, key.known, age)
                taken += 1
        if taken:
            _log.info("key_snapshot_loaded", keys=taken)
        return taken

    async def write(self) -> None:
        """Write the file. A disk that refuses is logged, and tried again the next time."""
        self._written_revision = self._cache.revision
        self._written_at = self._clock.monotonic()
        now = self._clock.now()
        own = [
            KeptKey(lookup, now - timedelta(seconds=self._cache.age(entry)), entry.known)
            for lookup, entry in islice(self._cache.entries(), self._max_keys)
        ]
        try:
            await asyncio.to_thread(self._locked_write, own)
        except OSError as error:
            _log.warning("key_snapshot_not_written", reason=error.strerror or type(error).__name__)

    async def _run(self) -> None:
        changes = self._cache.changes
        while True:
            await self._clock.sleep(CHANGE_SECONDS)
            waited = self._clock.monotonic() - self._written_at
            told, changes = self._cache.changes != changes, self._cache.changes
            differs = self._cache.revision != self._written_revision
            if told or (differs and waited >= self._write_seconds) or (len(self._cache) and waited >= REWRITE_SECONDS):
                await self.write()

    def _locked_write(self, own: list[KeptKey]) -> None:
        with _lock(self._path.with_name(f".{self._path.name}.lock")):
            merged = {key.lookup: key for key in self._read() if self._is_kept(key)}
            for key in filter(self._is_kept, own):
                here = merged.get(key.lookup)
                if here is None or here.confirmed_at < key.confirmed_at:
                    merged[key.lookup] = key
            latest = sorted(merged.values(), key=lambda key: key.confirmed_at, reverse=True)[: self._max_keys]
            _replace(self._path, self._seal(msgspec.msgpack.encode(latest)))

    def _is_kept(self, key: KeptKey) -> bool:
        age = (self._clock.now() - key.confirmed_at).total_seconds()
        return not self._cache.changed_since(key.known, age)

    def _seal(self, payload: bytes) -> bytes:
        signed = _MAGIC + self._peppers.current.encode() + b"\n" + payload
        signing_key = self._peppers.derive(_PURPOSE)
        assert signing_key is not None
        return hmac.digest(signing_key, signed, hashlib.sha256) + signed

    def _read(self) -> list[KeptKey]:
        """Return the keys in the file that are young enough; none for a file that is not to be trusted."""
        try:
            sealed = _contents(self._path)
        except FileNotFoundError:
            return []
        except OSError as error:
            return self._ignore(error.strerror or "unreadable")
        payload = self._open(sealed)
        if payload is None:
            return self._ignore("not signed by this gateway")
        try:
            kept = msgspec.msgpack.decode(payload, type=list[KeptKey])
        except (msgspec.DecodeError, UnicodeError):
            return self._ignore("of another version")
        now = self._clock.now()
        young = [key for key in kept if timedelta(0) <= now - key.confirmed_at <= self._max_age]
        return young if young or not kept else self._ignore("too old")

    def _open(self, sealed: bytes) -> bytes | None:
        mac, signed = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        pepper_id, _, payload = signed.removeprefix(_MAGIC).partition(b"\n")
        signing_key = self._peppers.derive(_PURPOSE, pepper_id.decode("ascii", "replace"))
        if signing_key is None or not signed.startswith(_MAGIC):
            return None
        return payload if hmac.compare_digest(hmac.digest(signing_key, signed, hashlib.sha256), mac) else None

    def _ignore(self, reason: str) -> list[KeptKey]:
        _log.warning("key_snapshot_ignored", path=str(self._path), reason=reason)
        return []


def _contents(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(0, "not a file of this user")
        if found.st_size > MAX_BYTES:
            raise OSError(0, "too large")
        return file.read(MAX_BYTES)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
        raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of the file that is about to be replaced, in this process and in the others."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
