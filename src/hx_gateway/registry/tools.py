"""The tools of services: what their servers told last, of one service or of all, and a look at them now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from hx_gateway.access.resources import MAX_PAGE, Actor
from hx_gateway.db.models.health_config import health_config
from hx_gateway.db.models.registry_tools import RegistryTool
from hx_gateway.registry.bulk import ids_of
from hx_gateway.registry.errors import NoToolsToAskFor, NotProbing, ToolsNotListed
from hx_gateway.registry.probing import Prober, Verdict
from hx_gateway.registry.probing.outcome import Unanswered
from hx_gateway.registry.probing.rules import rules_for
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.references import found
from hx_gateway.registry.tool_definitions import MAX_TOOLS, TOOL_FIELDS
from hx_gateway.registry.tool_repository import FoundTool, ToolRepository, ToolSearch
from hx_gateway.registry.transactions import Transaction, Transactions

# Columns of its row; without one it was never asked.
_HOW_IT_WENT = ("asked_at", "fetched_at", "failure_class", "last_error")


class Tools:
    """Named and confined as in :class:`~hx_gateway.registry.catalog.Catalog`; raises what that raises."""

    def __init__(self, transactions: Transactions, prober: Prober | None = None) -> None:
        self._transactions = transactions
        self._prober = prober

    async def of_service(
        self, actor: Actor, ref: str, *, limit: int, cursor: str | None = None, tenant_id: str | None = None
    ) -> dict[str, Any]:
        """Return a page of a service's tools by name, and how it went to ask for them."""
        async with self._transactions.open(actor, tenant_id, "tools.of_service") as transaction:
            item = await found(transaction.items, ref)
            tools = _repository(transaction)
            rows, next_cursor = await tools.tools(ToolSearch(services=frozenset({item.id})), limit=limit, cursor=cursor)
            listing = await tools.listing(item.id)
            total = await tools.count_tools(item.id)
        return {
            "service_id": str(item.id),
            "service": item.name,
            "total": total,
            **{name: getattr(listing, name, None) for name in _HOW_IT_WENT},
            "warnings": [] if listing is None else listing.warnings,
            "items": [shown_tool(row.tool) for row in rows],
            "next_cursor": next_cursor,
            "has_more": next_cursor is not None,
        }

    async def all_of(self, actor: Actor, item_id: str, *, tenant_id: str | None = None) -> list[dict[str, Any]]:
        """Return all tools of a service that there is, by name; none of one that was deleted."""
        async with self._transactions.open(actor, tenant_id, "tools.all_of") as transaction:
            search = ToolSearch(services=frozenset({UUID(item_id)}))
            rows, _ = await _repository(transaction).tools(search, limit=MAX_TOOLS)
        return [shown_tool(row.tool) for row in rows]

    async def find(
        self,
        actor: Actor,
        *,
        text: str | None = None,
        services: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        limit: int,
        cursor: str | None = None,
        tenant_id: str | None = None,
    ) -> dict[str, Any]:
        """Return a page of the tools of living services, each with its service.

        Raises ``NotFound`` for a service that there is not, and :class:`Deleted` for one that was deleted.
        """
        async with self._transactions.open(actor, tenant_id, "tools.find") as transaction:
            search = ToolSearch(
                text=text,
                services=None if services is None else await _ids_of(transaction, services),
                tags=None if tags is None else frozenset(tags),
            )
            rows, next_cursor = await _repository(transaction).tools(search, limit=limit, cursor=cursor)
        items = [_with_service(row) for row in rows]
        return {"items": items, "next_cursor": next_cursor, "has_more": next_cursor is not None}

    async def refresh(self, actor: Actor, ref: str, *, tenant_id: str | None = None) -> dict[str, Any]:
        """Ask a service for its tools now; return what is new.

        Raises :class:`ToolsNotListed` where it does not tell them, :class:`NoToolsToAskFor` where there is no way to
        ask it, and ``NotProbing`` in a gateway that does not probe.
        """
        if self._prober is None:
            raise NotProbing
        async with self._transactions.open(actor, tenant_id, "tools.refresh") as transaction:
            item = await found(transaction.items, ref)
            author = transaction.trail.author
        rules = rules_for(item.priority, item.protocol, health_config(item.config))
        try:
            changes = await self._prober.tools.at_once(transaction.tenant_id, item.id, Target.of(item), rules, author)
        except Unanswered as failure:
            outcome = failure.outcome
            if outcome.verdict is Verdict.UNASKED:
                raise NoToolsToAskFor(outcome.reason or "") from failure
            raise ToolsNotListed(item.name, outcome.failure_class or "", outcome.reason or "") from failure
        return {"service_id": str(item.id), "service": item.name, **asdict(changes)}


def shown_tool(tool: RegistryTool) -> dict[str, Any]:
    """Return a tool as it is shown."""
    return {name: getattr(tool, name) for name in (*TOOL_FIELDS, "first_seen", "updated_at")}


def _with_service(row: FoundTool) -> dict[str, Any]:
    return {"service_id": str(row.tool.item_id), "service": row.service, **shown_tool(row.tool)}


def _repository(transaction: Transaction) -> ToolRepository:
    return ToolRepository(transaction.session, transaction.trail)


async def _ids_of(transaction: Transaction, refs: Sequence[str]) -> frozenset[UUID]:
    items = transaction.items
    ids = await ids_of(items, refs)
    living = {item.id for item in (await items.get_multi({"id": [*ids.values()]}, limit=MAX_PAGE)).items}
    for ref in refs:
        if ids.get(ref) not in living:
            ids[ref] = (await found(items, ref, param="service")).id
    return frozenset(ids.values())
