"""Many services at once: what becomes of each is told, and a try undoes what it did."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from uuid import UUID

from hx_gateway.access.errors import InvalidField, no_such
from hx_gateway.access.resources import MAX_PAGE, Actor
from hx_gateway.db.models.registry_items import RegistryItem
from hx_gateway.db.models.validation import identifier
from hx_gateway.errors import HXError, NotFound
from hx_gateway.registry.item_repository import RegistryItemRepository, ServiceSearch
from hx_gateway.registry.references import SERVICE, found, last_deleted, named, resolved, with_ids
from hx_gateway.registry.repository import MAX_BULK, BulkRefused, BulkResult
from hx_gateway.registry.rights import check_may_purge
from hx_gateway.registry.transactions import Transactions, Undo

OnBulkConflict = Literal["error", "skip", "update", "restore"]
Fate = Literal["created", "updated", "skipped", "deleted", "restored", "purged", "failed"]
Values = Mapping[str, Any]
Change = Callable[[RegistryItemRepository, Sequence[UUID]], Awaitable[BulkResult[RegistryItem]]]
NOT_KEPT = "not_kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which services: by id or name, or all that pass ``search``. One of the two is given."""

    refs: Sequence[str] = ()
    search: ServiceSearch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions:
    """How many are done.

    ``atomic``: all of them or none. ``dry_run``: everything is done, so that every rule of the database speaks, and
    undone. ``max_affected``: more than so many are refused, and nothing is done.
    """

    tenant_id: str | None = None
    atomic: bool = False
    dry_run: bool = False
    max_affected: int = MAX_BULK


@dataclass(slots=True, kw_only=True)
class BulkOutcome:
    """What became of each, in order: ``index``, ``status`` and ``item``, or ``error`` with ``code`` and ``param``.

    ``dry_run``: nothing of it was kept.
    """

    dry_run: bool
    created: int = 0
    updated: int = 0
    skipped: int = 0
    deleted: int = 0
    restored: int = 0
    purged: int = 0
    failed: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)

    def add(self, index: int, fate: Fate, told: Mapping[str, Any]) -> None:
        """Take note of one."""
        setattr(self, fate, getattr(self, fate) + 1)
        self.results.append({"index": index, "status": fate, **told})

    def join(self, other: BulkOutcome, start: int) -> None:
        """Take note of all of another outcome, whose first one is number ``start`` here."""
        for result in other.results:
            told = {name: value for name, value in result.items() if name not in ("index", "status")}
            self.add(start + result["index"], result["status"], told)


