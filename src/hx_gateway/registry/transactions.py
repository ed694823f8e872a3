"""Transactions of the registry in an actor's name: one tenant's, and told of once they are committed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hx_gateway.access.audit import AuditChain
from hx_gateway.access.errors import no_such
from hx_gateway.access.principal import Role
from hx_gateway.access.repository import Repository
from hx_gateway.access.resources import Actor
from hx_gateway.errors import HXError
from hx_gateway.events import OperationFinished
from hx_gateway.kit.clock import Clock, SystemClock
from hx_gateway.registry.audit_trail import AuditTrail, Author
from hx_gateway.registry.feed.changes import Change
from hx_gateway.registry.history_repository import HistoryRepository
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.services.database import DatabaseManager

Announce = Callable[[str, Sequence[Change]], Awaitable[None]]
Observe = Callable[[OperationFinished], None]
# Of what was broken off, or failed for a reason of ours.
UNFINISHED: str | None = "unfinished"


class Undo(Exception):
    """Undoes a transaction that nothing is wrong with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """What is asked and changed in one transaction: services, their history, and answers kept for repetitions.

    ``session`` is for repositories of other rows; whoever changes some tells ``trail``.
    """

    tenant_id: str
    items: RegistryItemRepository
    answers: Repository
    history: HistoryRepository
    trail: AuditTrail
    session: Any
    now: datetime


class Transactions:
    """Opens transactions. An actor works in its own tenant; an admin of the platform names any.

    ``announce`` is called after each commit that changed services, with the tenant and the changes in order, and
    ``observe`` for each transaction in an actor's name, once it has ended; they must not raise. Raises ``NotFound`` for
    tenants that are not the actor's, and what the database manager does.
    """

    def __init__(
        self,
        database: DatabaseManager,
        *,
        audit_key: bytes,
        clock: Clock | None = None,
        announce: Announce | None = None,
        observe: Observe | None = None,
    ) -> None:
        self.database = database
        self.chain = AuditChain(audit_key)
        self.clock = clock or SystemClock()
        self._announce = announce
        self._observe = observe

    @asynccontextmanager
    async def open(self, actor: Actor, tenant_id: str | None, operation: str) -> AsyncIterator[Transaction]:
        """Open one that is committed at the end, undone when anything is raised. ``operation`` is what it is for."""
        principal = actor.principal
        began, error = self.clock.monotonic(), UNFINISHED
        try:
            tenant = tenant_of(actor, tenant_id)
            author = Author(key=str(principal.key_id), user=principal.user_id, request_id=actor.request_id)
            async with self.of(tenant, author) as transaction:
                # Whoever asks knows its own tenant; only an admin of the platform may be wrong about one.
                if tenant != str(principal.tenant_id) and not await transaction.answers.has_tenant(tenant):
                    raise no_such("tenant", tenant, param="tenant_id")
                yield transaction
            error = None
        except Undo:
            error = None
            raise
        except HXError as refused:
            error = refused.code
            raise
        finally:
            if self._observe is not None:
                seconds = self.clock.monotonic() - began
                self._observe(
                    OperationFinished(
                        operation=operation,
                        seconds=seconds,
                        ended_ns=time.time_ns(),
                        error_code=error,
                        tenant_id=str(principal.tenant_id),
                        request_id=actor.request_id,
                        traceparent=actor.traceparent,
                    )
                )

    @asynccontextmanager
    async def of(self, tenant_id: str, author: Author, *, now: datetime | None = None) -> AsyncIterator[Transaction]:
        """Open one for a part of the gateway itself, which no right confines; ``now`` is when it happens."""
        now = now or self.clock.now()
        async with self.database.session(tenant_id) as session:
            trail = AuditTrail(session, self.chain, tenant_id=tenant_id, author=author, now=now)
            items, answers = RegistryItemRepository(session, trail), Repository(session)
            history = HistoryRepository(session, tenant_id)
            yield Transaction(
                tenant_id=tenant_id,
                items=items,
                answers=answers,
                history=history,
                trail=trail,
                session=session,
                now=now,
            )
            changes = await trail.changes() if self._announce is not None else []
        if self._announce is not None and changes:
            await self._announce(tenant_id, changes)


def tenant_of(actor: Actor, tenant_id: str | None) -> str:
    """Return the tenant that is meant. Raises ``NotFound`` for one that the actor must not know of."""
    own = str(actor.principal.tenant_id)
    tenant = tenant_id or own
    if tenant != own and actor.principal.role is not Role.PLATFORM_ADMIN:
        raise no_such("tenant", tenant, param="tenant_id")
    return tenant
