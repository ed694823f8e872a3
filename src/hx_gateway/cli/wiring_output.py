"""What ``wire`` and ``unwire`` have in common: where they work, and how they print what came of it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.text import Text

from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.start import fail
from hx_gateway.wiring.layout import Layout, LayoutProblem
from hx_gateway.wiring.report import Report, Step

EXIT_FAILED = 1
SERVICE_ACCOUNT = "hx-gateway"
_STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow", "note": "cyan"}


def layout_of(root: Path, base: str) -> Layout:
    """Return the layout, or leave with what is wrong about it."""
    try:
        return Layout(root.absolute(), PurePosixPath(base))
    except LayoutProblem as problem:
        fail(str(problem))


def finish(report: Report, *, as_json: bool, dry_run: bool) -> None:
    """Print ``report`` and leave with 1 where a step failed."""
    if as_json:
        sys.stdout.write(json.dumps({"ok": report.ok, **asdict(report)}, indent=2) + "\n")
    else:
        _print(report, dry_run=dry_run)
    raise SystemExit(0 if report.ok else EXIT_FAILED)


def _print(report: Report, *, dry_run: bool) -> None:
    console = Console(highlight=False)
    if report.diff:
        console.print(Text(report.diff), soft_wrap=True)
    for step in report.steps:
        _print_step(console, step)
    if dry_run:
        console.print("nothing was changed: this was a dry run")
    elif not report.changed:
        console.print("nothing was changed")
    else:
        console.print(f"changed: {len(report.changed)}; hx-gateway wire --restore {report.stamp} takes it back")


def _print_step(console: Console, step: Step) -> None:
    first, *more = step.detail.splitlines() or [""]
    console.print(
        Text.assemble((step.outcome, _STYLES[step.outcome]), f"  {step.name}  {plain(first)}"), soft_wrap=True
    )
    for line in more:
        console.print(Text(f"        {plain(line)}"), soft_wrap=True)
    if step.remedy:
        console.print(Text(f"      → {step.remedy}"), soft_wrap=True)
