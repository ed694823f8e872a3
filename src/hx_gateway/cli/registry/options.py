"""The options that the commands over the registry share."""

from __future__ import annotations

from typing import Annotated

import typer

from hx_gateway.cli.client import EXIT_FAILED, Parameters
from hx_gateway.cli.start import fail

RefArgument = Annotated[str, typer.Argument(metavar="REF", help="The service's name, in whatever case, or its id.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Of a platform admin: the tenant.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OnConflictOption = Annotated[
    str | None,
    typer.Option(
        "--on-conflict", help="Where the name is taken: error, update, or restore, which finds deleted ones too."
    ),
]
DependentsOption = Annotated[
    str | None,
    typer.Option(
        "--dependents",
        help="Where others depend on it: restrict (unless given) refuses, detach takes their dependency away, "
        "force leaves it.",
    ),
]

QueryOption = Annotated[
    str | None, typer.Option("--query", help="Words that each begin one of name, display name, description or tags.")
]
StatusFilter = Annotated[
    list[str] | None,
    typer.Option("--status", help="healthy, unhealthy, unknown, maintenance or disabled; repeatable."),
]
TagFilter = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeatable, see --tags-match.")]
TagsMatchOption = Annotated[
    str | None, typer.Option("--tags-match", help="Services with any (unless given), all or none of the tags.")
]
ProtocolFilter = Annotated[
    list[str] | None, typer.Option("--protocol", help="stdio, http, websocket, tcp or unix_socket; repeatable.")
]
PriorityFilter = Annotated[
    list[str] | None, typer.Option("--priority", help="critical, high, medium or low; repeatable.")
]
BuildTypeFilter = Annotated[
    list[str] | None,
    typer.Option("--build-type", help="fastmcp, stub, external, official, custom or docker; repeatable."),
]
HealthyOption = Annotated[
    bool | None, typer.Option("--healthy/--unhealthy", help="Short for --status healthy, or --status unhealthy.")
]
RequiredFilter = Annotated[
    bool | None, typer.Option("--required/--not-required", help="Required services, or the others.")
]
StaleOption = Annotated[
    str | None, typer.Option("--stale-after", help="Not seen for so long, or never: 30s, 15m, 2h, 7d.")
]
DeletedOption = Annotated[bool, typer.Option("--deleted", help="Deleted ones too.")]
SortOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sort",
        help="name (unless given), created_at, updated_at, build_type, protocol, priority or status; with - backwards; "
        "repeatable, as are commas.",
    ),
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="How many.")]


def filters_of(
    *,
    status: list[str] | None,
    healthy: bool | None,
    tag: list[str] | None,
    required: bool | None,
    deleted: bool,
    **more: str | list[str] | None,
) -> Parameters:
    """Return the parameters of a list."""
    statuses = [*(status or ()), *([] if healthy is None else ["healthy" if healthy else "unhealthy"])]
    several: dict[str, str | list[str] | None] = {"status": statuses, "tags": tag, **more}
    return {
        **{name: several_of(name, value) if isinstance(value, list) else value for name, value in several.items()},
        "required": None if required is None else str(required).lower(),
        "include_deleted": "true" if deleted else None,
    }


def several_of(name: str, values: list[str] | None) -> str | None:
    """Return a parameter with several values, ``None`` without any; commas part them, given here or by the shell."""
    if not values:
        return None
    parts = [part for value in values for part in value.split(",") if part]
    if not parts:
        fail(f"{name}: give a value.", code=EXIT_FAILED)
    return ",".join(parts)
