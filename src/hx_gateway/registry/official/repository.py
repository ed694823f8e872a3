"""Servers in the database: the tenant's services, each with its published versions, or as itself where it has none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, contains_eager, undefer

from hx_gateway.db.models.registry_items import ItemHealth, RegistryItem
from hx_gateway.db.models.registry_versions import RegistryVersion
from hx_gateway.registry.official.naming import ID_PATTERN, PLAIN_PATTERN, Naming
from hx_gateway.registry.official.schema import MAX_NAME_CHARS, NAME_PATTERN
from hx_gateway.registry.official.versions import LATEST, UNKNOWN_VERSION, VERSION_PATTERN, latest_of, rank

MAX_SAME_REMOTE = 5
# How many services are looked at for a page at first.
NEARBY = 200
_OF_AN_ID = re.compile(r"[0-9a-f-]+")
_HEALTH = and_(ItemHealth.tenant_id == RegistryItem.tenant_id, ItemHealth.item_id == RegistryItem.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which servers are looked for. ``version`` is an exact one, or ``latest``."""

    search: str | None = None
    updated_since: datetime | None = None
    version: str | None = None
    include_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """A version of a server: its service, and what was published, ``None`` where the service stands for itself.

    ``key`` is where it stands among those of its service.
    """

    name: str
    key: str
    item: RegistryItem
    published: RegistryVersion | None


