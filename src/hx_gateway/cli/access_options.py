"""The options that the commands over tenants, teams, users and keys share, and what they mean to the gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hx_gateway.cli.access_requests import flag
from hx_gateway.cli.client import EXIT_FAILED, Parameters
from hx_gateway.cli.moments import span_of, time_of
from hx_gateway.cli.start import fail

_BUDGET = re.compile(r"(?:(?P<model>.+)=)?\$?(?P<limit>[0-9.]+)(?:/(?P<period>[a-z]+))?(?::\$?(?P<soft>[0-9.]+))?")
PERIODS = ("day", "week", "month", "total")
DEFAULT = "default"
NEVER = "never"

NameArgument = Annotated[str, typer.Argument(help="What people call it.")]
NameOption = Annotated[str | None, typer.Option("--name", help="What people call it.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Of a platform admin: the tenant.")]
ModelOption = Annotated[list[str] | None, typer.Option("--model", help="A model it may use, or a glob; repeatable.")]
AnyModelOption = Annotated[bool, typer.Option("--any-model", help="Let it use every model.")]
RpmOption = Annotated[int | None, typer.Option("--rpm", help="Requests a minute.")]
TpmOption = Annotated[int | None, typer.Option("--tpm", help="Tokens a minute.")]
ParallelOption = Annotated[int | None, typer.Option("--parallel", help="Requests at the same time.")]
BurstOption = Annotated[int | None, typer.Option("--burst", help="Requests that may come at once.")]
NoLimitsOption = Annotated[bool, typer.Option("--no-limits", help="Take its limits away first.")]
BudgetOption = Annotated[
    list[str] | None,
    typer.Option("--budget", help="Dollars, as 10/day, 500/month:400 (told from 400 on) or 25/total; repeatable."),
]
NoBudgetsOption = Annotated[bool, typer.Option("--no-budgets", help="Take its budgets away.")]
TagOption = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeatable.")]
MetadataOption = Annotated[str | None, typer.Option("--metadata", help="Anything, as a JSON object.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LimitOption = Annotated[int, typer.Option("--limit", help="How many.")]
SortOption = Annotated[str, typer.Option("--sort", help="created_at, updated_at or name; with - the last first.")]
DeletedOption = Annotated[bool, typer.Option("--deleted", help="Deleted ones too.")]
BlockedOption = Annotated[bool | None, typer.Option("--blocked/--not-blocked", help="Blocked ones, or the others.")]
TagFilter = Annotated[str | None, typer.Option("--tag", help="Those with a tag.")]


def changes_of(
    *,
    name: str | None = None,
    model: Sequence[str] | None = None,
    any_model: bool = False,
    budget: Sequence[str] | None = None,
    no_budgets: bool = False,
    tag: Sequence[str] | None = None,
    metadata: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the body of a request: what was given, and nothing else."""
    if model and any_model:
        fail("give --model or --any-model.", code=EXIT_FAILED)
    if budget and no_budgets:
        fail("give --budget or --no-budgets.", code=EXIT_FAILED)
    given = {
        "name": name,
        "models": list(model) if model else None,
        "budgets": [] if no_budgets else [budget_of(text) for text in budget] if budget else None,
        "tags": list(tag) if tag else None,
        "metadata": object_of("--metadata", metadata),
        **more,
    }
    body = {field: value for field, value in given.items() if value is not None}
    return {**body, "models": None} if any_model else body


def filters_of(*, blocked: bool | None, tag: str | None, deleted: bool, sort: str, **more: str | None) -> Parameters:
    """Return the parameters of a list."""
    common = {"blocked": flag(blocked), "tag": tag, "include_deleted": flag(deleted or None), "sort": sort}
    return {**more, **common}


def limits_of(
    rpm: int | None = None, tpm: int | None = None, parallel: int | None = None, burst: int | None = None
) -> dict[str, int] | None:
    """Return the limits that were given, ``None`` without any."""
    given = {"rpm": rpm, "tpm": tpm, "max_parallel": parallel, "burst": burst}
    return {name: value for name, value in given.items() if value is not None} or None


def budget_of(text: str) -> dict[str, Any]:
    """Return the budget that ``10/day``, ``500/month:400`` or, of a tenant, ``gpt-4o=100/day`` means."""
    found = _BUDGET.fullmatch(text)
    period = found["period"] or "total" if found else None
    if found is None or period not in PERIODS:
        fail(
            f"--budget {text!r}: write dollars and {', '.join(PERIODS[:-1])} or {PERIODS[-1]}, as 10/day.",
            code=EXIT_FAILED,
        )
    budget = {"limit_usd": found["limit"], "soft_usd": found["soft"], "period": period, "model": found["model"]}
    return {name: value for name, value in budget.items() if value is not None}


def expiry_of(text: str | None) -> dict[str, Any]:
    """Return the fields that ``30d``, a time in ISO 8601 or ``never`` means."""
    if text is None:
        return {}
    if text == NEVER:
        return {"expires_at": None}
    seconds = span_of(text)
    if seconds is not None:
        return {"expires_in": seconds}
    try:
        return {"expires_at": time_of(text)}
    except ValueError:
        fail(f"--expires {text!r}: write 12h, 30d, a time in ISO 8601, or {NEVER}.", code=EXIT_FAILED)


def cache_of(mode: str | None, ttl: str | None, scope: str | None) -> dict[str, Any]:
    """Return the field that says how a key's requests use the response cache; ``default`` takes back what it says."""
    if mode == DEFAULT:
        return {"cache": None}
    seconds = None if ttl is None else seconds_of("--cache-ttl", ttl)
    given = {"mode": mode, "ttl_seconds": seconds, "scope": scope}
    said = {name: value for name, value in given.items() if value is not None}
    return {"cache": said} if said else {}


def seconds_of(option: str, text: str) -> int:
    """Return how long ``90s``, ``15m``, ``12h``, ``30d`` or ``2w`` is."""
    seconds = span_of(text)
    if seconds is None:
        fail(f"{option} {text!r}: write 90s, 15m, 12h, 30d or 2w.", code=EXIT_FAILED)
    return seconds


def pairs_of(option: str, pairs: Sequence[str] | None) -> dict[str, str] | None:
    """Return what ``name=value`` means, each."""
    if not pairs:
        return None
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            fail(f"{option} {pair!r}: write it as name=value.", code=EXIT_FAILED)
        found[name] = value
    return found


def object_of(option: str, text: str | None) -> dict[str, Any] | None:
    """Return the JSON object that ``text`` is."""
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        fail(f"{option} is not JSON: {error}", code=EXIT_FAILED)
    if not isinstance(found, dict):
        fail(f"{option} is not a JSON object.", code=EXIT_FAILED)
    return found
