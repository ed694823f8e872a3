"""The tools of services in the database: what servers told last, what of that changed, and how it went to ask them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, and_, delete, func, intersect, literal, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert

from hx_gateway.access.cursors import Position, decode_cursor, encode_cursor, mark_of
from hx_gateway.access.errors import Conflict, InvalidField
from hx_gateway.db.models.registry_index import ItemTag
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.models.registry_tools import RegistryTool, ToolListing, ToolWord
from hx_gateway.registry.audit_trail import Recorded
from hx_gateway.registry.item_repository import RegistryItemRepository
from hx_gateway.registry.item_search import LAST, prepare
from hx_gateway.registry.probing.outcome import ProbeOutcome
from hx_gateway.registry.probing.target import Target
from hx_gateway.registry.searches import words_of
from hx_gateway.registry.tool_definitions import TOOL_FIELDS, Tool, ToolList

# Of tools that differ in an entry of the audit log, which goes to everybody who follows the registry.
MAX_TOLD = 200
# As the database takes words apart, for tools and for what is looked for alike.
_LEXEMES = text("""
SELECT DISTINCT parsed.lexeme
FROM unnest(CAST(:words AS text[])) AS word, unnest(to_tsvector('pg_catalog.simple', word)) AS parsed
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSearch:
    """Which tools are looked for: those that pass all that is given.

    ``text`` has words that each begin one of a tool's name, title or description. ``services`` and ``tags`` are those
    of the service, which has any of them; ``None`` for whichever.
    """

    text: str | None = None
    services: frozenset[UUID] | None = None
    tags: frozenset[str] | None = None


class FoundTool(NamedTuple):
    """A tool, and the name of its service."""

    tool: RegistryTool
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChanges:
    """The names of tools that came, went, and are defined otherwise than before; ``tools`` is how many there are."""

    tools: int
    added: Sequence[str]
    removed: Sequence[str]
    changed: Sequence[str]
    warnings: Sequence[str]
    fetched_at: datetime


