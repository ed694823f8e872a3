"""``hx-gateway unwire``: let LiteLLM and the gateway of a host run without their stores again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hx_gateway.cli.start import fail
from hx_gateway.cli.wiring_output import SERVICE_ACCOUNT, finish, layout_of
from hx_gateway.wiring.layout import DEFAULT_BASE
from hx_gateway.wiring.plan import Planner
from hx_gateway.wiring.run import Run
from hx_gateway.wiring.systemd import Systemd


def unwire(
    base: Annotated[str, typer.Option(help="The gateway's folder on the host.")] = str(DEFAULT_BASE),
    root: Annotated[
        Path, typer.Option(help="Work on the tree below this folder, as if it were the host's root.")
    ] = Path("/"),
    account: Annotated[str, typer.Option(help="The services' account; its group reads secrets.")] = SERVICE_ACCOUNT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take away what wire gave: LiteLLM runs without a database, the gateway on its embedded stores."""
    layout = layout_of(root, base)
    for path in (layout.base, layout.config):
        # Unlike the path's own question this one is answered by who may not look, too.
        if not os.path.exists(layout.at(path)):
            fail(f"there is no {str(layout.at(path))!r}: nothing to unwire. Name the gateway's folder with --base.")
    planner = Planner(layout, account)
    run = Run("unwire", layout, Systemd(), dry_run=dry_run)
    finish(run.carry_out(planner.unwire), as_json=as_json, dry_run=dry_run)
