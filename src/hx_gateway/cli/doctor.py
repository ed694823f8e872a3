"""``hx-gateway doctor``: which settings are in force, where they came from, what is wrong, and what to do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hx_gateway import __version__
from hx_gateway.cli.start import read_settings
from hx_gateway.cli.wiring_output import layout_of
from hx_gateway.doctor.examination import examine
from hx_gateway.doctor.findings import Finding, Surroundings
from hx_gateway.doctor.settings import Setting, effective_settings
from hx_gateway.setting_sources import ENV_FILE_VARIABLE
from hx_gateway.wiring.layout import DEFAULT_BASE

EXIT_PROBLEM = 1
_MARKS = {"ok": "[green]ok[/]", "problem": "[bold red]problem[/]", "note": "[yellow]note[/]"}


def doctor(
    env_file: Annotated[list[Path] | None, typer.Option(help="Read settings from this file too.")] = None,
    base: Annotated[str, typer.Option(help="The gateway's folder on the host, where wire works.")] = str(DEFAULT_BASE),
    litellm_python: Annotated[
        Path | None, typer.Option(help="The Python that LiteLLM runs with, else that of its unit.")
    ] = None,
    litellm_config: Annotated[
        Path | None, typer.Option(help="LiteLLM's configuration, else that of its unit, or below --base.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at settings and surroundings; start nothing, change nothing."""
    loaded = read_settings(tuple(env_file or ()))
    named = (Path(part) for part in os.environ.get(ENV_FILE_VARIABLE, "").split(":") if part)
    around = Surroundings(
        settings=loaded.settings,
        env_files=(*(env_file or ()), *named),
        layout=layout_of(Path("/"), base),
        litellm_python=litellm_python,
        litellm_config=litellm_config,
    )
    settings = effective_settings(loaded)
    findings = asyncio.run(examine(loaded, around))
    if as_json:
        result = {
            "version": __version__,
            "settings": [asdict(setting) for setting in settings],
            "findings": [asdict(finding) for finding in findings],
        }
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(settings, findings)
    raise SystemExit(EXIT_PROBLEM if any(finding.state == "problem" for finding in findings) else 0)


def _print(settings: Sequence[Setting], findings: Sequence[Finding]) -> None:
    console = Console(highlight=False)
    table = Table("setting", "value", "from", title=f"HX Gateway {__version__}", title_justify="left")
    for setting in settings:
        table.add_row(setting.variable, escape(setting.value), escape(setting.source))
    console.print(table)
    for finding in findings:
        console.print(f"{_MARKS[finding.state]}  {finding.subject}: {escape(finding.detail)}", soft_wrap=True)
        if finding.remedy:
            console.print(f"         → {escape(finding.remedy)}", soft_wrap=True)