class Bulk:
    """Named and confined as in :class:`~hx_gateway.registry.catalog.Catalog`; raises what that raises of all at once.

    Each that cannot be done is told of and left as it is, the others are done, unless they are to be done together.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def create(
        self,
        actor: Actor,
        several: Sequence[Values],
        options: BulkOptions | None = None,
        *,
        on_conflict: OnBulkConflict = "error",
    ) -> BulkOutcome:
        """Make services. One whose name is taken is an error, left alone, or sets the fields of the one that has it.

        ``restore`` does as ``update`` does, and brings the last deleted one of a name back where no living one has it.
        """
        options = options or BulkOptions()
        outcome = BulkOutcome(dry_run=options.dry_run)
        async with self._open(actor, options, outcome, "create") as items:
            known = {} if on_conflict == "error" else await _known(items, several, on_conflict)
            waiting = dict(enumerate(several))
            if on_conflict == "skip":
                for index, item in known.items():
                    outcome.add(index, "skipped", {"item": item.to_dict()})
                waiting = {index: values for index, values in waiting.items() if index not in known}
            await _make(outcome, items, waiting, known, atomic=options.atomic)
        outcome.results.sort(key=lambda result: result["index"])
        return outcome

    async def update(
        self, actor: Actor, selection: Selection, changes: Values, options: BulkOptions | None = None
    ) -> BulkOutcome:
        """Set the same fields of all."""

        async def change(items: RegistryItemRepository, ids: Sequence[UUID]) -> BulkResult[RegistryItem]:
            fields = await with_ids(items, changes)
            return await items.bulk_update([(item_id, fields) for item_id in ids])

        return await self._all(actor, selection, options, "updated", change)

    async def delete(self, actor: Actor, selection: Selection, options: BulkOptions | None = None) -> BulkOutcome:
        """Delete all, so that they may be restored. What others depend on stays their dependency."""
        return await self._all(actor, selection, options, "deleted", RegistryItemRepository.bulk_delete)

    async def purge(self, actor: Actor, selection: Selection, options: BulkOptions | None = None) -> BulkOutcome:
        """Remove deleted services for good. What others depend on is what they wait for, by its name.

        Raises ``Forbidden`` for who is no admin.
        """
        check_may_purge(actor.principal)
        return await self._all(actor, selection, options, "purged", RegistryItemRepository.bulk_purge)

    async def restore(self, actor: Actor, selection: Selection, options: BulkOptions | None = None) -> BulkOutcome:
        """Take the deletion of all back."""
        return await self._all(actor, selection, options, "restored", RegistryItemRepository.bulk_restore)

    async def _all(
        self, actor: Actor, selection: Selection, options: BulkOptions | None, fate: Fate, change: Change
    ) -> BulkOutcome:
        options = options or BulkOptions()
        outcome = BulkOutcome(dry_run=options.dry_run)
        deleted = fate in ("restored", "purged")
        async with self._open(actor, options, outcome, fate) as items:
            refs = await refs_of(items, selection, options.max_affected)
            ids = await ids_of(items, refs, deleted=deleted)
            wanted = list(dict.fromkeys(ids.values()))
            result = await change(items, wanted)
            done = {item.id: item for item in result.items}
            failed = {wanted[failure.index]: failure.error for failure in result.failures}
            for index, ref in enumerate(refs):
                item = done.get(ids[ref]) if ref in ids else None
                if item is not None:
                    outcome.add(index, fate, {"ref": ref, "item": item.to_dict()})
                    continue
                error = failed.get(ids[ref]) if ref in ids else None
                if error is None or isinstance(error, NotFound):
                    error = await _why_not(items, ref, deleted=deleted) or error
                assert error is not None
                outcome.add(index, "failed", {"ref": ref, **_told(error)})
        return outcome

    @asynccontextmanager
    async def _open(
        self, actor: Actor, options: BulkOptions, outcome: BulkOutcome, what: str
    ) -> AsyncIterator[RegistryItemRepository]:
        """Open a transaction, and undo it where that was asked for or where one failed of those that go together."""
        try:
            async with self._transactions.open(actor, options.tenant_id, f"bulk.{what}") as transaction:
                await transaction.items.lock()
                yield transaction.items
                if options.dry_run or (options.atomic and outcome.failed):
                    raise Undo
        except Undo:
            if options.atomic and outcome.failed:
                _undone(outcome)


async def ids_of(items: RegistryItemRepository, refs: Sequence[str], *, deleted: bool = False) -> dict[str, UUID]:
    """Return the ids that are meant, by what names them; what nothing has that name is left out."""
    ids = {ref: item_id for ref in refs if isinstance(item_id := identifier(ref), UUID)}
    names = [ref for ref in refs if ref not in ids]
    ids |= await items.ids_of(names)
    if deleted:
        for name in (name for name in names if name not in ids):
            item = await last_deleted(items, name)
            if item is not None:
                ids[name] = item.id
    return ids


async def _why_not(items: RegistryItemRepository, ref: str, *, deleted: bool) -> HXError | None:
    """Return why no service is found by ``ref``."""
    try:
        await found(items, ref, include_deleted=deleted)
    except HXError as error:
        return error
    return None


async def _known(
    items: RegistryItemRepository, several: Sequence[Values], on_conflict: OnBulkConflict
) -> dict[int, RegistryItem]:
    """Return the services that are meant by the names of new ones, by their place among those."""
    names = {index: name for index, values in enumerate(several) if isinstance(name := values.get("name"), str)}
    ids = await items.ids_of(set(names.values()))
    known: dict[int, RegistryItem] = {}
    for index, name in names.items():
        item = await items.get(ids[name]) if name in ids else None
        if item is None and on_conflict == "restore":
            item = await last_deleted(items, name)
        if item is not None:
            known[index] = item
    return known


async def _settle(
    outcome: BulkOutcome, index: int, items: RegistryItemRepository, item: RegistryItem, values: Values
) -> None:
    fate: Fate = "restored" if item.is_deleted else "updated"
    try:
        changed = await _set(items, item, values)
    except HXError as error:
        outcome.add(index, "failed", _told(error))
    else:
        outcome.add(index, fate, {"item": changed.to_dict()})


async def _set(items: RegistryItemRepository, item: RegistryItem, values: Values) -> RegistryItem:
    if not item.is_deleted:
        return await items.update(item.id, values)
    # Before they become arguments: a field that there is not might have the name of one.
    item.check_names(values)
    return await items.restore(item.id, **values)


async def _make(
    outcome: BulkOutcome,
    items: RegistryItemRepository,
    several: Mapping[int, Values],
    known: Mapping[int, RegistryItem],
    *,
    atomic: bool,
) -> None:
    """Make services, or set the fields of those that are ``known``: first what others among them depend on by name."""
    waiting, names = dict(several), {index: frozenset(named(values)) for index, values in several.items()}
    unknown, ids = frozenset().union(*names.values()), dict[str, UUID]()
    while waiting:
        # Asked once a round for all: each by itself would be a query for each that waits.
        ids |= await items.ids_of(unknown - ids.keys())
        ready = {index: resolved(values, ids) for index, values in waiting.items() if names[index] <= ids.keys()}
        if not ready:
            break
        waiting = {index: values for index, values in waiting.items() if index not in ready}
        new = {index: values for index, values in ready.items() if index not in known}
        try:
            made = await items.bulk_create(list(new.values()), atomic=atomic)
        except BulkRefused as all_refused:
            made = BulkResult([], list(all_refused.failures))
        _tell_made(outcome, list(new), made)
        for index in sorted(ready.keys() & known.keys()):
            await _settle(outcome, index, items, known[index], ready[index])
    for index in waiting:
        missing = next(name for name in named(waiting[index]) if name not in ids)
        outcome.add(index, "failed", _told(no_such(SERVICE, missing, param="dependencies")))


def _tell_made(outcome: BulkOutcome, indexes: Sequence[int], result: BulkResult[RegistryItem]) -> None:
    failures = {failure.index: failure.error for failure in result.failures}
    made = iter(result.items)
    for place, index in enumerate(indexes):
        error = failures.get(place)
        if error is not None:
            outcome.add(index, "failed", _told(error))
        elif result.items:
            outcome.add(index, "created", {"item": next(made).to_dict()})
        else:
            outcome.add(index, "failed", _NOT_KEPT)


def _undone(outcome: BulkOutcome) -> None:
    """Tell of all that were done as they are now: not kept."""
    results, outcome.results = outcome.results, []
    for fate in get_args(Fate):
        setattr(outcome, fate, 0)
    for result in results:
        told: dict[str, Any] = {name: result[name] for name in ("ref", "error", "code", "param") if name in result}
        outcome.add(result["index"], "failed", told if "error" in result else {**told, **_NOT_KEPT})


_NOT_KEPT: Mapping[str, Any] = {"error": "Not kept: another one cannot be.", "code": NOT_KEPT, "param": None}


def _told(error: HXError) -> dict[str, Any]:
    return {"error": error.message, "code": error.code, "param": error.param}


async def refs_of(items: RegistryItemRepository, selection: Selection, most: int) -> list[str]:
    """Return what is selected, each once. Raises ``InvalidField`` where that is more than ``most``."""
    refs = list(dict.fromkeys(selection.refs))
    cursor: str | None = None
    while selection.search is not None:
        page = await items.find(selection.search, limit=MAX_PAGE, cursor=cursor)
        refs += [str(item.id) for item in page.items]
        cursor = page.next_cursor
        if cursor is None or len(refs) > most:
            break
    if len(refs) > most:
        raise InvalidField(
            f"max_affected: more than {most} services would be concerned. Nothing was done: select fewer, or allow "
            f"more (at most {MAX_BULK}).",
            param="max_affected",
        )
    return refs
