"""The official registry's API as a business object: servers are listed, published, deprecated and deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hx_gateway.access.cursors import Position, decode_cursor, encode_cursor, mark_of
from hx_gateway.access.errors import InvalidField
from hx_gateway.access.resources import Actor
from hx_gateway.errors import InvalidRequest, NotFound
from hx_gateway.registry.official.mapping import (
    DEPRECATED,
    STATUS_MESSAGE,
    Lifecycle,
    ServerMapping,
    Status,
)
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.publishing import Publishing, StatusChange
from hx_gateway.registry.official.repository import Listing, Server, ServerRepository
from hx_gateway.registry.official.rights import Reader, check_may_publish
from hx_gateway.registry.official.server_json import InvalidServer, Rules, errors_of, kept, validate
from hx_gateway.registry.official.shapes import Issue, objects, text
from hx_gateway.registry.transactions import Transactions

DEFAULT_LIMIT = 30
MAX_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPage:
    """Servers as they are answered. ``next_cursor`` is ``None`` on the last page."""

    servers: list[dict[str, Any]]
    next_cursor: str | None


class OfficialRegistry:
    """The servers of tenants: all services of the catalogue, published or not.

    ``naming`` says what services are called that have no namespace. ``gateway_url`` is where the gateway serves MCP, if
    clients are to reach services through it. ``rules`` are those that a document is held to.

    Raises ``NotFound``, ``Forbidden``, and ``InvalidRequest`` (400) for all that is wrong with what was sent, of which
    :class:`InvalidServer` tells by its places; what the catalogue raises of services passes; ``DependencyError`` while
    the database is away.
    """

    def __init__(
        self,
        transactions: Transactions,
        *,
        naming: Naming | None = None,
        gateway_url: str | None = None,
        rules: Rules | None = None,
    ) -> None:
        self._transactions = transactions
        self.naming = naming or Naming()
        self._mapping = ServerMapping(self.naming, gateway_url=gateway_url)
        self._rules = rules or Rules()

    # Reading

    async def servers(
        self, reader: Reader, listing: Listing, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
    ) -> ServerPage:
        """Return a page of servers by their services' names, then version. A cursor is for its own ``listing``."""
        mark = mark_of("servers", listing)
        after = _position(cursor, mark)
        async with self._read(reader.tenant_id) as servers:
            found = await servers.page(listing, after, limit + 1)
            shown = [self._shown(server, reader) for server in found[:limit]]
        if len(found) <= limit:
            return ServerPage(servers=shown, next_cursor=None)
        last = found[limit - 1]
        return ServerPage(servers=shown, next_cursor=encode_cursor(Position(last.item.name, last.key), mark))

    async def versions(self, reader: Reader, name: str, *, include_deleted: bool = False) -> list[dict[str, Any]]:
        """Return all versions of a server, the newest first."""
        async with self._read(reader.tenant_id) as servers:
            found = await servers.versions(name, include_deleted=include_deleted)
            if not found:
                raise _no_server()
            return [self._shown(server, reader) for server in found]

    async def one(self, reader: Reader, name: str, version: str, *, include_deleted: bool = False) -> dict[str, Any]:
        """Return one version of a server, or its ``latest``."""
        async with self._read(reader.tenant_id) as servers:
            server = await servers.one(name, version, include_deleted=include_deleted)
            if server is None:
                raise _no_server()
            return self._shown(server, reader)

    async def validate(self, reader: Reader, document: Any) -> list[Issue]:
        """Return what is wrong with a document; warnings also where another server has its remotes' addresses."""
        issues = validate(document, self._rules)
        if errors_of(issues):
            return issues
        urls = [text(remote, "url") for _, remote in objects(document, "remotes")]
        if not urls:
            return issues
        async with self._read(reader.tenant_id) as servers:
            shared = await servers.sharing_remotes(document["name"], list(dict.fromkeys(urls)))
        return [*issues, *_shared_remotes(urls, shared)]

    # Changing

    async def publish(self, actor: Actor, document: Mapping[str, Any]) -> dict[str, Any]:
        """Publish a version; make its service if there is none of its name, and bring it to the latest version.

        A version is published once: it stays what it is, and cannot be published again, deleted or not.
        """
        valid = self._valid(actor, document)
        async with self._write(actor, "official.publish") as publishing:
            await publishing.publish(valid)
            return await self._answer(publishing, actor, valid["name"], valid["version"])

    async def put(self, actor: Actor, name: str, version: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Put another document in the place of a published version, which has the same name and version."""
        valid = self._valid(actor, document)
        for field, expected in (("name", name), ("version", version)):
            if valid[field] != expected:
                raise InvalidRequest(f"{field} must be that of the path, {expected!r}.", param=field)
        async with self._write(actor, "official.put") as publishing:
            await publishing.replace(valid)
            return await self._answer(publishing, actor, name, version)

    async def set_status(
        self, actor: Actor, name: str, version: str, status: Status, message: str | None = None
    ) -> dict[str, Any]:
        """Say that a version is active, deprecated or deleted; ``message`` tells why."""
        check_may_publish(actor.principal, name)
        async with self._write(actor, "official.set_status") as publishing:
            (changed,) = await publishing.set_status(name, version, StatusChange(status, message))
            return await self._answer(publishing, actor, name, changed)

    async def set_all_statuses(
        self, actor: Actor, name: str, status: Status, message: str | None = None
    ) -> list[dict[str, Any]]:
        """Say it of all versions at once; return those that it is new for."""
        check_may_publish(actor.principal, name)
        async with self._write(actor, "official.set_all_statuses") as publishing:
            changed = set(await publishing.set_status(name, None, StatusChange(status, message)))
            found = await publishing.servers.versions(name, include_deleted=True)
            return [self._shown(server, _reader_of(actor)) for server in found if server.key in changed]

    async def delete(self, actor: Actor, name: str, version: str) -> dict[str, Any]:
        """Delete a version so that it may be restored by its status; return it as it was left."""
        return await self.set_status(actor, name, version, "deleted")

    # How

    def _valid(self, actor: Actor, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is to be kept of a document; nobody waits in a transaction meanwhile."""
        errors = errors_of(validate(document, self._rules))
        if errors:
            raise InvalidServer(errors)
        check_may_publish(actor.principal, document["name"])
        return kept(document, self._rules)

    def _shown(self, server: Server, reader: Reader) -> dict[str, Any]:
        item = server.item.to_dict()
        published = server.published
        document = self._mapping.document_of(item) if published is None else published.document
        return self._mapping.response(document, lifecycle_of(server), item if reader.inside else None)

    async def _answer(self, publishing: Publishing, actor: Actor, name: str, version: str) -> dict[str, Any]:
        server = await publishing.servers.one(name, version, include_deleted=True)
        assert server is not None
        return self._shown(server, _reader_of(actor))

    @asynccontextmanager
    async def _read(self, tenant_id: str) -> AsyncIterator[ServerRepository]:
        async with self._transactions.database.session(tenant_id) as session:
            yield ServerRepository(session, tenant_id, self.naming)

    @asynccontextmanager
    async def _write(self, actor: Actor, operation: str) -> AsyncIterator[Publishing]:
        async with self._transactions.open(actor, None, operation) as transaction:
            servers = ServerRepository(transaction.session, transaction.tenant_id, self.naming)
            await transaction.trail.lock()
            yield Publishing(servers, transaction.items, transaction.trail, self.naming)


def lifecycle_of(server: Server) -> Lifecycle:
    """Return what is to be said of a server: health is no part of it.

    A service that was deleted deletes all its versions. One that was restored, after each of them had been deleted, is
    active under the latest.
    """
    item, published = server.item, server.published
    if published is None:
        return _unpublished(server)
    status, message, changed_at = published.status, published.status_message, published.status_changed_at
    if item.deleted_at is not None and status != "deleted":
        status, message, changed_at = "deleted", None, item.deleted_at
    elif item.deleted_at is None and status == "deleted" and published.is_latest:
        status, message, changed_at = "active", None, item.updated_at
    return Lifecycle(
        status=status,  # type: ignore[arg-type]
        message=message,
        changed_at=changed_at,
        published_at=published.published_at,
        updated_at=max(published.updated_at, item.updated_at),
        is_latest=published.is_latest,
    )


def _unpublished(server: Server) -> Lifecycle:
    item = server.item
    said = item.service_metadata.get(STATUS_MESSAGE)
    status: Status = "deprecated" if item.service_metadata.get(DEPRECATED) is True else "active"
    changed_at = item.created_at if status == "active" else item.updated_at
    if item.deleted_at is not None:
        status, changed_at = "deleted", item.deleted_at
    return Lifecycle(
        status=status,
        message=said if isinstance(said, str) and status != "active" else None,
        changed_at=changed_at,
        published_at=item.created_at,
        updated_at=item.updated_at,
        is_latest=True,
    )


def _position(cursor: str | None, mark: str) -> tuple[str, str] | None:
    try:
        position = decode_cursor(cursor, mark, str)
    except InvalidField as error:
        raise InvalidRequest(error.message, param=error.param) from error
    return None if position is None else (str(position.value or ""), position.id)


def _reader_of(actor: Actor) -> Reader:
    return Reader(tenant_id=str(actor.principal.tenant_id))


def _no_server() -> NotFound:
    return NotFound("Server not found.", param="serverName")


def _shared_remotes(urls: Sequence[str], shared: Mapping[str, Sequence[str]]) -> list[Issue]:
    return [
        Issue(
            type="semantic",
            path=f"remotes[{index}].url",
            message=f"is where {', '.join(shared[url])} is reached too",
            severity="warning",
            reference="remote-is-unique",
        )
        for index, url in enumerate(urls)
        if url in shared
    ]
