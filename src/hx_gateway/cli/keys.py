"""``hx-gateway keys``: what lets programs and people in, and how far."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from hx_gateway.cli import access_options as options
from hx_gateway.cli import key_import
from hx_gateway.cli.access_options import cache_of, changes_of, expiry_of, filters_of, limits_of, pairs_of, seconds_of
from hx_gateway.cli.access_requests import Objects, Server
from hx_gateway.cli.client import DEFAULT_URL, KeyOption, UrlOption
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.tables import (
    budgets_cell,
    field,
    limits_cell,
    models_cell,
    moment_cell,
    owner_cell,
    print_json,
    state_cell,
    tags_cell,
)

app = typer.Typer(help="Keys of a running gateway.", no_args_is_help=True)
app.add_typer(key_import.app, name="import")

KEYS = Objects(
    "/v1/keys",
    "key",
    {
        "id": field("id", "bold"),
        "name": field("name"),
        "owner": owner_cell,
        "models": models_cell,
        "limits": limits_cell,
        "budgets": budgets_cell,
        "expires": moment_cell("expires_at", "never"),
        "tags": tags_cell,
        "state": state_cell,
    },
)
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The id of the key, which is not its secret.")]
TeamOption = Annotated[str | None, typer.Option("--team", help="The team it is of.")]
UserOption = Annotated[str | None, typer.Option("--user", help="The user it is of.")]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", help="Until when it works: 12h, 30d, a time in ISO 8601, or never.")
]
AliasOption = Annotated[
    list[str] | None, typer.Option("--alias", help="A name for a model, as fast=gpt-4o-mini; repeatable.")
]
ScopeOption = Annotated[list[str] | None, typer.Option("--scope", help="A right, as models; repeatable.")]
RouteOption = Annotated[
    list[str] | None, typer.Option("--route", help="A path it may take, as '/v1/chat/*'; repeatable.")
]
CacheOption = Annotated[
    str | None,
    typer.Option(
        "--cache", help="Whether the response cache answers: exact, meaning, ask or off; default for the gateway's."
    ),
]
CacheTtlOption = Annotated[str | None, typer.Option("--cache-ttl", help="How long answers are kept, as 10m.")]
CacheScopeOption = Annotated[
    str | None, typer.Option("--cache-scope", help="Who shares them: tenant, team, user or key.")
]
AdminRoleOption = Annotated[
    str | None, typer.Option("--admin-role", help="Makes it an administrator's: tenant_admin or platform_admin.")
]


@app.command()
def create(
    name: options.NameArgument,
    team: TeamOption = None,
    user: UserOption = None,
    tenant: options.TenantOption = None,
    model: options.ModelOption = None,
    rpm: options.RpmOption = None,
    tpm: options.TpmOption = None,
    parallel: options.ParallelOption = None,
    burst: options.BurstOption = None,
    budget: options.BudgetOption = None,
    expires: ExpiresOption = None,
    alias: AliasOption = None,
    scope: ScopeOption = None,
    route: RouteOption = None,
    cache: CacheOption = None,
    cache_ttl: CacheTtlOption = None,
    cache_scope: CacheScopeOption = None,
    admin_role: AdminRoleOption = None,
    tag: options.TagOption = None,
    metadata: options.MetadataOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Make a key and print its secret, which nobody can show again."""
    limits = limits_of(rpm, tpm, parallel, burst)
    body = changes_of(
        name=name,
        model=model,
        budget=budget,
        tag=tag,
        metadata=metadata,
        limits=limits,
        team_id=team,
        user_id=user,
        tenant_id=tenant,
        aliases=pairs_of("--alias", alias),
        scopes=scope or None,
        allowed_routes=route or None,
        admin_role=admin_role,
    )
    made = KEYS.create(Server(url, key), {**body, **expiry_of(expires), **cache_of(cache, cache_ttl, cache_scope)})
    _print_secret(made, url, as_json=as_json)


