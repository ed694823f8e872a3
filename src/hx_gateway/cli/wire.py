"""``hx-gateway wire``: give LiteLLM and the gateway of a host their stores, a line a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from hx_gateway.cli.start import fail
from hx_gateway.cli.store_variables import given_variables
from hx_gateway.cli.wiring_output import SERVICE_ACCOUNT, finish, layout_of
from hx_gateway.wiring.inputs import (
    POSTGRES_VARIABLES,
    QDRANT_VARIABLES,
    REDIS_VARIABLES,
    InputProblem,
    Stores,
    stores_from,
)
from hx_gateway.wiring.layout import DEFAULT_BASE
from hx_gateway.wiring.plan import CacheUnits, Planner
from hx_gateway.wiring.probes import probe_stores
from hx_gateway.wiring.restoring import plan_restore
from hx_gateway.wiring.run import Run
from hx_gateway.wiring.systemd import Systemd

# What is asked for where neither it nor a whole URL is given, and whether it stays unseen.
QUESTIONS = (
    ("PG_HOST", ("PG_URL", "DATABASE_URL"), False),
    ("PG_PASS", ("PG_URL", "DATABASE_URL"), True),
    ("REDIS_HOST", ("REDIS_URL",), False),
    ("REDIS_PASS", ("REDIS_URL",), True),
    ("QDRANT_URL", (), False),
)


def wire(
    base: Annotated[str, typer.Option(help="The gateway's folder on the host.")] = str(DEFAULT_BASE),
    root: Annotated[
        Path, typer.Option(help="Work on the tree below this folder, as if it were the host's root.")
    ] = Path("/"),
    env_file: Annotated[list[Path] | None, typer.Option(help="Read PG_HOST and the like from this file too.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for what is not given.")] = False,
    cache: Annotated[bool, typer.Option("--cache", help="Give the core unit the drop-in of the cache.")] = False,
    mirror: Annotated[bool, typer.Option("--mirror", help="With --cache: give it to the wrapper too.")] = False,
    account: Annotated[str, typer.Option(help="The services' account; its group reads secrets.")] = SERVICE_ACCOUNT,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="See whether the stores answer.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    restore: Annotated[
        str | None, typer.Option(metavar="STAMP", help="Put back what was there before that run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Wire LiteLLM and the gateway to PostgreSQL, Redis and Qdrant; a second run changes nothing."""
    layout = layout_of(root, base)
    if restore is not None:
        run = Run("restore", layout, Systemd(), dry_run=dry_run)
        report = run.carry_out(lambda: plan_restore(layout, restore))
    else:
        if mirror and not cache:
            fail("--mirror goes with --cache: give both, or none.")
        stores = _stores(env_file or [], ask=ask)
        run = Run("wire", layout, Systemd(), stores, probe_stores if probe else None, dry_run)
        planner = Planner(layout, account)
        report = run.carry_out(lambda: planner.wire(stores, CacheUnits(core=cache, wrapper=mirror)))
    finish(report, as_json=as_json, dry_run=dry_run)


def _stores(env_files: list[Path], *, ask: bool) -> Stores:
    given = given_variables(env_files, (*POSTGRES_VARIABLES, *REDIS_VARIABLES, *QDRANT_VARIABLES))
    if ask:
        given = _asked(given)
    try:
        return stores_from(given)
    except InputProblem as problem:
        fail(*str(problem).splitlines())


def _asked(given: Mapping[str, str]) -> dict[str, str]:
    answers = dict(given)
    for name, instead, unseen in QUESTIONS:
        if not any(answers.get(other) for other in (name, *instead)):
            answers[name] = typer.prompt(name, hide_input=unseen, default="" if unseen else None, show_default=False)
    return answers
