"""``hx-gateway spend``: what calls cost, why one was refused, and what models cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from hx_gateway.cli.access_requests import Server
from hx_gateway.cli.client import DEFAULT_URL, EXIT_FAILED, GatewayClient, KeyOption, Parameters, UrlOption, run_with
from hx_gateway.cli.moments import SinceOption, UntilOption, past_of
from hx_gateway.cli.output_file import whole_file
from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.start import fail
from hx_gateway.cli.tables import print_json, short

BAR_CHARS = 20
GROUP_COLUMNS = ("key_id", "team_id", "user_id", "tenant_id", "model", "day")
LOG_COLUMNS = ("time", "model", "key", "tokens in", "out", "cost $", "status", "ms", "request")
ERROR_COLUMNS = ("time", "status", "code", "model", "key", "request", "message")

app = typer.Typer(help="What calls cost, by whom and why.", no_args_is_help=True)

KeyIdOption = Annotated[str | None, typer.Option("--key-id", help="Of this key.")]
TeamOption = Annotated[str | None, typer.Option("--team", help="Of this team.")]
UserOption = Annotated[str | None, typer.Option("--user", help="Of this user.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Of this model.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Of the platform's admin: one tenant only.")]
StatusOption = Annotated[str | None, typer.Option("--status", help="With this status: 429, or 4xx.")]
LimitOption = Annotated[int, typer.Option(help="How many, newest first.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CsvOption = Annotated[
    Path | None, typer.Option("--csv", help="Write all of it to this file as CSV; - is the terminal.")
]


@app.command()
def logs(
    since: SinceOption = None,
    until: UntilOption = None,
    key_id: KeyIdOption = None,
    team: TeamOption = None,
    user: UserOption = None,
    model: ModelOption = None,
    status: StatusOption = None,
    tag: Annotated[str | None, typer.Option(help="With this tag.")] = None,
    tenant: TenantOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    csv: CsvOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print calls and what they cost, the newest first; those of the last day unless --since says more."""
    query = {**_whose(key_id, team, user, model, tenant), **_window(since, until), "status": status, "limit": limit}
    page = _answer(Server(url, key), "/v1/spend/logs", {**query, "tag": tag}, as_json=as_json, csv=csv)
    if page is not None:
        _print_page(_table(*LOG_COLUMNS, right=("tokens in", "out", "cost $", "ms")), page, _log_cells)