@app.command("list")
def list_keys(
    team: TeamOption = None,
    user: UserOption = None,
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
    """Print keys, the newest first."""
    filters = filters_of(
        blocked=blocked, tag=tag, deleted=deleted, sort=sort, tenant_id=tenant, team_id=team, user_id=user
    )
    KEYS.list(Server(url, key), filters, limit, as_json=as_json)


@app.command()
def show(
    key_id: KeyArgument, as_json: options.JsonOption = False, url: UrlOption = DEFAULT_URL, key: KeyOption = None
) -> None:
    """Print a key with everything that is known of it, which its secret is not."""
    KEYS.show(Server(url, key), key_id, as_json=as_json)


@app.command()
def update(
    key_id: KeyArgument,
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
    expires: ExpiresOption = None,
    alias: AliasOption = None,
    scope: ScopeOption = None,
    route: RouteOption = None,
    cache: CacheOption = None,
    cache_ttl: CacheTtlOption = None,
    cache_scope: CacheScopeOption = None,
    tag: options.TagOption = None,
    metadata: options.MetadataOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Change what is given; limits that are not named stay as they are, budgets, aliases and tags are replaced."""
    chosen = changes_of(
        name=name,
        model=model,
        any_model=any_model,
        budget=budget,
        no_budgets=no_budgets,
        tag=tag,
        metadata=metadata,
        aliases=pairs_of("--alias", alias),
        scopes=scope or None,
        allowed_routes=route or None,
    )
    limits = limits_of(rpm, tpm, parallel, burst)
    changes = {**chosen, **expiry_of(expires), **cache_of(cache, cache_ttl, cache_scope)}
    KEYS.print(KEYS.update(Server(url, key), key_id, changes, limits, no_limits=no_limits), as_json=as_json)


@app.command()
def rotate(
    key_id: KeyArgument,
    grace: Annotated[str, typer.Option(help="How long the former secret works on: 0s to 7d.")] = "0s",
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Give a key a new secret and print it."""
    body = {"grace_seconds": seconds_of("--grace", grace)}
    _print_secret(KEYS.act(Server(url, key), key_id, "rotate", body), url, as_json=as_json)


@app.command()
def block(key_id: KeyArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Refuse a key from now on."""
    KEYS.say(KEYS.act(Server(url, key), key_id, "block"), "blocked")


@app.command()
def unblock(key_id: KeyArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Let a blocked key in again."""
    KEYS.say(KEYS.act(Server(url, key), key_id, "unblock"), "unblocked")


@app.command()
def delete(key_id: KeyArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Delete a key: it stops working at once. ``restore`` undoes it."""
    KEYS.say(KEYS.act(Server(url, key), key_id, "delete"), "deleted; 'hx-gateway keys restore' undoes it")


@app.command()
def restore(key_id: KeyArgument, url: UrlOption = DEFAULT_URL, key: KeyOption = None) -> None:
    """Restore a key that was deleted, with the secret it had."""
    KEYS.say(KEYS.act(Server(url, key), key_id, "restore"), "restored")


def _print_secret(made: Mapping[str, Any], url: str, *, as_json: bool) -> None:
    """Print the secret alone to standard output, where a script takes it, and what to do with it beside."""
    if as_json:
        print_json(made)
        return
    typer.echo(plain(made["key"]))
    until = made.get("rotates_until")
    former = f"The secret before it works until {plain(until)}.\n" if until else ""
    sys.stderr.write(
        f"\nThe secret of key {plain(made['id'])} ({plain(made['name'])}). Keep it now: it is not shown again.\n"
        f"{former}"
        f"Programs take it with the gateway's address:\n"
        f"  export OPENAI_BASE_URL={url.rstrip('/')}/v1\n"
        f"  export OPENAI_API_KEY=<the line above>\n"
        f"Lost or seen by others: hx-gateway keys rotate {plain(made['id'])}\n"
    )
