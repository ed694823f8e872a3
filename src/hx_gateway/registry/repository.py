"""Rows of one model and one tenant: read in pages, changed whole or not at all, each change in the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from sqlalchemy import Column, ColumnElement, DateTime, Select, func, inspect, literal, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.interfaces import ORMOption

from hx_gateway.access.cursors import Position, decode_cursor, mark_of
from hx_gateway.access.errors import InvalidField, no_such
from hx_gateway.access.resources import MAX_PAGE
from hx_gateway.db.models.base import Base
from hx_gateway.db.models.base_model import TenantModel, snake_case
from hx_gateway.db.models.validation import (
    InvalidModel,
    coerced,
    column_problems,
    python_type,
    stored_columns,
    unstorable,
)
from hx_gateway.errors import HXError
from hx_gateway.kit.epochs import from_unix_us
from hx_gateway.registry.audit_trail import Action, AuditTrail, Recorded
from hx_gateway.registry.errors import Rule, VersionConflict
from hx_gateway.registry.orders import Order, SortKey, last_id, sort_fields

MAX_BULK = 500
MAX_SEARCH_CHARS = 200

ModelT = TypeVar("ModelT", bound=TenantModel)
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page(Generic[ModelT]):
    """Objects in order. ``next_cursor`` is ``None`` on the last page."""

    items: list[ModelT]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class BulkFailure:
    """What was not kept of many, by its place among them from 0 on, and why."""

    index: int
    error: HXError


@dataclass(frozen=True, slots=True)
class BulkResult(Generic[ModelT]):
    """What was kept, in the order given, and what was not."""

    items: list[ModelT]
    failures: list[BulkFailure]


class BulkRefused(InvalidField):
    """Nothing of many was kept, because of those in ``failures``; the message is about the first one."""

    def __init__(self, failures: Sequence[BulkFailure]) -> None:
        first = failures[0]
        message = f"Nothing was kept: {len(failures)} cannot be; the one at {first.index}: {first.error.message}"
        super().__init__(message, param=f"{first.index}.{first.error.param}")
        self.failures = tuple(failures)
        self.details = [
            {"index": index, "code": error.code, "param": error.param, "message": error.message}
            for index, error in ((failure.index, failure.error) for failure in failures)
        ]


class BaseRepository(Generic[ModelT]):
    """The objects of one model in one transaction, of the tenant that ``trail`` writes for.

    The session is the caller's: it sees that tenant's rows, and commits. A method that fails undoes what it did and
    leaves the session usable. Changes wait for others of the same tenant, until those are committed or undone.

    Raises ``InvalidField`` and ``InvalidModel`` (422) for values and names of fields, ``NotFound``, ``Conflict``,
    :class:`VersionConflict`; what the database's state does to a session passes.
    """

    model: type[ModelT]
    rules: ClassVar[Mapping[str, Rule]] = {}
    sortable: ClassVar[frozenset[str]] = frozenset({"created_at", "updated_at"})
    searched: ClassVar[tuple[str, ...]] = ()

    def __init__(self, session: AsyncSession, trail: AuditTrail) -> None:
        self._session = session
        self._trail = trail

    @property
    def kind(self) -> str:
        """What the objects are called in messages and in the audit log."""
        return snake_case(self.model.__name__)

    # Reading

    async def get(self, item_id: UUID, *, include_deleted: bool = False) -> ModelT | None:
        """Return an object."""
        query = self._query(include_deleted=include_deleted).where(self.model.id == item_id)
        found: ModelT | None = await self._session.scalar(query)
        return found

    async def get_by_field(self, field: str, value: object, *, include_deleted: bool = False) -> ModelT | None:
        """Return the oldest object whose ``field`` has that value."""
        query = self._query(include_deleted=include_deleted).where(self._condition(field, value))
        found: ModelT | None = await self._session.scalar(query.order_by(self.model.created_at, self.model.id).limit(1))
        return found

    async def get_multi(
        self,
        filters: Values | None = None,
        *,
        sort: str = "created_at",
        limit: int = 50,
        cursor: str | None = None,
        include_deleted: bool = False,
    ) -> Page[ModelT]:
        """Return a page of those that pass all ``filters``.

        A filter is a field and its value, a list or a set of values of which it has one, or ``None`` for no value.
        ``sort`` is one of :attr:`sortable`, with ``-`` before it from the greatest down, or several with commas between
        them; ``limit`` 1 to ``MAX_PAGE``.
        ``cursor`` is a page's ``next_cursor``, and good for the same filters and order only.
        """
        return await self._list(None, filters, sort=sort, limit=limit, cursor=cursor, include_deleted=include_deleted)

    async def search(
        self,
        text: str,
        *,
        filters: Values | None = None,
        sort: str = "created_at",
        limit: int = 50,
        cursor: str | None = None,
        include_deleted: bool = False,
    ) -> Page[ModelT]:
        """Return a page, as :meth:`get_multi`, of those that ``text`` is found in."""
        return await self._list(text, filters, sort=sort, limit=limit, cursor=cursor, include_deleted=include_deleted)

    async def count(self, filters: Values | None = None, *, include_deleted: bool = False) -> int:
        """Return how many pass all ``filters``, which are those of :meth:`get_multi`."""
        query = self._rows(func.count(), include_deleted=include_deleted).where(*self._conditions(filters))
        return await self._session.scalar(query) or 0

    async def exists(self, filters: Values | None = None, *, include_deleted: bool = False) -> bool:
        """Return whether any passes all ``filters``."""
        query = self._rows(literal(1), include_deleted=include_deleted).where(*self._conditions(filters))
        return await self._session.scalar(query.limit(1)) is not None

    # Changing

    async def lock(self) -> None:
        """Let nobody else change the tenant's objects until the transaction ends: for who decides by what is there."""
        await self._trail.lock()

    async def create(self, values: Values) -> ModelT:
        """Make an object of the fields in ``values``."""
        self._made(values)
        async with self._write():
            await self._trail.lock()
            return (await self._create([values]))[0]

    async def update(self, item_id: UUID, changes: Values, *, expected_version: int | None = None) -> ModelT:
        """Set fields. Without a difference nothing happens.

        Raises :class:`VersionConflict` where the row's version is not the one expected.
        """
        self.model.check_names(changes)
        async with self._write():
            await self._trail.lock()
            return (await self._update([(item_id, changes)], expected_version))[0]

    async def delete(self, item_id: UUID, *, expected_version: int | None = None) -> ModelT:
        """Delete an object so that it may be restored."""
        async with self._write():
            await self._trail.lock()
            return (await self._delete([item_id], expected_version))[0]

    async def restore(self, item_id: UUID, **changes: Any) -> ModelT:
        """Take a deletion back and set fields; a living one keeps being one.

        Raises ``Conflict`` where its name was taken since.
        """
        self.model.check_names(changes)
        async with self._write():
            await self._trail.lock()
            return (await self._restore([item_id], changes))[0]

    async def bulk_create(self, items: Sequence[Values], *, atomic: bool = False) -> BulkResult[ModelT]:
        """Make at most ``MAX_BULK`` objects, and tell of those that cannot be.

        With ``atomic`` none is kept where one cannot be: raises :class:`BulkRefused`.
        """

        async def attempt(indexes: Sequence[int]) -> list[ModelT]:
            return await self._create([items[index] for index in indexes])

        failures = {index: error for index, values in enumerate(items) if (error := _refusal(self._made, values))}
        return await self._in_bulk(len(items), attempt, failures, atomic=atomic)

    async def bulk_update(self, changes: Sequence[tuple[UUID, Values]], *, atomic: bool = False) -> BulkResult[ModelT]:
        """Set fields of at most ``MAX_BULK`` objects, each there once; otherwise as :meth:`bulk_create`."""

        async def attempt(indexes: Sequence[int]) -> list[ModelT]:
            return await self._update([changes[index] for index in indexes])

        failures: dict[int, HXError] = {}
        seen = set[UUID]()
        for index, (item_id, values) in enumerate(changes):
            twice = InvalidField("id: is there twice.", param="id") if item_id in seen else None
            refusal = twice or _refusal(self.model.check_names, values)
            if refusal is not None:
                failures[index] = refusal
            seen.add(item_id)
        return await self._in_bulk(len(changes), attempt, failures, atomic=atomic)

    async def bulk_delete(self, item_ids: Sequence[UUID], *, atomic: bool = False) -> BulkResult[ModelT]:
        """Delete at most ``MAX_BULK`` objects, each there once; otherwise as :meth:`bulk_create`."""

        async def attempt(indexes: Sequence[int]) -> list[ModelT]:
            return await self._delete([item_ids[index] for index in indexes])

        return await self._in_bulk(len(item_ids), attempt, {}, atomic=atomic)

    async def bulk_restore(self, item_ids: Sequence[UUID], *, atomic: bool = False) -> BulkResult[ModelT]:
        """Take the deletion of at most ``MAX_BULK`` objects back; otherwise as :meth:`bulk_delete`."""

        async def attempt(indexes: Sequence[int]) -> list[ModelT]:
            return await self._restore([item_ids[index] for index in indexes], {})

        return await self._in_bulk(len(item_ids), attempt, {}, atomic=atomic)

    # What a model may do differently

    def _rows(self, *columns: Any, include_deleted: bool = False) -> Select[Any]:
        """Return a query of the tenant's rows."""
        query = select(*columns).select_from(self.model).where(self.model.tenant_id == self._trail.tenant_id)
        return query if include_deleted else query.where(self.model.deleted_at.is_(None))

    def _options(self) -> Sequence[ORMOption]:
        """Return how an object is loaded from such a query."""
        return ()

    def _locks(self) -> Sequence[type[Base]]:
        """Return whose rows of such a query are kept from changing."""
        return (self.model,)

    def _columns(self) -> Mapping[str, Column[Any]]:
        """Return the columns that lists may be filtered by, by their fields' names."""
        return {
            name: column
            for name, column in stored_columns(inspect(self.model)).items()
            if python_type(column) not in (list, dict)
        }

    def _condition(self, field: str, value: object) -> ColumnElement[bool]:
        column = self._columns().get(field)
        if column is None:
            raise InvalidField(f"{field}: is not a field that lists are filtered by.", param=field)
        if value is None:
            return column.is_(None)
        several = value if isinstance(value, list | tuple | set | frozenset) else [value]
        if len(several) > MAX_BULK:
            raise InvalidField(f"{field}: has at most {MAX_BULK} values, not {len(several)}.", param=field)
        bound = [coerced(column, one) for one in several]
        for one in bound:
            problems = tuple(column_problems({field: one}, {field: column}))
            if problems:
                raise InvalidModel(*problems)
        return self._equals(field, column, bound)

    def _equals(self, field: str, column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
        return column.in_(values) if len(values) != 1 else column == values[0]

    def _matches(self, text: str) -> ColumnElement[bool]:
        columns = self._columns()
        return or_(*(columns[name].icontains(text, autoescape=True) for name in self.searched))

    async def _flush(self, items: Sequence[ModelT]) -> None:
        await self._session.flush()

    # How

    def _matching(self, text: str) -> ColumnElement[bool]:
        if not 0 < len(text) <= MAX_SEARCH_CHARS or unstorable(text) is not None:
            raise InvalidField(f"text: must have 1 to {MAX_SEARCH_CHARS} characters, none of them NUL.", param="text")
        return self._matches(text)

    def _query(self, *, include_deleted: bool) -> Select[Any]:
        query = self._rows(self.model, include_deleted=include_deleted).options(*self._options())
        return query.execution_options(populate_existing=True)

    def _conditions(self, filters: Values | None) -> Iterable[ColumnElement[bool]]:
        return [self._condition(field, value) for field, value in (filters or {}).items()]

    async def _list(
        self,
        text: str | None,
        filters: Values | None,
        *,
        sort: str,
        limit: int,
        cursor: str | None,
        include_deleted: bool,
    ) -> Page[ModelT]:
        order = self._order((text, filters, include_deleted), sort=sort, limit=limit, cursor=cursor)
        conditions = [*self._conditions(filters), *([] if text is None else [self._matching(text)])]
        return await self._page(self._query(include_deleted=include_deleted).where(*conditions), order)

    def _order(self, asked: object, *, sort: str, limit: int, cursor: str | None) -> Order:
        keys = tuple(self._sort_key(field, down=down) for field, down in sort_fields(sort, self.sortable))
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidField(f"limit: must be between 1 and {MAX_PAGE}.", param="limit")
        mark = mark_of(self.kind, sort, in_order(asked))
        kind, *more = (int if isinstance(key.column.type, DateTime) else str for key in keys)
        position = decode_cursor(cursor, mark, kind, *more)
        after = None if position is None else self._bound_position(keys, position)
        return Order(keys=keys, down=keys[-1].down, limit=limit, mark=mark, after=after)

    def _sort_key(self, field: str, *, down: bool) -> SortKey:
        """Return what sorts by a field of :attr:`sortable`."""
        return SortKey(field, down, self._columns()[field], lambda value: value)

    def _bound_position(self, keys: Sequence[SortKey], position: Position) -> tuple[Any, ...]:
        columns = self._columns()
        places = []
        for key, value in zip(keys, (position.value, *position.more), strict=True):
            column = columns[key.field]
            bound = from_unix_us(value) if isinstance(value, int) else coerced(column, value)
            problems = tuple(column_problems({"cursor": bound}, {"cursor": column}))
            if problems:
                raise InvalidModel(*problems)
            places.append(key.place(bound))
        return (*places, last_id(position.id))

    async def _page(self, query: Select[Any], order: Order, *, skip: int = 0) -> Page[ModelT]:
        ids = self.model.id
        query = query.where(order.beyond(ids)).order_by(*order.by(*order.columns, ids)).limit(order.limit + 1)
        return self._cut((await self._session.scalars(query.offset(skip))).all(), order)

    def _cut(self, found: Sequence[ModelT], order: Order) -> Page[ModelT]:
        """Make a page of what was found in order: one more than it holds where there are more."""
        items = list(found[: order.limit])
        return Page(items, order.cursor(items[-1]) if len(found) > order.limit else None)

    def _made(self, values: Values) -> ModelT:
        self.model.check_names(values)
        trail = self._trail
        times = {"created_at": trail.now, "updated_at": trail.now}
        authors = {"created_by": trail.author.name, "updated_by": trail.author.name}
        item = self.model(**values, tenant_id=trail.tenant_id, **times, **authors)
        item.validate_model()
        return item

    async def _create(self, several: Sequence[Values]) -> list[ModelT]:
        items = [self._made(values) for values in several]
        self._session.add_all(items)
        await self._finish("created", [(item, None) for item in items])
        return items

    async def _update(
        self, several: Sequence[tuple[UUID, Values]], expected_version: int | None = None
    ) -> list[ModelT]:
        items = await self._locked([item_id for item_id, _ in several])
        before = [self._recorded(item) for item in items]
        for item, (_, changes) in zip(items, several, strict=True):
            check_version(item, expected_version)
            item.update_fields(**changes)
            item.validate_model()
        await self._finish("updated", list(zip(items, before, strict=True)))
        return items

    async def _delete(self, item_ids: Sequence[UUID], expected_version: int | None = None) -> list[ModelT]:
        items = await self._locked(item_ids)
        before = [self._recorded(item) for item in items]
        for item in items:
            check_version(item, expected_version)
            item.soft_delete(self._trail.author.name, now=self._trail.now)
        await self._finish("deleted", list(zip(items, before, strict=True)))
        return items

    async def _restore(self, item_ids: Sequence[UUID], changes: Values) -> list[ModelT]:
        items = await self._locked(item_ids, include_deleted=True)
        before = [self._recorded(item) for item in items]
        for item in items:
            item.update_fields(**changes)
            item.validate_model()
            item.restore(self._trail.author.name, now=self._trail.now)
        await self._finish("restored", list(zip(items, before, strict=True)))
        return items

    async def _locked(self, item_ids: Sequence[UUID], *, include_deleted: bool = False) -> list[ModelT]:
        query = self._query(include_deleted=include_deleted).where(self.model.id.in_(item_ids))
        query = query.order_by(self.model.id).with_for_update(of=self._locks())
        found = {item.id: item for item in (await self._session.scalars(query)).all()}
        missing = next((item_id for item_id in item_ids if item_id not in found), None)
        if missing is not None:
            raise no_such(self.kind, str(missing))
        return [found[item_id] for item_id in item_ids]

    def _recorded(self, item: ModelT) -> dict[str, Any]:
        return item.to_dict(exclude=item.unrecorded)

    async def _finish(self, action: Action, changed: Sequence[tuple[ModelT, Values | None]]) -> None:
        """Write objects down, and in the audit log those that differ from what they were."""
        entries = []
        for item, before in changed:
            after = self._recorded(item)
            if before == after:
                continue
            if before is not None:
                item.row_version += 1
                item.touch(self._trail.author.name, now=self._trail.now)
            entries.append(Recorded(action, str(item.id), before, None if action == "deleted" else after))
        await self._flush([item for item, _ in changed])
        await self._trail.record(self.kind, entries)

    async def _in_bulk(
        self,
        count: int,
        attempt: Callable[[Sequence[int]], Awaitable[list[ModelT]]],
        failures: Mapping[int, HXError],
        *,
        atomic: bool,
    ) -> BulkResult[ModelT]:
        if count > MAX_BULK:
            raise InvalidField(f"At most {MAX_BULK} at once, not {count}.", param="items")
        failed = [BulkFailure(index, error) for index, error in failures.items()]
        if atomic and failed:
            raise BulkRefused(failed)
        async with self._write():
            await self._trail.lock()
            items, more = await self._halving([index for index in range(count) if index not in failures], attempt)
            failed = sorted([*failed, *more], key=lambda failure: failure.index)
            if atomic and failed:
                raise BulkRefused(failed)
        return BulkResult(items, failed)

    async def _halving(
        self, indexes: Sequence[int], attempt: Callable[[Sequence[int]], Awaitable[list[ModelT]]]
    ) -> tuple[list[ModelT], list[BulkFailure]]:
        """Try all at once, which is what nearly always works; else both halves, down to those that do not."""
        if not indexes:
            return [], []
        try:
            async with self._write():
                return await attempt(indexes), []
        except HXError as error:
            if len(indexes) == 1:
                return [], [BulkFailure(indexes[0], error)]
        middle = len(indexes) // 2
        first, failed = await self._halving(indexes[:middle], attempt)
        second, more = await self._halving(indexes[middle:], attempt)
        return [*first, *second], [*failed, *more]

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[None]:
        """Undo all that was done within when anything is raised; a broken constraint becomes the error of its rule."""
        try:
            async with self._session.begin_nested():
                yield
        except IntegrityError as error:
            cause = error.orig.__cause__ if error.orig is not None else None
            rule = self.rules.get(getattr(cause, "constraint_name", None) or "")
            if rule is None:
                raise
            raise rule.broken() from error


def check_version(item: TenantModel, expected: int | None) -> None:
    """Raise :class:`VersionConflict` where an object has not the version that is expected of it."""
    if expected is not None and item.row_version != expected:
        raise VersionConflict(expected, item.row_version)


def _refusal(check: Callable[[Values], object], values: Values) -> HXError | None:
    try:
        check(values)
    except HXError as error:
        return error
    return None


def in_order(asked: object) -> object:
    """Return what was asked for, so that it reads the same whatever order it was given in."""
    match asked:
        case Mapping():
            return {name: in_order(asked[name]) for name in sorted(asked)}
        case set() | frozenset():
            return sorted(map(repr, asked))
        case tuple():
            return tuple(map(in_order, asked))
    return asked
