"""What every place for answers offers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.meaning.questions import Wording

# How long a request may wait for a place for answers, whatever becomes of it, unless that is set.
BUDGET_SECONDS = 0.03


class CacheAway(Exception):
    """This place cannot say whether it has an answer: it is away, too slow, or compares no such questions."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the caches see it.

    ``partition`` is who shares answers with it (it begins with ``tenant_id``), ``digest`` its identity in there.
    ``namespace`` narrows the partition; ``operation``, ``model`` and ``body`` are what it asks. ``wording`` is for
    whoever compares by meaning, ``None`` where nobody is to.
    """

    tenant_id: str
    partition: str
    namespace: str | None
    key_id: str
    operation: str
    model: str
    body: Mapping[str, msgspec.Raw]
    digest: bytes
    wording: Wording | None = None


class Found(msgspec.Struct, frozen=True):
    """An answer to a question; ``similarity`` is how near its own question was, ``None`` for the same one."""

    answer: StoredAnswer
    similarity: float | None = None


class AnswerCache(Protocol):
    """A place for answers. ``kind`` is its name in headers and metrics.

    ``find`` takes no longer than a set time (:data:`BUDGET_SECONDS`), whatever became of the store behind it, and
    raises :class:`CacheAway` then: a request goes on without the cache. Nobody waits for ``keep``, which raises it too.
    """

    @property
    def kind(self) -> str: ...

    async def find(self, question: Question) -> Found | None:
        """Return an answer of the question's partition that is not past its time."""
        ...

    async def keep(self, question: Question, answer: StoredAnswer, ttl_seconds: int) -> None:
        """Keep an answer for so long, if there is room."""
        ...

    async def purge(self, tenant_id: str, *, key_id: str | None = None, model: str | None = None) -> int:
        """Forget the answers of a tenant: those that calls of a key brought, those of a model, or all.

        Return how many there were. Raises ``DependencyError`` where they cannot be forgotten now.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
