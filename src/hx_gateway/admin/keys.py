"""The routes of keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from hx_gateway.access.resources import ResourceKind
from hx_gateway.admin.answers import Key, KeyWithSecret, ListOf
from hx_gateway.admin.caller import Asks, announce_created, checked_id
from hx_gateway.admin.operations import BODY_EXAMPLES, CREATED_HEADERS, PATCH_EXAMPLE, RESPONSES
from hx_gateway.admin.schemas import KeyCreate, KeyList, KeyPatch, Rotation
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.request_headers import IdempotencyKey

router = APIRouter(tags=["keys"], route_class=StrictJsonRoute, responses=RESPONSES)
KEY = ResourceKind.KEY
_AT_ONCE = Rotation(grace_seconds=0)


@router.post("", status_code=201, response_model=KeyWithSecret, responses=CREATED_HEADERS, summary="Make a key")
async def create_key(
    fields: Annotated[KeyCreate, Body(examples=[BODY_EXAMPLES["key"]])],
    ask: Asks,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Make a key. Its secret is in this answer and nowhere else."""
    return announce_created(request, response, await ask.create(KEY, fields.values(), idempotency_key))


@router.get("", response_model=ListOf[Key], summary="List keys")
async def list_keys(parameters: Annotated[KeyList, Query()], ask: Asks) -> dict[str, Any]:
    """List keys: a team's admin sees those of its team."""
    return await ask.page(KEY, parameters.query())


@router.get("/{key_id}", response_model=Key, summary="Show a key")
async def get_key(key_id: str, ask: Asks, include_deleted: bool = False) -> dict[str, Any]:
    """Return one, with what its budgets have spent."""
    return await ask.get(KEY, key_id, include_deleted=include_deleted)


@router.patch("/{key_id}", response_model=Key, summary="Change a key")
async def update_key(
    key_id: str, fields: Annotated[KeyPatch, Body(examples=[PATCH_EXAMPLE])], ask: Asks
) -> dict[str, Any]:
    """Change what is sent, and nothing else; objects and lists are replaced whole."""
    return await ask.update(KEY, key_id, fields.values())


@router.delete("/{key_id}", response_model=Key, summary="Delete a key")
async def delete_key(key_id: str, ask: Asks) -> dict[str, Any]:
    """Delete one: it stops working at once, and can be restored."""
    return await ask.delete(KEY, key_id)


@router.post("/{key_id}/restore", response_model=Key, summary="Restore a key")
async def restore_key(key_id: str, ask: Asks) -> dict[str, Any]:
    """Undo a deletion."""
    return await ask.restore(KEY, key_id)


@router.post("/{key_id}/rotate", response_model=KeyWithSecret, summary="Replace the secret of a key")
async def rotate_key(key_id: str, ask: Asks, fields: Rotation = _AT_ONCE) -> dict[str, Any]:
    """Give a key a new secret, which is in this answer and nowhere else."""
    return await ask.directory.rotate(ask.actor, checked_id(KEY, key_id), fields.grace_seconds)


@router.post("/{key_id}/block", response_model=Key, summary="Block a key")
async def block_key(key_id: str, ask: Asks) -> dict[str, Any]:
    """Refuse the key from now on, until it is unblocked."""
    return await ask.directory.block(ask.actor, checked_id(KEY, key_id))


@router.post("/{key_id}/unblock", response_model=Key, summary="Unblock a key")
async def unblock_key(key_id: str, ask: Asks) -> dict[str, Any]:
    """Let a blocked key in again."""
    return await ask.directory.unblock(ask.actor, checked_id(KEY, key_id))
