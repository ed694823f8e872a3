"""What other processes looked up, in Redis: it spares the database, and stands in for it while it is away."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import msgspec

from hx_gateway.access.key_cache import CLOCKS_DIFFER_SECONDS
from hx_gateway.access.known_key import KnownKey
from hx_gateway.access.peppers import Peppers
from hx_gateway.errors import Unavailable
from hx_gateway.kit.clock import Clock, SystemClock

KEEP_SECONDS = 24 * 3600
_PURPOSE = "shared-keys-2"
_VALUE = "hx:key:"
_CHANGED = "hx:key-changed:"


class Values(Protocol):
    """Texts by name that several processes share. Raises ``Unavailable``."""

    async def get(self, names: Sequence[str]) -> list[str | None]: ...
    async def put(self, name: str, text: str, keep_seconds: int, *, forget: Sequence[str] = ()) -> None: ...


@dataclass(frozen=True, slots=True)
class Shared:
    """A key as another process saw it, and the seconds since."""

    known: KnownKey
    age: float


class _Sealed(msgspec.Struct, array_like=True):
    lookup: str
    asked_at: datetime
    known: KnownKey


class SharedKeys:
    """Signed with a key that comes from the pepper, each under the name it is looked up by: nobody else can add one.

    It never fails: what cannot be read is not there. Ages are told by the clocks of different hosts, which must agree
    to a few seconds. A change leaves a mark, so that what was kept before it is not taken for what is.
    """

    def __init__(self, values: Values, peppers: Peppers, *, clock: Clock | None = None) -> None:
        self._values = values
        self._peppers = peppers
        self._clock = clock or SystemClock()

    async def get(self, lookup: str) -> Shared | None:
        """Return what is kept, whatever happened since."""
        try:
            (text,) = await self._values.get([_VALUE + lookup])
        except Unavailable:
            return None
        sealed = None if text is None else self._open(text)
        if sealed is None or sealed.lookup != lookup:
            return None
        age = (self._clock.now() - sealed.asked_at).total_seconds()
        return Shared(sealed.known, age) if age >= 0 else None

    async def is_unchanged(self, shared: Shared) -> bool:
        """Return whether no change of the key was told since it was seen; false where that cannot be read."""
        try:
            marks = await self._values.get([_mark(kind, owner) for kind, owner in shared.known.owners])
        except Unavailable:
            return False
        seen_at = self._clock.now().timestamp() - shared.age - CLOCKS_DIFFER_SECONDS
        return all(float(mark) < seen_at for mark in marks if mark is not None)

    async def put(self, lookup: str, known: KnownKey, asked_at: datetime) -> None:
        """Keep what the database said when it was asked at ``asked_at``."""
        payload = msgspec.json.encode(_Sealed(lookup, asked_at, known)).decode()
        text = f"{self._peppers.current} {self._mac(self._peppers.current, payload)} {payload}"
        try:
            await self._values.put(_VALUE + lookup, text, KEEP_SECONDS)
        except Unavailable:
            return

    async def forget(self, kind: str, owner_id: str) -> None:
        """Mark that the keys of an owner changed just now."""
        own = [_VALUE + owner_id] if kind == "key" else []
        try:
            await self._values.put(_mark(kind, owner_id), repr(self._clock.now().timestamp()), KEEP_SECONDS, forget=own)
        except Unavailable:
            return

    def _open(self, text: str) -> _Sealed | None:
        pepper_id, _, rest = text.partition(" ")
        mac, _, payload = rest.partition(" ")
        expected = self._mac(pepper_id, payload)
        if expected is None or not hmac.compare_digest(expected.encode(), mac.encode()):
            return None
        try:
            return msgspec.json.decode(payload, type=_Sealed)
        except (msgspec.DecodeError, UnicodeError):
            return None

    def _mac(self, pepper_id: str, payload: str) -> str | None:
        signing_key = self._peppers.derive(_PURPOSE, pepper_id)
        return None if signing_key is None else hmac.new(signing_key, payload.encode(), hashlib.sha256).hexdigest()


def _mark(kind: str, owner_id: str) -> str:
    return f"{_CHANGED}{kind}:{owner_id}"