class ServerRepository:
    """A tenant's servers in one transaction, which is the caller's.

    A service that was deleted and has no living successor of its name is one too, and all its versions are deleted.
    Whoever changes anything holds the tenant's lock.
    """

    def __init__(self, session: AsyncSession, tenant_id: str, naming: Naming) -> None:
        self._session = session
        self._tenant_id = tenant_id
        self._naming = naming
        self._name = _named(naming)
        self._published = and_(
            RegistryVersion.tenant_id == RegistryItem.tenant_id,
            RegistryVersion.item_id == RegistryItem.id,
            # A filter, not what rows are joined by: names would be computed of all services.
            (RegistryVersion.name == self._name).is_(True),
        )

    # Reading

    async def page(self, listing: Listing, after: tuple[str, str] | None, limit: int) -> list[Server]:
        """Return at most ``limit`` servers that come ``after`` the place of another one.

        They are ordered by their services' own names, of which there is an index, and by version; both are compared
        byte for byte, whatever the database's locale is. Among latest versions only the name counts: one that was seen
        is not seen again under the version that it was given since.
        """
        name, key = _bytewise(cast(RegistryItem.name, Text)), _bytewise(_key)
        query = self._query().where(*self._conditions(listing)).order_by(name, key).limit(limit)
        if after is not None and listing.version == LATEST:
            query = query.where(name > after[0])
        elif after is not None:
            query = query.where(tuple_(name, key) > tuple_(literal(after[0], Text), literal(after[1], Text)))
        # Looked for nearby first. What does not fill a page there is rare, or elsewhere.
        nearby = self._nearby(None if after is None else after[0], include_deleted=listing.include_deleted)
        found = await self._servers(query.join(nearby, nearby.c.id == RegistryItem.id))
        if len(found) == limit:
            return found
        candidates = self._candidates(listing)
        return await self._servers(query.join(candidates, candidates.c.id == RegistryItem.id))

    def _nearby(self, start: str | None, *, include_deleted: bool) -> Subquery:
        """Return the next services in order, by the index alone, whatever the planner thinks of all conditions."""
        name = _bytewise(cast(RegistryItem.name, Text))
        query = select(RegistryItem.id, name.label("name")).where(RegistryItem.tenant_id == self._tenant_id)
        if not include_deleted:
            query = query.where(RegistryItem.deleted_at.is_(None))
        if start is not None:
            query = query.where(name >= start)
        return query.order_by(name).limit(NEARBY).subquery()

    def _candidates(self, listing: Listing) -> Subquery:
        """Return the services that one of the conditions lets through, by their own rows or by those of versions.

        All conditions are for both together: asked so, PostgreSQL would bring all rows of both together first.
        """
        item, version = RegistryItem, RegistryVersion
        own: list[ColumnElement[bool]] = []
        published: list[ColumnElement[bool]] = []
        if listing.version not in (None, LATEST):
            own, published = [_unpublished_version == listing.version], [version.version == listing.version]
        elif listing.updated_since is not None:
            own = [_either(item.updated_at >= listing.updated_since)]
            published = [version.updated_at >= listing.updated_since]
        elif listing.search:
            described = version.document["description"].astext
            own = [self._matches(listing.search, item.description)]
            published = [_holds(listing.search, version.name, described)]
        services = select(item.id).where(item.tenant_id == self._tenant_id, *own)
        if not listing.include_deleted:
            services = services.where(item.deleted_at.is_(None))
        versions = select(version.item_id).where(version.tenant_id == self._tenant_id, *published)
        return services.union(versions).subquery() if own else services.subquery()

    async def versions(self, name: str, *, include_deleted: bool) -> list[Server]:
        """Return all versions of a server, the newest first."""
        found = await self._servers(self._of(name).where(*self._conditions(Listing(include_deleted=include_deleted))))
        return sorted(found, key=_age, reverse=True)

    async def one(self, name: str, version: str, *, include_deleted: bool) -> Server | None:
        """Return a version of a server; ``latest`` is one too."""
        listing = Listing(version=version, include_deleted=include_deleted)
        found = await self._servers(self._of(name).where(*self._conditions(listing)))
        return found[0] if found else None

    async def item(self, name: str) -> RegistryItem | None:
        """Return the service that a server's name means, also one that was deleted and nobody succeeds."""
        found = await self._servers(self._of(name).limit(1))
        return found[0].item if found else None

    async def sharing_remotes(self, name: str, urls: Sequence[str]) -> dict[str, list[str]]:
        """Return for URLs the names of other servers that are reached at them, at most ``MAX_SAME_REMOTE`` each."""
        shared = {}
        for url in urls:
            at = or_(RegistryVersion.document.contains({"remotes": [{"url": url}]}), RegistryItem.endpoint == url)
            latest = self._conditions(Listing(version=LATEST))
            query = self._rows(self._name).where(*latest, at, self._name != name)
            names = (await self._session.scalars(query.order_by(self._name).limit(MAX_SAME_REMOTE))).all()
            if names:
                shared[url] = list(names)
        return shared

    # Changing

    async def published(self, name: str) -> list[RegistryVersion]:
        """Return all that was ever published under a name, whichever service it was of, without the documents."""
        query = select(RegistryVersion).where(
            RegistryVersion.tenant_id == self._tenant_id, RegistryVersion.name == name
        )
        return list((await self._session.scalars(query.execution_options(populate_existing=True))).all())

    async def document(self, row: RegistryVersion) -> dict[str, Any]:
        """Return what was published."""
        query = select(RegistryVersion.document).where(*self._row(row))
        return dict((await self._session.scalars(query)).one())

    async def add(self, row: RegistryVersion) -> None:
        """Keep a new version."""
        self._session.add(row)
        await self._session.flush()

    async def replace(self, row: RegistryVersion, document: dict[str, Any], now: datetime) -> None:
        """Put another document in the place of what was published."""
        changed = update(RegistryVersion).where(*self._row(row)).values(document=document, updated_at=now)
        await self._session.execute(changed.execution_options(synchronize_session=False))

    async def adopt(self, rows: Sequence[RegistryVersion], item_id: UUID) -> None:
        """Make versions those of a service: they are its history, though another one of its name had them before."""
        for row in rows:
            row.item_id = item_id
        await self._session.flush()

    async def mark_latest(self, rows: Sequence[RegistryVersion], now: datetime) -> RegistryVersion | None:
        """Find out which version is the latest and keep it; return it if that changed."""
        ranked = ((rank(row.version, row.published_at), row.status == "deleted", row) for row in rows)
        latest = latest_of(ranked)
        before = next((row for row in rows if row.is_latest), None)
        if latest is None or latest is before:
            return None
        # One after the other: at no time are there two.
        for row, is_latest in ((before, False), (latest, True)):
            if row is not None:
                row.is_latest, row.updated_at = is_latest, now
                await self._session.flush()
        return latest

    async def flush(self) -> None:
        """Write down what was changed."""
        await self._session.flush()

    # How

    def _row(self, row: RegistryVersion) -> tuple[ColumnElement[bool], ...]:
        of = RegistryVersion
        return of.tenant_id == self._tenant_id, of.name == row.name, of.version == row.version

    def _rows(self, *columns: Any) -> Select[Any]:
        query = select(*columns).select_from(RegistryItem)
        query = query.join(ItemHealth, _HEALTH).outerjoin(RegistryVersion, self._published)
        return query.where(RegistryItem.tenant_id == self._tenant_id, _stands_for_its_name())

    def _query(self) -> Select[Any]:
        query = self._rows(RegistryItem, RegistryVersion, self._name.label("name"), _key.label("key"))
        query = query.options(contains_eager(RegistryItem.health), undefer(RegistryVersion.document))
        return query.execution_options(populate_existing=True)

    def _of(self, name: str) -> Select[Any]:
        ref = self._naming.item_of(name)
        if ref is None:
            return self._query().where(literal(False))
        if isinstance(ref, UUID):
            return self._query().where(RegistryItem.id == ref, self._name == name)
        return self._query().where(_either(RegistryItem.name_key == func.lower(ref)), self._name == name)

    def _conditions(self, listing: Listing) -> Iterator[ColumnElement[bool]]:
        if not listing.include_deleted:
            # The latest one is deleted where all are: then it is the service itself that came back.
            living = or_(
                RegistryVersion.version.is_(None), RegistryVersion.status != "deleted", RegistryVersion.is_latest
            )
            yield and_(RegistryItem.deleted_at.is_(None), living)
        if listing.search:
            described = func.coalesce(RegistryVersion.document["description"].astext, RegistryItem.description)
            yield self._matches(listing.search, described)
        if listing.updated_since is not None:
            yield func.greatest(RegistryVersion.updated_at, RegistryItem.updated_at) >= listing.updated_since
        if listing.version == LATEST:
            yield or_(RegistryVersion.version.is_(None), RegistryVersion.is_latest)
        elif listing.version is not None:
            yield or_(
                RegistryVersion.version == listing.version,
                and_(RegistryVersion.version.is_(None), _unpublished_version == listing.version),
            )

    def _matches(self, search: str, described: Any) -> ColumnElement[bool]:
        shown = self._name if self._may_be_added(search) else RegistryItem.name
        return _holds(search, shown, described)

    def _may_be_added(self, search: str) -> bool:
        """Return whether a text may be found in what is added to services' names: the namespace, or an id."""
        text = search.lower()
        return "/" in text or text in self._naming.prefix.lower() or _OF_AN_ID.fullmatch(text) is not None

    async def _servers(self, query: Select[Any]) -> list[Server]:
        rows = (await self._session.execute(query)).unique().all()
        return [Server(row.name, row.key, row[0], row[1]) for row in rows]