@app.command()
def errors(
    since: SinceOption = None,
    until: UntilOption = None,
    key_id: KeyIdOption = None,
    team: TeamOption = None,
    user: UserOption = None,
    model: ModelOption = None,
    status: StatusOption = None,
    code: Annotated[str | None, typer.Option(help="With this code, as insufficient_quota.")] = None,
    tenant: TenantOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    csv: CsvOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print calls that failed or were refused, the newest first."""
    query = {**_whose(key_id, team, user, model, tenant), **_window(since, until), "status": status, "limit": limit}
    page = _answer(Server(url, key), "/v1/spend/errors", {**query, "code": code}, as_json=as_json, csv=csv)
    if page is not None:
        _print_page(_table(*ERROR_COLUMNS), page, _error_cells)


@app.command()
def summary(
    by: Annotated[str, typer.Option("--by", help="One or two of key, team, user, tenant, model, day.")] = "key",
    start: Annotated[str | None, typer.Option("--from", help="The first day, as 2026-11-01; else 30 days.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The last day; else today.")] = None,
    key_id: KeyIdOption = None,
    team: TeamOption = None,
    user: UserOption = None,
    model: ModelOption = None,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    csv: CsvOption = None,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print what was spent by key, team, user, tenant, model or day, the dearest first."""
    query = {**_whose(key_id, team, user, model, tenant), "group_by": by, "start": start, "end": end}
    found = _answer(Server(url, key), "/v1/spend/summary", query, as_json=as_json, csv=csv)
    if found is None:
        return
    console = Console()
    console.print(_summary_table(found))
    cut = ", the dearest ones" if found["truncated"] else ""
    window = found["window"]
    console.print(f"{len(found['items'])} groups{cut}, {window['start']} to {window['end']}", style="dim")


@app.command()
def decision(
    request_id: str,
    tenant: TenantOption = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print why a request was refused, or where it went and what it cost."""
    path = f"/v1/decisions/{quote(request_id, safe='')}"
    found = run_with(url, key, lambda gateway: gateway.ask("GET", path, {"tenant_id": tenant}))
    if as_json:
        print_json(found)
        return
    root = Tree(Text(plain(request_id), "bold"))
    for call in found["calls"]:
        _add_call(root, call)
    for choice in found["routing"]:
        others = f"  instead of {', '.join(map(plain, choice['alternatives']))}" if choice["alternatives"] else ""
        root.add(Text.assemble(("routed to ", "dim"), plain(choice["selected"]), (others, "dim")))
    Console(soft_wrap=True).print(root)


@app.command()
def estimate(
    model: str,
    prompt: Annotated[str | None, typer.Option(help="The prompt itself.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The output cap of a call with this prompt.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of input, instead of a prompt.")] = None,
    completion_tokens: Annotated[int | None, typer.Option(help="Tokens of output, instead of a prompt.")] = None,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print what a call would cost: a prompt, or counted tokens."""
    given = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
    }
    body = {"model": model, **{name: value for name, value in given.items() if value is not None}}
    found = run_with(url, key, lambda gateway: gateway.ask("POST", "/v1/cost/estimate", body=body))
    if as_json:
        print_json(found)
        return
    shown = _table("", "tokens in", "out", "cost $", right=("tokens in", "out", "cost $"))
    for name, label in (("expected", "expected"), ("upper_bound", "at most")):
        part = found[name]
        shown.add_row(label, f"{part['prompt_tokens']:,}", f"{part['completion_tokens']:,}", _usd(part["cost_usd"]))
    console = Console()
    console.print(shown)
    price = found["price"]
    console.print(f"{_rates(price)} ({plain(price['source'])} {plain(price['version'])})", style="dim")


@app.command()
def prices(
    model: Annotated[str | None, typer.Argument(help="A model; else all prices that were set.")] = None,
    tokens_in: Annotated[str | None, typer.Option("--input", help="Set it: dollars a million tokens of input.")] = None,
    tokens_out: Annotated[str | None, typer.Option("--output", help="And of output.")] = None,
    cached: Annotated[str | None, typer.Option("--cached", help="And of input from the provider's cache.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Take back what was set.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = None,
) -> None:
    """Print prices; set the price of a model, or take it back."""
    given = {
        "input_usd_per_million": tokens_in,
        "output_usd_per_million": tokens_out,
        "cached_input_usd_per_million": cached,
    }
    body = {name: value for name, value in given.items() if value is not None}
    if model is None and (body or delete):
        fail("name the model whose price it is.", code=EXIT_FAILED)
    if body and delete:
        fail("give a price or --delete, not both.", code=EXIT_FAILED)
    path = "/v1/prices" if model is None else f"/v1/prices/{quote(model, safe='/')}"
    method = "DELETE" if delete else "PUT" if body else "GET"
    found = run_with(url, key, lambda gateway: gateway.ask(method, path, body=body or None))
    if as_json:
        print_json(found)
    elif delete:
        typer.echo(f"{plain(model)}: no price is set any more")
    else:
        _print_prices(found["items"] if model is None else [found])


def _whose(
    key_id: str | None, team: str | None, user: str | None, model: str | None, tenant: str | None
) -> dict[str, str | None]:
    return {"key_id": key_id, "team_id": team, "user_id": user, "model": model, "tenant_id": tenant}


def _window(since: str | None, until: str | None) -> dict[str, str | None]:
    return {"start": past_of("--since", since), "end": past_of("--until", until)}


def _answer(server: Server, path: str, query: Parameters, *, as_json: bool, csv: Path | None) -> Any:
    """Return the answer that is to be shown, ``None`` where it was written as CSV or printed as JSON."""
    if csv is not None:
        _download(server, path, query, csv)
        return None
    found = run_with(server.url, server.key, lambda gateway: gateway.ask("GET", path, query))
    if not as_json:
        return found
    print_json(found)
    return None


def _download(server: Server, path: str, query: Parameters, out: Path) -> None:
    """Write all of an answer, whatever its limit, as CSV: to a file, or to the terminal."""
    target = None if str(out) == "-" else out
    with whole_file(target) as file:

        async def work(gateway: GatewayClient) -> None:
            async for chunk in gateway.stream(path, {**query, "limit": None, "format": "csv"}):
                file.write(chunk)

        run_with(server.url, server.key, work)
    if target is not None:
        typer.echo(f"written to {out}")


def _print_page(shown: Table, page: Mapping[str, Any], cells: Callable[[Mapping[str, Any]], list[Text]]) -> None:
    for item in page["items"]:
        shown.add_row(*cells(item))
    console = Console()
    console.print(shown)
    more = "; there are more" if page["next_cursor"] else ""
    console.print(f"{len(page['items'])} since {page['window']['start'][:19]}Z{more}", style="dim")


def _table(*columns: str, right: Iterable[str] = (), footer: bool = False) -> Table:
    shown = Table(box=None, header_style="bold", footer_style="bold", pad_edge=False, show_footer=footer)
    for column in columns:
        shown.add_column(column, justify="right" if column in right else "left")
    return shown


def _log_cells(item: Mapping[str, Any]) -> list[Text]:
    failed = item["status"] >= 400 or item["error_code"] is not None
    tokens_out = _cell(item["completion_tokens"])
    # An estimate is told from what the provider counted.
    out = Text(f"~{tokens_out}") if item["usage_source"] == "estimate" else tokens_out
    took = "" if item["duration_ms"] is None else f"{item['duration_ms']:.0f}"
    return [
        _time(item["admitted_at"]),
        _cell(item["model"]),
        _cell(item["key_id"]),
        _cell(item["prompt_tokens"]),
        out,
        Text(_usd(item["cost_usd"]), "" if item["settled_by"] == "done" else "yellow"),
        Text(plain(item["error_code"] or item["status"]), "red" if failed else "green"),
        Text(took),
        _cell(item["request_id"]),
    ]


def _error_cells(item: Mapping[str, Any]) -> list[Text]:
    names = ("status", "code", "model", "key_id", "request_id", "message")
    return [_time(item["at"]), *[_cell(item[name]) for name in names]]


def _summary_table(found: Mapping[str, Any]) -> Table:
    totals = found["totals"]
    groups = [name for name in GROUP_COLUMNS if found["items"] and name in found["items"][0]]
    sums = ("requests", "errors", "prompt_tokens", "completion_tokens")
    headings = ("cost $", "", "requests", "errors", "tokens in", "out")
    shown = _table(*groups, *headings, right=("cost $", "requests", "errors", "tokens in", "out"), footer=True)
    if groups:
        shown.columns[0].footer = "all"
    for column, text in zip(
        (shown.columns[len(groups)], *shown.columns[len(groups) + 2 :]),
        (_usd(totals["cost_usd"]), *[f"{totals[name]:,}" for name in sums]),
        strict=True,
    ):
        column.footer = text
    for item in found["items"]:
        names = [_cell(item[name]) if item[name] is not None else Text("none", "dim") for name in groups]
        figures = [Text(f"{item[name]:,}", "red" if name == "errors" and item[name] else "") for name in sums]
        shown.add_row(*names, Text(_usd(item["cost_usd"])), _bar(item["cost_usd"], totals["cost_usd"]), *figures)
    return shown


def _bar(part: float, whole: float) -> Text:
    share = part / whole if whole else 0.0
    return Text.assemble(("█" * round(share * BAR_CHARS), "cyan"), f" {share:.0%}")


def _add_call(root: Tree, call: Mapping[str, Any]) -> None:
    style = {"complete": "green", "refused": "yellow"}.get(call["outcome"], "red")
    code = f"  {plain(call['error_code'])}" if call["error_code"] else ""
    branch = root.add(Text.assemble((call["outcome"], style), f"  {call['status']}{code}  ", _time(call["at"])))
    if call["message"]:
        branch.add(Text(plain(call["message"])))
    asked = "" if call["requested_model"] == call["model"] else f" (asked for {plain(call['requested_model'])})"
    branch.add(Text(f"model {plain(call['model'])}{asked}, server {plain(call['upstream']) or 'none'}"))
    if "cost" in call:
        usage, cost = call["usage"], call["cost"]
        tokens = (
            f"{usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out ({plain(usage['usage_source'])})"
        )
        branch.add(Text(f"{tokens}, {call['retries']} retries"))
        branch.add(Text(f"cost ${_usd(cost['cost_usd'])} of ${_usd(cost['reserved_usd'])} reserved"))
    if call.get("price"):
        price = call["price"]
        branch.add(Text(f"price {_rates(price)} ({plain(price['source'])} {plain(price['version'])})", "dim"))
    for name, looked_at in (call["decision"] or {}).items():
        if isinstance(looked_at, list):
            below = branch.add(Text(f"{plain(name)} looked at", "dim"))
            for entry in looked_at:
                below.add(Text(plain(entry)))
        else:
            branch.add(Text(f"{plain(name)} {plain(looked_at)}", "yellow" if name == "refused" else "dim"))


def _print_prices(items: Iterable[Mapping[str, Any]]) -> None:
    right = ("input $/M", "output $/M", "cached $/M")
    shown = _table("model", *right, "source", "version", "by", right=right)
    for item in items:
        rates = [_usd(item[f"{name}_usd_per_million"]) for name in ("input", "output", "cached_input")]
        shown.add_row(
            _cell(item["model"]), *rates, *[_cell(item[name]) for name in ("source", "version", "updated_by")]
        )
    Console().print(shown)


def _rates(price: Mapping[str, Any]) -> str:
    tokens_in, tokens_out = _usd(price["input_usd_per_million"]), _usd(price["output_usd_per_million"])
    return f"${tokens_in} in, ${tokens_out} out for a million tokens"


def _usd(value: float | None) -> str:
    """Return dollars in plain digits: a thousandth of a cent is not 1e-05."""
    return "" if value is None else f"{Decimal(str(value)):,f}"


def _time(text: str) -> Text:
    return Text(text[:19].replace("T", " "), "dim")


def _cell(value: object) -> Text:
    return Text(short(plain(value)))
