"""What a store of vectors does, whichever it is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


class StoreUnusable(Exception):
    """The store is there and cannot do it, until somebody changes something; the text says what, for the log."""


class SpaceMissing(Exception):
    """What :meth:`VectorStore.ensure` makes is not there, or what it needs is not there yet."""


@dataclass(frozen=True, slots=True)
class Space:
    """Vectors that may be compared: of one model, with so many numbers each."""

    embedder: str
    dimensions: int

    @property
    def label(self) -> str:
        """A short name for it, fit for an identifier."""
        return hashlib.blake2b(f"{self.embedder}\0{self.dimensions}".encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an answer is looked for and kept: what must be the same. Each of its parts is a condition of the search."""

    tenant_id: str
    within: str
    frame: str

    def id_of(self, text: str) -> UUID:
        """Return the id of the entry for ``text`` here: a question that is asked again replaces its answer."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.tenant_id, self.within, self.frame, text):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return UUID(bytes=digest.digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An answer to keep. Times are seconds since 1970; ``vector`` has length 1."""

    id: UUID
    place: Place
    vector: Sequence[float]
    answer: bytes
    model: str
    key_id: str
    stored_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest entry: ``similarity`` is the cosine of the two vectors' angle, 1.0 at the most."""

    answer: bytes
    similarity: float
    stored_at: float


class VectorStore(Protocol):
    """Keeps entries of one space at a time; the others' stay apart, and go with age.

    All raise ``DependencyError`` while the store is away, and :class:`SpaceMissing`. They may be cancelled at any time.
    Entries whose time is over are never found.
    """

    async def ensure(self, space: Space) -> None:
        """Make what ``space`` needs, where it is not there. Raises :class:`StoreUnusable`."""
        ...

    async def nearest(self, place: Place, vector: Sequence[float], now: float) -> Near | None:
        """Return the entry at ``place`` whose vector is nearest."""
        ...

    async def put(self, entry: Entry) -> None:
        """Keep ``entry``, instead of the one with its id."""
        ...

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Remove a tenant's entries, those kept for a key or of a model only if one is given; of every space.

        Return how many there were.
        """
        ...

    async def expire(self, now: float) -> None:
        """Remove what is too old, of every space."""
        ...

    async def trim(self, tenant_id: str, most: int) -> None:
        """Remove a tenant's oldest entries beyond ``most``."""
        ...
