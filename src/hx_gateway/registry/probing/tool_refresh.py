"""Keeps the catalogue of tools: asks the services that a probe found well and whose turn it is, and any at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import structlog

from hx_gateway.access.errors import Conflict
from hx_gateway.errors import NotFound, Unavailable
from hx_gateway.kit.clock import Clock
from hx_gateway.kit.ids import new_request_id
from hx_gateway.registry.audit_trail import Author
from hx_gateway.registry.probing.findings import Claim
from hx_gateway.registry.probing.outcome import ProbeOutcome, Unanswered
from hx_gateway.registry.probing.repository import PROBER
from hx_gateway.registry.probing.rules import Rules
from hx_gateway.registry.probing.slots import Slots
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.probing.tool_lists import ToolLists, tells_tools
from hx_gateway.registry.tool_repository import ToolChanges, ToolRepository
from hx_gateway.registry.transactions import Transactions

OK = "ok"
_log = structlog.get_logger()


class ToolRefresh:
    """Asks through ``lists`` when there is a slot, and never while it holds a connection to the database.

    ``count`` is called with ``ok``, or why a service did not tell its tools. What it told before stays then.
    """

    def __init__(
        self,
        transactions: Transactions,
        lists: ToolLists,
        slots: Slots,
        *,
        clock: Clock,
        count: Callable[[str], None],
    ) -> None:
        self._transactions = transactions
        self._lists = lists
        self._slots = slots
        self._clock = clock
        self._count = count

    async def after_probe(self, claim: Claim, outcome: ProbeOutcome) -> None:
        """Ask a service that was just found well, if it is due. Raises nothing that has to do with the service.

        Of several that find it due, one asks. While the database is away nobody does: it is due again after a probe.
        """
        rules, now = claim.rules, self._clock.now()
        if not rules.tools_seconds or not tells_tools(claim.target, outcome):
            return
        since = now - timedelta(seconds=rules.tools_seconds)
        if claim.tools_asked_at is not None and claim.tools_asked_at > since:
            return
        author = Author(key=PROBER, request_id=new_request_id())
        if not self._slots.has_room(claim.target.host, claim.tenant_id):
            return
        try:
            with self._place(claim.target.host, claim.tenant_id):
                async with self._transactions.of(claim.tenant_id, author, now=now) as transaction:
                    tools = ToolRepository(transaction.session, transaction.trail)
                    if not await tools.begin(claim.item_id, unless_since=since):
                        return
                changes = await self._ask(claim.tenant_id, claim.item_id, claim.target, rules, author)
        except (Unanswered, NotFound, Conflict, Unavailable) as error:
            _log.debug("tools_not_listed", tenant=claim.tenant_id, service_id=str(claim.item_id), reason=str(error))
            return
        if changes.added or changes.removed or changes.changed:
            numbers = {name: len(getattr(changes, name)) for name in ("added", "removed", "changed")}
            _log.info("service_tools_changed", tenant=claim.tenant_id, service_id=str(claim.item_id), **numbers)

    async def at_once(self, tenant_id: str, item_id: UUID, target: Target, rules: Rules, author: Author) -> ToolChanges:
        """Ask a service now, due or not.

        Raises :class:`Unanswered`, what ``ToolRepository.keep`` does, and ``Unavailable`` where too many are asked.
        """
        if not self._slots.has_room(target.host, tenant_id):
            raise Unavailable("Too many services are asked for their tools just now.", code="tools_busy")
        with self._place(target.host, tenant_id):
            async with self._transactions.of(tenant_id, author, now=self._clock.now()) as transaction:
                await ToolRepository(transaction.session, transaction.trail).begin(item_id)
            return await self._ask(tenant_id, item_id, target, rules, author)

    @contextmanager
    def _place(self, host: str, tenant_id: str) -> Iterator[None]:
        """Have a place from the moment on that nobody was too many: before anything is waited for."""
        self._slots.take(host, tenant_id)
        try:
            yield
        finally:
            self._slots.give_back(host, tenant_id)

    async def _ask(self, tenant_id: str, item_id: UUID, target: Target, rules: Rules, author: Author) -> ToolChanges:
        try:
            async with self._slots.turn(target.host):
                told = await self._lists.list_tools(target, rules)
        except Unanswered as failure:
            self._count(failure.outcome.failure_class or failure.outcome.verdict)
            async with self._transactions.of(tenant_id, author, now=self._clock.now()) as transaction:
                await ToolRepository(transaction.session, transaction.trail).note_failure(item_id, failure.outcome)
            raise
        self._count(OK)
        async with self._transactions.of(tenant_id, author, now=self._clock.now()) as transaction:
            return await ToolRepository(transaction.session, transaction.trail).keep(item_id, told, target)