def _named(naming: Naming) -> ColumnElement[str]:
    """Return :meth:`Naming.server_name` as the database computes it."""
    name, characters = RegistryItem.name, func.char_length(RegistryItem.name)
    named_so = and_(
        name.regexp_match(NAME_PATTERN),
        characters <= MAX_NAME_CHARS,
        not_(func.starts_with(func.lower(name), naming.prefix.lower())),
    )
    plain = and_(
        name.regexp_match(PLAIN_PATTERN), not_(name.regexp_match(ID_PATTERN)), characters <= naming.most_plain_chars
    )
    prefix = literal(naming.prefix, Text)
    return case((named_so, cast(name, Text)), (plain, prefix + name), else_=prefix + cast(RegistryItem.id, Text))


def _stands_for_its_name() -> ColumnElement[bool]:
    """Return whether a service is living, or the last that was deleted of its name, and nobody has that now."""
    other = aliased(RegistryItem)
    later = or_(
        other.deleted_at.is_(None),
        tuple_(other.deleted_at, other.id) > tuple_(RegistryItem.deleted_at, RegistryItem.id),
    )
    same = and_(other.tenant_id == RegistryItem.tenant_id, other.name_key == RegistryItem.name_key, later)
    return or_(RegistryItem.deleted_at.is_(None), not_(exists().where(same)))


def _holds(search: str, *texts: Any) -> ColumnElement[bool]:
    return or_(*[text.icontains(search, autoescape=True) for text in texts])


def _either(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return a condition of the living and of the deleted, for which there is an index each."""
    living = RegistryItem.deleted_at.is_(None)
    return or_(and_(living, condition), and_(not_(living), condition))


def _bytewise(column: ColumnElement[str]) -> ColumnElement[str]:
    return column.collate("C")


def _age(server: Server) -> tuple[datetime, str]:
    published = server.published
    return (server.item.created_at, "") if published is None else (published.published_at, published.version)


_unpublished_version = case(
    (RegistryItem.version.regexp_match(VERSION_PATTERN), cast(RegistryItem.version, Text)), else_=UNKNOWN_VERSION
)
_key: ColumnElement[str] = func.coalesce(RegistryVersion.version, _unpublished_version)
