"""Who asks, and the directory that is asked in its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from hx_gateway.access.directory import Directory
from hx_gateway.access.idempotency import REPLAYED
from hx_gateway.access.resources import Actor, ListQuery, Page, ResourceKind
from hx_gateway.errors import NotFound
from hx_gateway.http.request_headers import REPLAY_HEADER
from hx_gateway.pipeline.context import Context

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """One request's view of the directory. Raises what the directory does: ``NotFound``, ``Forbidden``, conflicts."""

    directory: Directory
    actor: Actor

    async def create(
        self, kind: ResourceKind, values: Mapping[str, Any], idempotency_key: str | None
    ) -> dict[str, Any]:
        """Return the new object, marked as replayed where an earlier request has made it."""
        return await self.directory.create(self.actor, kind, values, idempotency_key=idempotency_key)

    async def page(self, kind: ResourceKind, query: ListQuery) -> dict[str, Any]:
        """Return a page of a list."""
        return shown_page(await self.directory.list(self.actor, kind, query))

    async def get(self, kind: ResourceKind, object_id: str, *, include_deleted: bool) -> dict[str, Any]:
        """Return an object; with ``include_deleted`` also one that was deleted."""
        object_id = checked_id(kind, object_id)
        return await self.directory.get(self.actor, kind, object_id, include_deleted=include_deleted)

    async def update(self, kind: ResourceKind, object_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change an object; return it as it is now."""
        return await self.directory.update(self.actor, kind, checked_id(kind, object_id), changes)

    async def delete(self, kind: ResourceKind, object_id: str) -> dict[str, Any]:
        """Delete an object; return it as it was left."""
        return await self.directory.delete(self.actor, kind, checked_id(kind, object_id))

    async def restore(self, kind: ResourceKind, object_id: str) -> dict[str, Any]:
        """Undo a deletion."""
        return await self.directory.restore(self.actor, kind, checked_id(kind, object_id))


def caller_of(request: Request) -> Caller:
    """Return the caller that the pipeline found."""
    ctx: Context = request.state.hx
    assert ctx.principal is not None
    actor = Actor(principal=ctx.principal, request_id=ctx.request_id, client=ctx.client)
    return Caller(request.app.state.directory, actor)


def checked_id(kind: ResourceKind, object_id: str) -> str:
    """Return ``object_id``. Raises ``NotFound`` for what is nobody's."""
    if not _ID.fullmatch(object_id):
        raise NotFound(f"There is no {kind.value} {object_id[:64]!r}.", param="id")
    return object_id


def shown_page(page: Page) -> dict[str, Any]:
    """Return a page as it is shown."""
    return {"object": "list", "data": page.items, "next_cursor": page.next_cursor}


def announce_created(request: Request, response: Response, created: dict[str, Any]) -> dict[str, Any]:
    """Return what was created; its place, and whether it was there already, go into headers."""
    response.headers["location"] = f"{request.scope['path']}/{created['id']}"
    if created.pop(REPLAYED, False):
        response.headers[REPLAY_HEADER] = "true"
    return created


Asks = Annotated[Caller, Depends(caller_of)]
