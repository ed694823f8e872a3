"""``hx-gateway users``: people, and what they may do."""

from __future__ import annotations

from typing import Annotated

import typer

from hx_gateway.cli import access_options as options
from hx_gateway.cli.access_options import changes_of, filters_of, limits_of
from hx_gateway.cli.access_requests import Objects, Server
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption
from hx_gateway.cli.object_commands import add_show, add_switches
from hx_gateway.cli.tables import budgets_cell, field, limits_cell, models_cell, moment_cell, state_cell, tags_cell

app = typer.Typer(help="Users of a running gateway.", no_args_is_help=True)

USERS = Objects(
    "/v1/users",
    "user",
    {
        "id": field("id", "bold"),
        "name": field("name"),
        "email": field("email"),
        "role": field("role"),
        "models": models_cell,
        "limits": limits_cell,
        "budgets": budgets_cell,
        "tags": tags_cell,
        "state": state_cell,
        "created": moment_cell("created_at"),
    },
)
UserArgument = Annotated[str, typer.Argument(help="The id of the user.")]
EmailOption = Annotated[str | None, typer.Option("--email", help="Where to write to.")]
RoleOption = Annotated[str | None, typer.Option("--role", help="member, tenant_admin or platform_admin.")]


@app.command()
def create(
    name: options.NameArgument,
    email: EmailOption = None,
    role: RoleOption = None,
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
    """Make a user."""
    limits = limits_of(rpm, tpm, parallel, burst)
    body = changes_of(
        name=name,
        model=model,
        budget=budget,
        tag=tag,
        metadata=metadata,
        limits=limits,
        tenant_id=tenant,
        email=email,
        role=role,
    )
    USERS.print(USERS.create(Server(url, key), body), as_json=as_json)


@app.command("list")
def list_users(
    team: Annotated[str | None, typer.Option(help="Those of one team.")] = None,
    email: EmailOption = None,
    role: RoleOption = None,
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
    """Print users, the newest first."""
    filters = filters_of(
        blocked=blocked, tag=tag, deleted=deleted, sort=sort, tenant_id=tenant, team_id=team, email=email, role=role
    )
    USERS.list(Server(url, key), filters, limit, as_json=as_json)


add_show(app, USERS)


@app.command()
def update(
    user: UserArgument,
    email: EmailOption = None,
    role: RoleOption = None,
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
        name=name,
        model=model,
        any_model=any_model,
        budget=budget,
        no_budgets=no_budgets,
        tag=tag,
        metadata=metadata,
        email=email,
        role=role,
    )
    limits = limits_of(rpm, tpm, parallel, burst)
    USERS.print(USERS.update(Server(url, key), user, chosen, limits, no_limits=no_limits), as_json=as_json)


add_switches(app, USERS)
