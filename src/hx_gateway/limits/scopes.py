"""Scopes as counters know them: what follows from their limits, worked out once and not for every call."""

from __future__ import annotations

import msgspec

from hx_gateway.allowances import ScopeLimits
from hx_gateway.limits.gcra import Bucket, Take, bucket_of

# Scopes that are remembered with what follows from their limits.
MAX_SCOPES = 10_000


class Scope(msgspec.Struct, frozen=True, gc=False):
    """What of a scope is the same for each ask while ``share`` is.

    ``name`` is its name in every store, ``slots`` how many of its calls may go on at once, ``request`` what one takes
    of ``requests``; the keys are those of its buckets. It keeps the limits, so that their identity is nobody else's.
    """

    limits: ScopeLimits
    share: int
    name: str
    slots: int | None
    requests: Bucket | None
    request: Take | None
    tokens: Bucket | None
    request_key: str
    token_key: str


class Scopes:
    """Scopes by the identity of their limits: a key's are the same object from call to call."""

    def __init__(self) -> None:
        self._known: dict[int, Scope] = {}
        self._together: dict[int, tuple[tuple[ScopeLimits, ...], int, tuple[Scope, ...]]] = {}

    def of(self, limits: ScopeLimits, share: int = 1) -> Scope:
        """Return the scope of ``limits``, or of a part of them: each of ``share`` processes counts one by itself."""
        known = self._known.get(id(limits))
        if known is not None and known.limits is limits and known.share == share:
            return known
        if len(self._known) >= MAX_SCOPES:
            self._known.clear()
        scope = self._known[id(limits)] = _scope(limits, share)
        return scope

    def all_of(self, limits: tuple[ScopeLimits, ...], share: int = 1) -> tuple[Scope, ...]:
        """Return the scopes that a call is counted in, which are the same object from call to call too."""
        known = self._together.get(id(limits))
        if known is not None and known[0] is limits and known[1] == share:
            return known[2]
        if len(self._together) >= MAX_SCOPES:
            self._together.clear()
        scopes = tuple([self.of(scope, share) for scope in limits])
        self._together[id(limits)] = (limits, share, scopes)
        return scopes


def _scope(limits: ScopeLimits, share: int) -> Scope:
    name = f"{limits.kind.value}:{limits.id}"
    requests = None if limits.requests is None else bucket_of(limits.requests, share)
    tokens = None if limits.tokens is None else bucket_of(limits.tokens, share)
    request = None if requests is None else requests.take(1)
    return Scope(limits, share, name, _slots(limits, share), requests, request, tokens, "q:" + name, "k:" + name)


def _slots(limits: ScopeLimits, share: int) -> int | None:
    """A part of some slots is at least one."""
    if limits.parallel is None or share == 1:
        return limits.parallel
    return max(min(1, limits.parallel), limits.parallel // share)
