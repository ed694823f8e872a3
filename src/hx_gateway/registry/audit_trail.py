"""What is written down of changes of the registry: entries of the tenant's chain, in the change's own transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Text, bindparam, column, func, select
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from hx_gateway.access.audit import AuditChain, difference, masked
from hx_gateway.access.audit import Change as AuditedChange
from hx_gateway.access.errors import no_such
from hx_gateway.access.repository import Repository
from hx_gateway.db.models.audit import AuditEntry
from hx_gateway.registry.feed.changes import Change
from hx_gateway.registry.feed.repository import changes_of

# ``noticed``: something came about that nobody did, and that changed no version of the object.
Action = Literal["created", "updated", "deleted", "restored", "purged", "noticed"]
# Where PostgreSQL tells, at the commit, whose services were changed.
POSTGRES_CHANNEL = "hx_registry"
_ELEMENTS = func.unnest(bindparam("before", type_=ARRAY(Text)), bindparam("after", type_=ARRAY(Text)))
_PAIRS = _ELEMENTS.table_valued(column("before", Text), column("after", Text), with_ordinality="place").render_derived()
# As the database writes JSON, which is what the hashes are over.
_AS_WRITTEN = select(
    sql_cast(sql_cast(_PAIRS.c.before, JSONB), Text), sql_cast(sql_cast(_PAIRS.c.after, JSONB), Text)
).order_by(_PAIRS.c.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who changes something, in which request: the id of a key, or the name of a part of the gateway."""

    key: str
    user: str | None = None
    request_id: str

    @property
    def name(self) -> str:
        """Who is named in the rows: the user, where the key has one."""
        return self.user or self.key


@dataclass(frozen=True, slots=True)
class Recorded:
    """A change of one object: its fields before and after, ``None`` where there was or is none."""

    action: Action
    object_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None

    def told(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return the fields that differ as they were and as they are; values that are named like secrets masked."""
        if self.before is None or self.after is None:
            return _open(self.before), _open(self.after)
        before, after = difference(self.before, self.after)
        return _open(before), _open(after)


class AuditTrail:
    """Adds to the audit log of one tenant, as ``author``, at ``now``. Whoever adds holds the tenant's lock.

    PostgreSQL notifies :data:`POSTGRES_CHANNEL` of the tenant when the transaction commits.
    """

    def __init__(
        self, session: AsyncSession, chain: AuditChain, *, tenant_id: str, author: Author, now: datetime
    ) -> None:
        self.tenant_id = tenant_id
        self.author = author
        self.now = now
        self._entries: list[AuditEntry] = []
        self._session = session
        self._chain = chain
        self._directory = Repository(session)

    async def lock(self) -> None:
        """Let nobody else change the tenant's objects until the transaction ends. Raises ``NotFound``."""
        tenant = await self._directory.lock_tenant(self.tenant_id)
        if tenant is None or tenant.deleted_at is not None:
            raise no_such("tenant", self.tenant_id, param="tenant_id")

    async def changes(self) -> list[Change]:
        """Return what was added and not undone so far, as those are told who follow the registry."""
        kept = [entry for entry in self._entries if entry in self._session]
        return await changes_of(self._session, self.tenant_id, kept)

    async def record(self, kind: str, changes: Sequence[Recorded]) -> None:
        """Add an entry for each of ``changes``, in their order."""
        if not changes:
            return
        told = [change.told() for change in changes]
        texts = {"before": [_text(before) for before, _ in told], "after": [_text(after) for _, after in told]}
        written = (await self._session.execute(_AS_WRITTEN, texts)).all()
        _, _, previous = await self._directory.as_written(self.tenant_id, None, None)
        for change, (before, after), (before_text, after_text) in zip(changes, told, written, strict=True):
            common: dict[str, Any] = {
                "tenant_id": self.tenant_id,
                "at": self.now,
                "actor_key": self.author.key,
                "actor_user": self.author.user,
                "action": change.action,
                "object_kind": kind,
                "object_id": change.object_id,
                "request_id": self.author.request_id,
            }
            link = self._chain.link(AuditedChange(**common, before=before_text, after=after_text), previous)
            entry = AuditEntry(**common, before=before, after=after, previous_hash=previous, hash=link)
            self._session.add(entry)
            self._entries.append(entry)
            previous = link
        await self._session.flush()
        await self._session.execute(select(func.pg_notify(POSTGRES_CHANNEL, self.tenant_id)))


def _open(fields: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if fields is None else masked(dict(fields))


def _text(fields: Mapping[str, Any] | None) -> str | None:
    return None if fields is None else json.dumps(fields)
