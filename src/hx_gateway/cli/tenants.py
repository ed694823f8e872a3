"""``hx-gateway tenants``: who shares a gateway without seeing each other."""

from __future__ import annotations

from typing import Annotated

import typer

from hx_gateway.cli import access_options as options
from hx_gateway.cli.access_options import changes_of, filters_of, limits_of
from hx_gateway.cli.access_requests import Objects, Server
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption
from hx_gateway.cli.object_commands import add_show, add_switches
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
    name: options.NameArgument,
    own_id: IdOption = None,
    time_zone: ZoneOption = None,
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
    """Make a tenant. Its budgets may be for one model: ``--budget gpt-4o=100/day``."""
    limits = limits_of(rpm, tpm, parallel, burst)
    body = changes_of(
        name=name, model=model, budget=budget, tag=tag, metadata=metadata, limits=limits, id=own_id, time_zone=time_zone
    )
    TENANTS.print(TENANTS.create(Server(url, key), body), as_json=as_json)


@app.command("list")
def list_tenants(
    blocked: options.BlockedOption = None,
    tag: options.TagFilter = None,
    deleted: options.DeletedOption = False,
    sort: options.SortOption = "-created_at",
    limit: options.LimitOption = 50,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print tenants, the newest first."""
    filters = filters_of(blocked=blocked, tag=tag, deleted=deleted, sort=sort)
    TENANTS.list(Server(url, key), filters, limit, as_json=as_json)


add_show(app, TENANTS)


@app.command()
def update(
    tenant: TenantArgument,
    time_zone: ZoneOption = None,
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
        time_zone=time_zone,
    )
    limits = limits_of(rpm, tpm, parallel, burst)
    TENANTS.print(TENANTS.update(Server(url, key), tenant, chosen, limits, no_limits=no_limits), as_json=as_json)


add_switches(app, TENANTS)