class ToolRepository(RegistryItemRepository):
    """A tenant's tools in one transaction, as :class:`RegistryItemRepository` has its services."""

    # Reading

    async def listing(self, item_id: UUID) -> ToolListing | None:
        """Return how it went to ask a service, ``None`` where it never was."""
        of = ToolListing
        query = select(of).where(of.tenant_id == self._trail.tenant_id, of.item_id == item_id)
        found: ToolListing | None = await self._session.scalar(query)
        return found

    async def count_tools(self, item_id: UUID) -> int:
        """Return how many tools a service has."""
        query = select(func.count()).select_from(RegistryTool).where(*self._of(item_id))
        return await self._session.scalar(query) or 0

    async def tools(
        self, search: ToolSearch, *, limit: int, cursor: str | None = None
    ) -> tuple[list[FoundTool], str | None]:
        """Return a page of the tools of living services, by name and then by service, and the next page's cursor."""
        mark = mark_of("tools", search.text, sorted(map(str, search.services or ())), sorted(search.tags or ()))
        position = decode_cursor(cursor, mark, str)
        tool, item = RegistryTool, RegistryItem
        of_item = and_(item.tenant_id == tool.tenant_id, item.id == tool.item_id)
        query = select(tool, item.name).join(item, of_item).where(item.deleted_at.is_(None), *self._passing(search))
        if search.text is not None:
            words = await self._with_words(search.text)
            if words is None:
                return [], None
            query = query.join(words, and_(words.c.item_id == tool.item_id, words.c.name == tool.name))
        if position is not None:
            query = query.where(tuple_(tool.name, tool.item_id) > _bound(position))
        rows = (await self._session.execute(query.order_by(tool.name, tool.item_id).limit(limit + 1))).all()
        found = [FoundTool(row[0], row[1]) for row in rows[:limit]]
        if len(rows) <= limit:
            return found, None
        last = found[-1].tool
        return found, encode_cursor(Position(last.name, str(last.item_id)), mark)

    # Changing

    async def begin(self, item_id: UUID, *, unless_since: datetime | None = None) -> bool:
        """Note that a service is about to be asked; return whether nobody else was ``unless_since`` then."""
        values = {"tenant_id": self._trail.tenant_id, "item_id": item_id, "asked_at": self._trail.now, "warnings": []}
        due = None if unless_since is None else ToolListing.asked_at <= unless_since
        noted = (
            insert(ToolListing)
            .values(values)
            .on_conflict_do_update(
                index_elements=["tenant_id", "item_id"], set_={"asked_at": self._trail.now}, where=due
            )
        )
        async with self._write():
            return await self._session.scalar(noted.returning(literal(1))) is not None

    async def note_failure(self, item_id: UUID, outcome: ProbeOutcome) -> None:
        """Note why a service did not tell its tools. Those that it told before stay."""
        await self._note_listing(item_id, failure_class=outcome.failure_class, last_error=outcome.reason)

    async def keep(self, item_id: UUID, told: ToolList, target: Target) -> ToolChanges:
        """Keep what a service told of its tools where it was asked; return what is new.

        What differs is an entry of the audit log, with the hashes of the definitions before and after. Raises
        ``NotFound`` for a service that was deleted, and ``Conflict`` for one that is elsewhere by now.
        """
        before = await self._hashes(item_id)
        if before != _hashes_of(told):
            async with self._write():
                await self._trail.lock()
                (item,) = await self._locked([item_id])
                if Target.of(item) != target:
                    raise Conflict(
                        "The service was changed while it was asked: ask again.", param="ref", code="changed_meanwhile"
                    )
                before = await self._hashes(item_id)
                await self._replace(item, before, told.tools)
        await self._note_listing(item_id, fetched_at=self._trail.now, warnings=[*told.warnings])
        after = _hashes_of(told)
        return ToolChanges(
            tools=len(after),
            added=sorted(after.keys() - before.keys()),
            removed=sorted(before.keys() - after.keys()),
            changed=sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
            warnings=told.warnings,
            fetched_at=self._trail.now,
        )

    # How

    async def _replace(self, item: RegistryItem, before: Mapping[str, str], tools: Mapping[str, Tool]) -> None:
        """Make ``tools`` those of a locked item, and write down what differs."""
        after = {name: tool.definition_hash for name, tool in tools.items()}
        gone = before.keys() - after.keys()
        if gone:
            await self._session.execute(delete(RegistryTool).where(*self._of(item.id), RegistryTool.name.in_(gone)))
        new = [tool for name, tool in tools.items() if before.get(name) != after[name]]
        if new:
            rows = [self._row(item.id, tool) for tool in new]
            added = insert(RegistryTool)
            kept = {name: added.excluded[name] for name in rows[0].keys() - {"first_seen"}}
            await self._session.execute(
                added.on_conflict_do_update(index_elements=["tenant_id", "item_id", "name"], set_=kept), rows
            )
        if not gone and not new:
            return
        item.row_version += 1
        item.touch(self._trail.author.name, now=self._trail.now)
        await self._session.flush()
        differ = sorted(gone | {tool.name for tool in new})
        # As lists: members of an object that are named like secrets are masked, and tools may be.
        told: list[list[dict[str, Any]]] = [
            [{"name": name, "hash": of[name]} for name in differ[:MAX_TOLD] if name in of] for of in (before, after)
        ]
        if len(differ) > MAX_TOLD:
            told[1].append({"more": len(differ) - MAX_TOLD})
        entry = Recorded("updated", str(item.id), {"tools": told[0]}, {"tools": told[1]})
        await self._trail.record(self.kind, [entry])

    def _row(self, item_id: UUID, tool: Tool) -> dict[str, Any]:
        return {
            "tenant_id": self._trail.tenant_id,
            "item_id": item_id,
            **{name: getattr(tool, name) for name in TOOL_FIELDS},
            "first_seen": self._trail.now,
            "updated_at": self._trail.now,
        }

    async def _note_listing(self, item_id: UUID, **noted: Any) -> None:
        values = {"failure_class": None, "last_error": None, **noted}
        row = {"tenant_id": self._trail.tenant_id, "item_id": item_id, "asked_at": self._trail.now}
        written = insert(ToolListing).values({**row, "warnings": [], **values})
        written = written.on_conflict_do_update(index_elements=["tenant_id", "item_id"], set_=values)
        async with self._write():
            await self._session.execute(written)

    async def _hashes(self, item_id: UUID) -> dict[str, str]:
        query = select(RegistryTool.name, RegistryTool.definition_hash).where(*self._of(item_id))
        return {row.name: row.definition_hash for row in await self._session.execute(query)}

    def _of(self, item_id: UUID) -> tuple[ColumnElement[bool], ...]:
        return RegistryTool.tenant_id == self._trail.tenant_id, RegistryTool.item_id == item_id

    def _passing(self, search: ToolSearch) -> Iterator[ColumnElement[bool]]:
        yield RegistryTool.tenant_id == self._trail.tenant_id
        if search.services is not None:
            yield RegistryTool.item_id.in_(search.services)
        if search.tags is not None:
            tagged = select(ItemTag.item_id).where(
                ItemTag.tenant_id == self._trail.tenant_id, ItemTag.tag.in_(search.tags)
            )
            yield RegistryTool.item_id.in_(tagged)

    async def _with_words(self, asked: str) -> CTE | None:
        """Return the tools that have, for each word that is asked for, one that begins with it; ``None`` for no words.

        What looks like a word here may be none to PostgreSQL.
        """
        lexemes = (await self._session.scalars(_LEXEMES, {"words": words_of(asked)})).all()
        if not lexemes:
            return None
        found = [
            select(ToolWord.item_id, ToolWord.name).where(
                ToolWord.tenant_id == self._trail.tenant_id, ToolWord.word >= lexeme, ToolWord.word < lexeme + LAST
            )
            for lexeme in lexemes
        ]
        await prepare(self._session)
        # Materialized, as for services: no limit has the planner walk through all tools in order.
        return intersect(*found).cte("found").prefix_with("MATERIALIZED")


def _hashes_of(told: ToolList) -> dict[str, str]:
    return {name: tool.definition_hash for name, tool in told.tools.items()}


def _bound(position: Position) -> ColumnElement[Any]:
    try:
        last = UUID(position.id)
    except ValueError:
        last = None
    if last is None or position.value is None:
        raise InvalidField("cursor: is not one that a page came with.", param="cursor")
    return tuple_(literal(position.value), literal(last))
