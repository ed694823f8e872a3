"""The routes of users."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from hx_gateway.access.resources import ResourceKind
from hx_gateway.admin.answers import ListOf, User
from hx_gateway.admin.caller import Asks, announce_created
from hx_gateway.admin.operations import BODY_EXAMPLES, CREATED_HEADERS, PATCH_EXAMPLE, RESPONSES
from hx_gateway.admin.schemas import UserCreate, UserList, UserPatch
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.request_headers import IdempotencyKey

router = APIRouter(tags=["users"], route_class=StrictJsonRoute, responses=RESPONSES)
USER = ResourceKind.USER


@router.post("", status_code=201, response_model=User, responses=CREATED_HEADERS, summary="Make a user")
async def create_user(
    fields: Annotated[UserCreate, Body(examples=[BODY_EXAMPLES["user"]])],
    ask: Asks,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Make a user."""
    return announce_created(request, response, await ask.create(USER, fields.values(), idempotency_key))


@router.get("", response_model=ListOf[User], summary="List users")
async def list_users(parameters: Annotated[UserList, Query()], ask: Asks) -> dict[str, Any]:
    """List the users of the tenant."""
    return await ask.page(USER, parameters.query())


@router.get("/{user_id}", response_model=User, summary="Show a user")
async def get_user(user_id: str, ask: Asks, include_deleted: bool = False) -> dict[str, Any]:
    """Return one, with what its budgets have spent."""
    return await ask.get(USER, user_id, include_deleted=include_deleted)


@router.patch("/{user_id}", response_model=User, summary="Change a user")
async def update_user(
    user_id: str, fields: Annotated[UserPatch, Body(examples=[PATCH_EXAMPLE])], ask: Asks
) -> dict[str, Any]:
    """Change what is sent, and nothing else; objects and lists are replaced whole."""
    return await ask.update(USER, user_id, fields.values())


@router.delete("/{user_id}", response_model=User, summary="Delete a user")
async def delete_user(user_id: str, ask: Asks) -> dict[str, Any]:
    """Delete one: it stops working at once, and can be restored."""
    return await ask.delete(USER, user_id)


@router.post("/{user_id}/restore", response_model=User, summary="Restore a user")
async def restore_user(user_id: str, ask: Asks) -> dict[str, Any]:
    """Undo a deletion."""
    return await ask.restore(USER, user_id)
