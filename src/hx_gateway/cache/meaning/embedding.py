"""What turns a text into a vector, and what makes a vector fit to be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

MAX_DIMENSIONS = 8192


class EmbeddingFailed(Exception):
    """No vector, or one that cannot be compared. The text is for the log."""


class OtherDimensions(EmbeddingFailed):
    """A vector of another size than before: another model answers under the name."""


class Embedder(Protocol):
    """Turns texts into vectors, with one model. ``name`` says with which: vectors of others are never compared.

    ``embed`` may be cancelled at any time. It raises :class:`EmbeddingFailed`.
    """

    @property
    def name(self) -> str: ...

    async def embed(self, text: str) -> Sequence[float]: ...

    async def close(self) -> None: ...


def unit(vector: Sequence[float], dimensions: int | None = None) -> list[float]:
    """Return ``vector`` at length 1. Raises :class:`EmbeddingFailed` for one that has no direction, or another size."""
    if not 0 < len(vector) <= MAX_DIMENSIONS:
        raise EmbeddingFailed(f"a vector of {len(vector)} numbers")
    if dimensions is not None and len(vector) != dimensions:
        raise OtherDimensions(f"a vector of {len(vector)} numbers, not {dimensions}")
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise EmbeddingFailed("a vector without a direction")
    return [number / length for number in vector]
