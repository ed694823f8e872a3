"""``hx-gateway tenants``: who shares a gateway without seeing each other."""

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
    TpmOption,
    changes_of,
    limits_of,
)
from hx_gateway.cli.access_requests import Objects, Server, flag
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption
from hx_gateway.cli.tables import budgets_cell, field, limits_cell, models_cell, moment_cell, state_cell, tags_cell

app = typer.Typer(help="Tenants of a running gateway.", no_args_is_help=True)

TENANTS = Objects(
    "/v1/tenants",
    "tenant",
    {
        "id": field("id", "bold"),
        "name": field("name"),
        "zone": field("time_zone", "dim"),
        "models": models_cell,
        "limits": limits_cell,
        "budgets": budgets_cell,
        "tags": tags_cell,
        "state": state_cell,
        "created": moment_cell("created_at"),
    },
)
TenantArgument = Annotated[str, typer.Argument(help="The id of the tenant.")]
IdOption = Annotated[
    str | None, typer.Option("--id", help="What it is called in requests; one is made up if not given.")
]
ZoneOption = Annotated[str | None, typer.Option("--time-zone", help="Where its days begin, as Europe/Berlin.")]


@app.command()
def create(
    name: NameArgument,
    own_id: IdOption = None,
    time_zone: ZoneOption = None,
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
    """Make a tenant. Its budgets may be for one model: ``--budget gpt-4o=100/day``."""
    body = changes_of(
        name=name,
        model=model,
        budget=budget,
        tag=tag,
        metadata=metadata,
        limits=limits_of(rpm, tpm, parallel, burst),
        id=own_id,
        time_zone=time_zone,
    )
    TENANTS.print(TENANTS.create(Server(url, key), body), as_json=as_json)


@app.command("list")
def list_tenants(
    blocked: BlockedOption = None,
    tag: TagFilter = None,
    deleted: DeletedOption = False,
    sort: SortOption = "-created_at",
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print tenants, the newest first."""
    query = {"blocked": flag(blocked), "tag": tag, "include_deleted": flag(deleted or None), "sort": sort}
    TENANTS.list(Server(url, key), query, limit, as_json=as_json)


@app.command()
def show(
    tenant: TenantArgument, as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, key: KeyOption = None
) -> None:
    """Print a tenant with everything that is known of it."""
    TENANTS.show(Server(url, key), tenant, as_json=as_json)


@app.command()
def update(
    tenant: TenantArgument,
    time_zone: ZoneOption = None,
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
        time_zone=time_zone,
    )
    limits = limits_of(rpm, tpm, parallel, burst)
    TENANTS.print(TENANTS.update(Server(url, key), tenant, chosen, limits, no_limits=no_limits), as_json=as_json)


@app.command()
def delete(tenant: TenantArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Delete a tenant: it stops working at once. ``restore`` undoes it."""
    TENANTS.say(TENANTS.act(Server(url, key), tenant, "delete"), "deleted; 'hx-gateway tenants restore' undoes it")


@app.command()
def restore(tenant: TenantArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Restore a tenant that was deleted."""
    TENANTS.say(TENANTS.act(Server(url, key), tenant, "restore"), "restored")


@app.command()
def block(tenant: TenantArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Refuse everything of a tenant from now on."""
    TENANTS.say(TENANTS.update(Server(url, key), tenant, {"blocked": True}), "blocked")


@app.command()
def unblock(tenant: TenantArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Let a blocked tenant in again."""
    TENANTS.say(TENANTS.update(Server(url, key), tenant, {"blocked": False}), "unblocked")
