"""Tenants, teams, users and keys as tables that people like to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hx_gateway.cli.plain_text import plain

Shown = Mapping[str, Any]
Cell = Callable[[Shown], Text]

MAX_CELL_CHARS = 60
MAX_LISTED = 3
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
_SIZES = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))
_LIMITS = (("rpm", "rpm"), ("tpm", "tpm"), ("max_parallel", "parallel"), ("burst", "burst"))
_STATES = {"active": "green", "blocked": "red", "expired": "yellow", "deleted": "dim"}


def print_json(value: object) -> None:
    """Print ``value`` as JSON in one line."""
    typer.echo(json.dumps(value))


def print_list(items: Sequence[Shown], columns: Mapping[str, Cell], *, more: bool) -> None:
    """Print objects as a table, and how many there are."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        # Ids are for copying: they stay whole on narrow terminals.
        shown.add_column(name, no_wrap=name in _IDS, overflow="fold")
    for item in items:
        shown.add_row(*[cell(item) for cell in columns.values()])
    console = Console()
    console.print(shown)
    console.print(f"{len(items)}{'; there are more, see --limit' if more else ''}", style="dim")


def print_object(item: Shown, columns: Mapping[str, Cell]) -> None:
    """Print one object, a field a line: what the list shows, then everything else that is there."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    for name, cell in columns.items():
        shown.add_row(Text(name, "bold"), cell(item))
    for name, value in item.items():
        if name not in columns and name not in _TOLD and value not in (None, [], {}):
            shown.add_row(Text(name, "bold"), Text(plain(value)))
    Console(soft_wrap=True).print(shown)


def field(name: str, style: str = "") -> Cell:
    """Return the cell of a field as it is."""
    return lambda item: Text(short(plain(item.get(name))), style)


def models_cell(item: Shown) -> Text:
    """Return which models an object may use."""
    models = item.get("models")
    if models is None:
        return Text("all", "dim")
    return Text(listed(models)) if models else Text("none", "red")


def tags_cell(item: Shown) -> Text:
    """Return an object's tags."""
    return Text(listed(item.get("tags") or ()), "cyan")


def limits_cell(item: Shown) -> Text:
    """Return an object's limits, in short."""
    return Text(limits_text(item.get("limits") or {}))


def limits_text(limits: Shown) -> str:
    """Return limits as ``60 rpm, 100k tpm``."""
    given = [(limits.get(name), unit) for name, unit in _LIMITS]
    return ", ".join([f"{compact(figure)} {unit}" for figure, unit in given if figure is not None])


def budgets_cell(item: Shown) -> Text:
    """Return what was spent of each budget; red where nothing is left, yellow above the soft threshold."""
    parts: list[Text] = []
    for budget in item.get("budgets") or ():
        spent, limit, soft = budget.get("spent_usd") or 0, budget["limit_usd"], budget.get("soft_usd")
        style = "red" if spent >= limit else "yellow" if soft is not None and spent >= soft else ""
        of_model = f" {plain(budget['model'])}" if budget.get("model") else ""
        parts.append(Text(f"{dollars(spent)} of {dollars(limit)}/{plain(budget['period'])}{of_model}", style))
    return Text(", ").join(parts)


def owner_cell(item: Shown) -> Text:
    """Return whose key it is."""
    owners = [plain(item[name]) for name in ("team_id", "user_id") if item.get(name)]
    return Text(" ".join(owners)) if owners else Text(plain(item.get("tenant_id")), "dim")


def state_cell(item: Shown) -> Text:
    """Return whether an object works."""
    state = state_of(item, datetime.now(UTC))
    return Text(state, _STATES[state])


def state_of(item: Shown, now: datetime) -> str:
    """Return ``active``, or why it is not."""
    if item.get("deleted_at"):
        return "deleted"
    if item.get("blocked"):
        return "blocked"
    expires = item.get("expires_at")
    return "expired" if expires and datetime.fromisoformat(expires) <= now else "active"


def moment_cell(name: str, absent: str = "") -> Cell:
    """Return the cell of a time, told from now."""

    def cell(item: Shown) -> Text:
        value = item.get(name)
        return Text(absent, "dim") if value is None else Text(relative(value, datetime.now(UTC)))

    return cell


def relative(moment: str, now: datetime) -> str:
    """Return a time in ISO 8601 as ``in 29 d`` or ``3 h ago``."""
    seconds = (datetime.fromisoformat(moment) - now).total_seconds()
    for unit, size in _UNITS:
        if abs(seconds) >= size:
            count = f"{int(abs(seconds) // size)} {unit}"
            return f"in {count}" if seconds > 0 else f"{count} ago"
    return "now"


def dollars(amount: float) -> str:
    """Return an amount as ``$1,250``, ``$12.35`` or ``$0.0021``: what is below a cent keeps two digits that count."""
    if amount == int(amount):
        return f"${int(amount):,}"
    if abs(amount) >= 0.01:
        return f"${amount:,.2f}"
    return f"${amount:.2g}" if abs(amount) >= 0.0001 else f"${amount:.9f}".rstrip("0")


def compact(figure: int) -> str:
    """Return a figure as ``950``, ``100k`` or ``1.5M``."""
    for size, unit in _SIZES:
        if figure >= size:
            return f"{figure / size:.4g}{unit}"
    return str(figure)


def listed(values: Iterable[object]) -> str:
    """Return the first of ``values``, and how many more there are."""
    texts = [plain(value) for value in values]
    more = f" +{len(texts) - MAX_LISTED}" if len(texts) > MAX_LISTED else ""
    return short(", ".join(texts[:MAX_LISTED])) + more


def short(text: str, most: int = MAX_CELL_CHARS) -> str:
    """Return the beginning of ``text`` that fits a cell."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


_IDS = frozenset({"id", "owner", "user"})
# Fields that a cell of another name tells.
_TOLD = frozenset({"blocked", "deleted_at", "expires_at", "team_id", "user_id", "created_at", "key"})
