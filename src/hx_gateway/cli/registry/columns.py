"""Services as tables that people like to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hx_gateway.cli.plain_text import plain
from hx_gateway.cli.tables import Cell, Shown, field, moment_cell, print_object, short, tags_cell

DELETED = "deleted"
STATUS_STYLES = {
    "healthy": "green",
    "unhealthy": "red",
    "unknown": "dim",
    "maintenance": "yellow",
    "disabled": "magenta",
    DELETED: "dim strike",
}
_PRIORITY_STYLES = {"critical": "bold red", "high": "yellow", "low": "dim"}
ID_CHARS = 8


def state_of(item: Shown) -> str:
    """Return how a service is, which is ``deleted`` whatever it was then."""
    return DELETED if item.get("is_deleted") else plain(item.get("status"))


def status_cell(item: Shown) -> Text:
    """Return how a service is."""
    state = state_of(item)
    return Text(state, STATUS_STYLES.get(state, ""))


def priority_cell(item: Shown) -> Text:
    """Return how much depends on a service."""
    priority = plain(item.get("priority"))
    return Text(priority, _PRIORITY_STYLES.get(priority, ""))


def endpoint_cell(item: Shown) -> Text:
    """Return where a service is spoken to, or where it is."""
    return Text(short(plain(item.get("endpoint") or item.get("location"))))


def response_cell(item: Shown) -> Text:
    """Return how long a service took to answer."""
    return Text(milliseconds(item.get("response_time_ms")))


def milliseconds(value: float | None) -> str:
    """Return a time as ``12.5 ms`` or ``1.20 s``, empty for ``None``."""
    if value is None:
        return ""
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.3g} ms"


def health_cell(item: Shown) -> Text:
    """Return how often a service was found healthy."""
    good, bad = item["success_count"], item["failure_count"]
    return Text(f"{item['health_score']:.1%}: {good} of {good + bad} probes" if good + bad else "not probed", "")


def ends_cell(name: str) -> Cell:
    """Return the cell of the services at one end of a service's dependencies, by name.

    Those of which nothing but the id is known (they were deleted) are told by its beginning.
    """

    def cell(item: Shown) -> Text:
        living = item.get("expanded", {}).get(name, ())
        known = {end["id"] for end in living}
        ends = [Text(plain(end["name"]), STATUS_STYLES.get(state_of(end), "")) for end in living]
        ends += [Text(f"{plain(end)[:ID_CHARS]}… (deleted)", "dim") for end in item[name] if end not in known]
        return Text(", ").join(ends)

    return cell


def made_cell(item: Shown) -> Text:
    """Return when a service was registered, and by whom."""
    by = item.get("created_by")
    return moment_cell("created_at")(item) + Text(f" by {plain(by)}" if by else "")


def changed_cell(item: Shown) -> Text:
    """Return when a service was changed last, by whom, and how often it was."""
    by = f" by {plain(item['updated_by'])}" if item.get("updated_by") else ""
    return moment_cell("updated_at")(item) + Text(f"{by}; version {item['row_version']}")


LISTED: Mapping[str, Cell] = {
    "name": field("name", "bold"),
    "status": status_cell,
    "priority": priority_cell,
    "protocol": field("protocol"),
    "endpoint": endpoint_cell,
    "version": field("version"),
    "last seen": moment_cell("last_seen", "never"),
    "response": response_cell,
    "tags": tags_cell,
}
_SHOWN: Mapping[str, Cell] = {
    "id": field("id", "bold"),
    **LISTED,
    "health": health_cell,
    "dependencies": ends_cell("dependencies"),
    "dependents": ends_cell("dependents"),
    "registered": made_cell,
    "changed": changed_cell,
}
# What cells of other names tell, and what says nothing beside them.
_TOLD = frozenset({
    "expanded", "endpoint", "last_seen", "response_time_ms", "success_count", "failure_count", "health_score",
    "created_by", "updated_at", "updated_by", "row_version", "is_deleted", "is_active", "age_seconds",
})  # fmt: skip


def print_service(item: Shown) -> None:
    """Print a service, a field a line."""
    columns = dict(_SHOWN)
    if item.get("is_deleted"):
        columns["deleted"] = moment_cell("deleted_at")
    told = {name: lambda _, cell=cell: cell(item) for name, cell in columns.items()}
    print_object({name: value for name, value in item.items() if name not in _TOLD}, told)


def print_numbers(numbers: Mapping[str, Any]) -> None:
    """Print numbers, those of one enumeration beside each other."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    for name, value in numbers.items():
        label = Text(plain(name).replace("_", " "), "bold")
        if isinstance(value, Mapping):
            parts = [Text(f"{plain(key)} {count}", STATUS_STYLES.get(key, "")) for key, count in value.items()]
            shown.add_row(label, Text(", ").join(parts))
        elif name == "average_response_time_ms":
            shown.add_row(Text("average response time", "bold"), Text(milliseconds(value)))
        else:
            shown.add_row(label, Text(plain(value)))
    Console().print(shown)


CHECKED: Mapping[str, Cell] = {
    "name": field("name"),
    "status": status_cell,
    "response": response_cell,
    "probed": moment_cell("probed_at"),
    "why": field("last_error"),
}
