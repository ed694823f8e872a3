"""``hx-gateway registry enable, disable, maintenance, heartbeat, report``: how services stand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, UrlOption, run_with
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.registry import options
from hx_gateway.cli.registry.requests import PREFIX, Registry, say, where
from hx_gateway.cli.start import fail
from hx_gateway.registry.probing.beats import MAX_BEATS


def enable(
    ref: options.RefArgument,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Let a service be used again."""
    _act(Registry(url, key, tenant), "POST", where(ref, "enable"))


def disable(
    ref: options.RefArgument,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Let a service not be used, whatever is found out about it."""
    _act(Registry(url, key, tenant), "POST", where(ref, "disable"))


def maintenance(
    ref: options.RefArgument,
    end: Annotated[bool, typer.Option("--end", help="Nobody works on it any more.")] = False,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Say that somebody works on a service: what is found out meanwhile does not change its status."""
    _act(Registry(url, key, tenant), "DELETE" if end else "POST", where(ref, "maintenance"))


def report(
    ref: options.RefArgument,
    status: Annotated[str, typer.Argument(metavar="STATUS", help="healthy, unhealthy, unknown, …")],
    response_time_ms: Annotated[float | None, typer.Option(help="How long it took to answer, in milliseconds.")] = None,
    checked_at: Annotated[str | None, typer.Option(help="When, in ISO 8601 with a zone; now unless given.")] = None,
    failure_class: Annotated[str | None, typer.Option(help="Why it is unhealthy: connect, timeout, crashed, …")] = None,
    message: Annotated[str | None, typer.Option(help="What happened, in a line.")] = None,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Note what was found out about a service, or decided."""
    given: dict[str, Any] = {"status": status, "response_time_ms": response_time_ms, "checked_at": checked_at}
    given |= {"failure_class": failure_class, "message": message}
    body = {name: value for name, value in given.items() if value is not None}
    _act(Registry(url, key, tenant), "PUT", where(ref, "health"), body)


def heartbeat(
    refs: Annotated[list[str], typer.Argument(metavar="REF", help="Names or ids of services.")],
    ttl: Annotated[int | None, typer.Option(help="In how many seconds the next one comes at the latest; 90.")] = None,
    status: Annotated[str | None, typer.Option(help="How they are: healthy or unhealthy.")] = None,
    tenant: options.TenantOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Note signs of life of services; leave with 1 where one is not registered."""

    async def work(gateway: GatewayClient) -> tuple[int, list[str]]:
        noted, unknown = 0, list[str]()
        said = {name: value for name, value in {"ttl_s": ttl, "status": status}.items() if value is not None}
        for start in range(0, len(refs), MAX_BEATS):
            body = {"items": [{"ref": ref, **said} for ref in refs[start : start + MAX_BEATS]]}
            answer = await gateway.ask("POST", f"{PREFIX}/heartbeats", {"tenant_id": tenant}, body)
            noted += answer["updated"]
            unknown += answer["unknown"]
        return noted, unknown

    noted, unknown = run_with(url, key, work)
    typer.echo(f"{noted} noted")
    if unknown:
        fail(f"not registered: {', '.join(map(plain, unknown))}", code=EXIT_FAILED)


def _act(registry: Registry, method: str, path: str, body: dict[str, Any] | None = None) -> None:
    service = registry.ask(method, path, None, body)
    say(service, f"is {plain(service['status'])}{'' if service['is_enabled'] else ', and not to be used'}")
