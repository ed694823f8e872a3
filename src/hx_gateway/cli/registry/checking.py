"""``hx-gateway registry check``: services are probed now."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer

from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, UrlOption, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.columns import CHECKED
from hx_gateway.cli.registry.requests import PREFIX, SERVICES, Registry, say, where
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import print_json, print_list

POLL_SECONDS = 1.0


def check(
    refs: Annotated[list[str] | None, typer.Argument(metavar="REF", help="Names or ids of services.")] = None,
    status: options.StatusFilter = None,
    tag: options.TagFilter = None,
    level: Annotated[str | None, typer.Option(help="Of one service: l1, it is reached, or l2, it speaks MCP.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="How many seconds to wait for what is found; 0 for not.")] = 60.0,
    tenant: options.TenantOption = None,
    as_json: options.JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Probe services now: those that are named, or all with a status or a tag; leave with 1 where one is not known."""
    filters = {"status": status, "tags": tag}
    chosen = {name: values for name, values in filters.items() if values}
    if bool(refs) == bool(chosen):
        fail("name services, or give --status or --tag.", code=EXIT_FAILED)
    if refs and len(refs) == 1 and wait:
        _check_one(Registry(url, key, tenant), refs[0], level, as_json=as_json)
        return
    if level is not None:
        fail("--level goes with one service that is waited for.", code=EXIT_FAILED)
    selector = {"refs": refs} if refs else {"filter": chosen}

    async def work(gateway: GatewayClient) -> tuple[dict[str, Any], dict[str, Any]]:
        where_asked, ends = {"tenant_id": tenant}, time.monotonic() + wait
        asked = await gateway.ask("POST", f"{SERVICES}/check", where_asked, {"selector": selector})
        while True:
            found = await gateway.ask("GET", f"{PREFIX}/checks/{asked['job']}", where_asked)
            if not found["pending"] or time.monotonic() >= ends:
                return asked, found
            await asyncio.sleep(POLL_SECONDS)

    asked, found = run_with(url, key, work)
    if as_json:
        print_json({**found, "unknown": asked["unknown"]})
    else:
        print_list(found["items"], CHECKED, more=False)
    if asked["unknown"]:
        fail(f"not registered: {', '.join(map(plain, asked['unknown']))}", code=EXIT_FAILED)
    if wait and found["pending"]:
        fail(f"{found['pending']} not probed yet, see GET /checks/{plain(asked['job'])}", code=EXIT_FAILED)


def _check_one(registry: Registry, ref: str, level: str | None, *, as_json: bool) -> None:
    state = registry.ask("POST", where(ref, "check"), {"level": level})
    if as_json:
        print_json(state)
        return
    why = f": {plain(state['last_error'])}" if state["last_error"] else ""
    say({"name": state["name"], "id": state["service_id"]}, f"is {plain(state['status'])}{why}")
