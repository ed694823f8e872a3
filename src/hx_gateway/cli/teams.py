"""``hx-gateway teams``: who shares keys, limits and budgets."""

from __future__ import annotations

from typing import Annotated

import typer

from hx_gateway.cli import access_options as options
from hx_gateway.cli.access_options import changes_of, filters_of, limits_of
from hx_gateway.cli.access_requests import Objects, Server
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption, run_with
from hx_gateway.cli.object_commands import add_show, add_switches
from hx_gateway.cli.tables import (
    budgets_cell,
    field,
    limits_cell,
    models_cell,
    moment_cell,
    print_json,
    print_list,
    state_cell,
    tags_cell,
)

app = typer.Typer(help="Teams of a running gateway.", no_args_is_help=True)
members = typer.Typer(help="Who is in a team, and as what.", no_args_is_help=True)
app.add_typer(members, name="members")

TEAMS = Objects(
    "/v1/teams",
    "team",
    {
        "id": field("id", "bold"),
        "name": field("name"),
        "models": models_cell,
        "limits": limits_cell,
        "budgets": budgets_cell,
        "tags": tags_cell,
        "state": state_cell,
        "created": moment_cell("created_at"),
    },
)
MEMBER_COLUMNS = {
    "user": field("user_id", "bold"),
    "name": field("name"),
    "email": field("email"),
    "role": field("role"),
}
TeamArgument = Annotated[str, typer.Argument(help="The id of the team.")]
UserArgument = Annotated[str, typer.Argument(help="The id of the user.")]


@app.command()
def create(
    name: options.NameArgument,
    tenant: options.TenantOption = None,
    model: options.ModelOption = None,
    rpm: options.RpmOption = None,
    tpm: options.TpmOption = None,
    parallel: options.ParallelOption = None,
    burst: options.BurstOption = None,
    budget: options.BudgetOption = None,
    tag: options.TagOption = None,
    metadata: options.MetadataOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Make a team."""
    limits = limits_of(rpm, tpm, parallel, burst)
    body = changes_of(
        name=name, model=model, budget=budget, tag=tag, metadata=metadata, limits=limits, tenant_id=tenant
    )
    TEAMS.print(TEAMS.create(Server(url, key), body), as_json=as_json)


@app.command("list")
def list_teams(
    blocked: options.BlockedOption = None,
    tag: options.TagFilter = None,
    tenant: options.TenantOption = None,
    deleted: options.DeletedOption = False,
    sort: options.SortOption = "-created_at",
    limit: options.LimitOption = 50,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print teams, the newest first."""
    filters = filters_of(blocked=blocked, tag=tag, deleted=deleted, sort=sort, tenant_id=tenant)
    TEAMS.list(Server(url, key), filters, limit, as_json=as_json)


add_show(app, TEAMS)


@app.command()
def update(
    team: TeamArgument,
    name: options.NameOption = None,
    model: options.ModelOption = None,
    any_model: options.AnyModelOption = False,
    rpm: options.RpmOption = None,
    tpm: options.TpmOption = None,
    parallel: options.ParallelOption = None,
    burst: options.BurstOption = None,
    no_limits: options.NoLimitsOption = False,
    budget: options.BudgetOption = None,
    no_budgets: options.NoBudgetsOption = False,
    tag: options.TagOption = None,
    metadata: options.MetadataOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Change what is given; limits that are not named stay as they are, budgets and tags are replaced."""
    chosen = changes_of(
        name=name, model=model, any_model=any_model, budget=budget, no_budgets=no_budgets, tag=tag, metadata=metadata
    )
    limits = limits_of(rpm, tpm, parallel, burst)
    TEAMS.print(TEAMS.update(Server(url, key), team, chosen, limits, no_limits=no_limits), as_json=as_json)


add_switches(app, TEAMS)


@members.command("list")
def list_members(
    team: TeamArgument, as_json: options.JsonOption = False, url: UrlOption = DEFAULT_URL, key: KeyOption = None
) -> None:
    """Print who is in a team."""
    found = run_with(url, key, lambda gateway: gateway.ask("GET", TEAMS.where(team, "members")))["data"]
    if as_json:
        for member in found:
            print_json(member)
    else:
        print_list(found, MEMBER_COLUMNS, more=False)


@members.command("set")
def set_member(
    team: TeamArgument,
    user: UserArgument,
    role: Annotated[str, typer.Option("--role", help="member, admin or read_only.")] = "member",
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Add a user to a team, or change what it is there."""
    path = TEAMS.where(team, "members", user)
    run_with(url, key, lambda gateway: gateway.ask("PUT", path, None, {"role": role}))
    typer.echo(f"user {user} is {role} of team {team}")


@members.command("remove")
def remove_member(team: TeamArgument, user: UserArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Take a user out of a team."""
    path = TEAMS.where(team, "members", user)
    run_with(url, key, lambda gateway: gateway.ask("DELETE", path))
    typer.echo(f"user {user} is no longer in team {team}")
