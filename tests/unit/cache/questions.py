"""Questions and answers made up for tests of the cache."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from hx_gateway.cache.answers import StoredAnswer
from hx_gateway.cache.store import Question


class SetClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 24, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def question(text: str = "hello", tenant: str = "acme", *, key_id: str = "k1", model: str = "m") -> Question:
    return Question(
        tenant_id=tenant,
        partition=tenant,
        namespace=None,
        key_id=key_id,
        operation="chat",
        model=model,
        body={},
        digest=hashlib.sha256(f"{tenant}/{model}/{text}".encode()).digest(),
    )


def answer(asked: Question, body: bytes = b"{}") -> StoredAnswer:
    return StoredAnswer(
        partition=asked.partition,
        digest=asked.digest,
        model=asked.model,
        key_id=asked.key_id,
        kept_at=1_796_083_200.0,
        body=body,
        prompt_tokens=3,
        completion_tokens=5,
    )
