"""``hx-gateway smoke``: ask a running gateway what its users would, a line a check."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, kept_key
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.smoke_checks import Check, SmokeTest, Target
from hx_gateway.cli.start import fail
from hx_gateway.services.upstream.http_client import HttpUpstream

_STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}


def smoke(
    url: Annotated[str, typer.Option(help="The gateway's address.")] = DEFAULT_URL,
    key: Annotated[str | None, typer.Option(help="The admin key (HX_ADMIN_KEY, or the data directory's).")] = None,
    chat_model: Annotated[str, typer.Option(help="A chat model that does as it is told.")] = "hx-chat",
    embedding_model: Annotated[str, typer.Option(help="An embedding model.")] = "emb-premium",
    embedding_length: Annotated[int, typer.Option(help="How many numbers its embeddings have.")] = 384,
    database: Annotated[
        bool, typer.Option("--database/--no-database", help="Ask the admin routes, which need a database.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a running gateway: models, stores, admin routes, an embedding, a chat."""
    found = key or os.environ.get("HX_ADMIN_KEY") or kept_key()
    if found is None:
        fail("no admin key: give --key, set HX_ADMIN_KEY, or set HX_DATA_DIR to the gateway's data directory.")
    target = Target(url.rstrip("/"), found, chat_model, embedding_model, embedding_length, database)
    console = Console(highlight=False)
    checks: list[Check] = []

    def told(check: Check) -> None:
        checks.append(check)
        if not as_json:
            _print(console, check)

    try:
        asyncio.run(_run(target, told))
    except asyncio.CancelledError:
        fail("told to end before the last check.", code=EXIT_FAILED)
    failed = sum(check.outcome == "fail" for check in checks)
    if as_json:
        result = {"url": target.url, "ok": not failed, "checks": [asdict(check) for check in checks]}
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        skipped = sum(check.outcome == "skip" for check in checks)
        console.print(f"{len(checks) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    raise SystemExit(EXIT_FAILED if failed else 0)


async def _run(target: Target, told: Callable[[Check], None]) -> None:
    # Whoever is told to end deletes its key first, as it does on Ctrl-C.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    upstream = HttpUpstream()
    try:
        await SmokeTest(target, upstream, told).run()
    finally:
        await upstream.close()


def _print(console: Console, check: Check) -> None:
    milliseconds = (f"  {check.milliseconds:.0f} ms", "dim")
    console.print(
        Text.assemble((check.outcome, _STYLES[check.outcome]), f"  {plain(check.name)}", milliseconds), soft_wrap=True
    )
    if check.detail:
        console.print(Text(f"      {plain(check.detail)}"), soft_wrap=True)
