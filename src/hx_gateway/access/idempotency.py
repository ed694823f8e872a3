"""Creations that are asked for again: the first answer comes again, without the secret that it held."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hx_gateway.access.errors import Conflict
from hx_gateway.access.repository import Repository
from hx_gateway.access.resources import Actor

KEPT = timedelta(hours=24)
REPLAYED = "replayed"
CREATED = 201


@dataclass(frozen=True, slots=True)
class Repetition:
    """A request that may come again: whose it is, the key that its client gave it, and what it asked for.

    ``tenant_id`` is the tenant that it is about, the actor's own unless given: the answer is one of its rows.
    """

    actor: Actor
    key: str
    fingerprint: bytes
    tenant_id: str | None = None

    async def first_answer(self, repository: Repository, now: datetime) -> dict[str, Any] | None:
        """Return what was answered the first time, marked; ``None``: this is the first time.

        Raises :class:`Conflict` for a key that was used for something else, or while the first is at work.
        """
        tenant_id, actor = self._owner
        if not await repository.claim(f"idempotency {tenant_id} {actor} {self.key}"):
            raise Conflict(
                "The first request with this idempotency key is still at work: ask again in a moment.",
                code="idempotency_in_progress",
            )
        await repository.forget_answers(now - KEPT)
        kept = await repository.answer(tenant_id, actor, self.key, now - KEPT)
        if kept is None:
            return None
        if kept.fingerprint != self.fingerprint:
            raise Conflict(
                "This idempotency key was used for another request: choose a new one.", code="idempotency_conflict"
            )
        return {**kept.response, REPLAYED: True}

    async def keep(self, repository: Repository, answer: Mapping[str, Any], now: datetime) -> None:
        """Keep the answer, but for the secret in it."""
        tenant_id, actor = self._owner
        shown = {name: value for name, value in answer.items() if name != "key"}
        more = {"fingerprint": self.fingerprint, "status": CREATED, "response": shown, "created_at": now}
        await repository.keep_answer({"tenant_id": tenant_id, "actor": actor, "key": self.key, **more})

    @property
    def _owner(self) -> tuple[str, str]:
        return self.tenant_id or str(self.actor.principal.tenant_id), str(self.actor.principal.key_id)


def fingerprint(kind: str, fields: Mapping[str, Any]) -> bytes:
    """Return what tells a request for an object from requests for others."""
    text = json.dumps([str(kind), fields], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
