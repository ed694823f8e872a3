"""The routes of teams."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from hx_gateway.access.resources import ResourceKind
from hx_gateway.admin.answers import ListOf, Member, Team
from hx_gateway.admin.caller import Asks, announce_created, checked_id
from hx_gateway.admin.operations import BODY_EXAMPLES, CREATED_HEADERS, PATCH_EXAMPLE, RESPONSES
from hx_gateway.admin.schemas import ListParameters, Membership, TeamCreate, TeamPatch
from hx_gateway.http.bodies import StrictJsonRoute
from hx_gateway.http.request_headers import IdempotencyKey

router = APIRouter(tags=["teams"], route_class=StrictJsonRoute, responses=RESPONSES)
TEAM = ResourceKind.TEAM


@router.post("", status_code=201, response_model=Team, responses=CREATED_HEADERS, summary="Make a team")
async def create_team(
    fields: Annotated[TeamCreate, Body(examples=[BODY_EXAMPLES["team"]])],
    ask: Asks,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Make a team of the tenant."""
    return announce_created(request, response, await ask.create(TEAM, fields.values(), idempotency_key))


@router.get("", response_model=ListOf[Team], summary="List teams")
async def list_teams(parameters: Annotated[ListParameters, Query()], ask: Asks) -> dict[str, Any]:
    """List teams: a team's admin sees its own."""
    return await ask.page(TEAM, parameters.query())


@router.get("/{team_id}", response_model=Team, summary="Show a team")
async def get_team(team_id: str, ask: Asks, include_deleted: bool = False) -> dict[str, Any]:
    """Return one, with what its budgets have spent."""
    return await ask.get(TEAM, team_id, include_deleted=include_deleted)


@router.patch("/{team_id}", response_model=Team, summary="Change a team")
async def update_team(
    team_id: str, fields: Annotated[TeamPatch, Body(examples=[PATCH_EXAMPLE])], ask: Asks
) -> dict[str, Any]:
    """Change what is sent, and nothing else; objects and lists are replaced whole."""
    return await ask.update(TEAM, team_id, fields.values())


@router.delete("/{team_id}", response_model=Team, summary="Delete a team")
async def delete_team(team_id: str, ask: Asks) -> dict[str, Any]:
    """Delete one: it stops working at once, and can be restored."""
    return await ask.delete(TEAM, team_id)


@router.post("/{team_id}/restore", response_model=Team, summary="Restore a team")
async def restore_team(team_id: str, ask: Asks) -> dict[str, Any]:
    """Undo a deletion."""
    return await ask.restore(TEAM, team_id)


@router.get("/{team_id}/members", response_model=ListOf[Member], summary="List the members of a team")
async def list_members(team_id: str, ask: Asks) -> dict[str, Any]:
    """List who is in a team, and as what."""
    members = await ask.directory.members(ask.actor, checked_id(TEAM, team_id))
    return {"data": members}


@router.put("/{team_id}/members/{user_id}", response_model=Member, summary="Set a member of a team")
async def set_member(team_id: str, user_id: str, fields: Membership, ask: Asks) -> dict[str, Any]:
    """Add a user to a team, or change what it is there."""
    ids = checked_id(TEAM, team_id), checked_id(ResourceKind.USER, user_id)
    return await ask.directory.set_member(ask.actor, *ids, fields.role)


@router.delete("/{team_id}/members/{user_id}", response_model=Member, summary="Remove a member of a team")
async def remove_member(team_id: str, user_id: str, ask: Asks) -> dict[str, Any]:
    """Take a user out of a team. Its keys of the team stop working."""
    ids = checked_id(TEAM, team_id), checked_id(ResourceKind.USER, user_id)
    return await ask.directory.remove_member(ask.actor, *ids)
