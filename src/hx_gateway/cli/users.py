"""``hx-gateway users``: people, and what they may do."""

from __future__ import annotations

from typing import Annotated

import typer

from hx_gateway.cli.access_options import (
    AnyModelOption,
    BlockedOption,
    BudgetOption,
    BurstOption,
    DeletedOption,
    JsonOption,
    LimitOption,
    MetadataOption,
    ModelOption,
    NameArgument,
    NameOption,
    NoBudgetsOption,
    NoLimitsOption,
    ParallelOption,
    RpmOption,
    SortOption,
    TagFilter,
    TagOption,
    TenantOption,
    TpmOption,
    changes_of,
    limits_of,
)
from hx_gateway.cli.access_requests import Objects, Server, flag
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption
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
    name: NameArgument,
    email: EmailOption = None,
    role: RoleOption = None,
    tenant: TenantOption = None,
    model: ModelOption = None,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    parallel: ParallelOption = None,
    burst: BurstOption = None,
    budget: BudgetOption = None,
    tag: TagOption = None,
    metadata: MetadataOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Make a user."""
    body = changes_of(
        name=name,
        model=model,
        budget=budget,
        tag=tag,
        metadata=metadata,
        limits=limits_of(rpm, tpm, parallel, burst),
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
    blocked: BlockedOption = None,
    tag: TagFilter = None,
    tenant: TenantOption = None,
    deleted: DeletedOption = False,
    sort: SortOption = "-created_at",
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print users, the newest first."""
    filters = {"team_id": team, "email": email, "role": role, "tenant_id": tenant, "blocked": flag(blocked), "tag": tag}
    query = {**filters, "include_deleted": flag(deleted or None), "sort": sort}
    USERS.list(Server(url, key), query, limit, as_json=as_json)


@app.command()
def show(user: UserArgument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Print a user with everything that is known of it."""
    USERS.show(Server(url, key), user, as_json=as_json)


@app.command()
def update(
    user: UserArgument,
    email: EmailOption = None,
    role: RoleOption = None,
    name: NameOption = None,
    model: ModelOption = None,
    any_model: AnyModelOption = False,
    rpm: RpmOption = None,
    tpm: TpmOption = None,
    parallel: ParallelOption = None,
    burst: BurstOption = None,
    no_limits: NoLimitsOption = False,
    budget: BudgetOption = None,
    no_budgets: NoBudgetsOption = False,
    tag: TagOption = None,
    metadata: MetadataOption = None,
    as_json: JsonOption = False,
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


@app.command()
def delete(user: UserArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Delete a user: it stops working at once. ``restore`` undoes it."""
    USERS.say(USERS.act(Server(url, key), user, "delete"), "deleted; 'hx-gateway users restore' undoes it")


@app.command()
def restore(user: UserArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Restore a user that was deleted."""
    USERS.say(USERS.act(Server(url, key), user, "restore"), "restored")


@app.command()
def block(user: UserArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Refuse everything of a user from now on."""
    USERS.say(USERS.update(Server(url, key), user, {"blocked": True}), "blocked")


@app.command()
def unblock(user: UserArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Let a blocked user in again."""
    USERS.say(USERS.update(Server(url, key), user, {"blocked": False}), "unblocked")
