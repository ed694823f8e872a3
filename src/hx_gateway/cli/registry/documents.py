"""Services in files: what is written there, and the order in which it can be registered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from hx_gateway.db.models.registry_items import ServiceStatus
from hx_gateway.http.bodies import MAX_BODY_BYTES
from hx_gateway.registry.api.schemas import SERVER_OWNED, ServiceCreate
from hx_gateway.registry.repository import MAX_BULK

FIELDS = tuple(ServiceCreate.model_fields)
DECIDED = frozenset({ServiceStatus.MAINTENANCE, ServiceStatus.DISABLED})
# What is sent around the services of a batch.
ENVELOPE_BYTES = 1024
_EMPTY: tuple[object, ...] = (None, [], {})


class UnreadableServices(Exception):
    """A file that has no services; the text says why."""


class Entry(NamedTuple):
    """A service of a file. ``row`` counts from 1; ``body`` is what is sent."""

    row: int
    body: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What it is called, empty where it is not."""
        name = self.body.get("name")
        return name if isinstance(name, str) else ""


def read_json(text: str) -> list[Entry]:
    """Return the services of a JSON document: a list, or an object with one under ``items``.

    What a gateway shows is taken as well: without what only it may set, the ids of dependencies replaced by the names
    that the document has for them, and without what its probes found out. Raises :class:`UnreadableServices`.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableServices(f"it is not JSON: {error}") from None
    items = document.get("items") if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise UnreadableServices('it must be a list of services, or an object with one under "items"')
    bad = next((row for row, item in enumerate(items, start=1) if not isinstance(item, dict)), None)
    if bad is not None:
        raise UnreadableServices(f"service {bad} is not an object")
    names = {item["id"]: item["name"] for item in items if isinstance(item.get("id"), str) and "name" in item}
    return [Entry(row, _settable(item, names)) for row, item in enumerate(items, start=1)]


def document_of(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a JSON document that :func:`read_json` reads, a service a line: what may be set and is not empty."""
    names = {item["id"]: item["name"] for item in items}
    yield '{"items": [\n'
    for number, item in enumerate(items, start=1):
        living = {**item, "dependencies": [end for end in item["dependencies"] if end in names]}
        body = {name: value for name, value in _settable(living, names).items() if value not in _EMPTY}
        yield f"{json.dumps(body, ensure_ascii=False)}{',' if number < len(items) else ''}\n"
    yield "]}\n"


def lost_dependencies(items: Sequence[Mapping[str, Any]]) -> int:
    """Return how many dependencies on services that were deleted :func:`document_of` leaves out."""
    known = {item["id"] for item in items}
    return sum(end not in known for item in items for end in item["dependencies"])


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """Return services with those first that others among them depend on by name, else as they are.

    Raises :class:`UnreadableServices` where they depend on each other in a circle.
    """
    by_name = {entry.name.lower(): entry for entry in reversed(entries) if entry.name}
    order: TopologicalSorter[int] = TopologicalSorter()
    for entry in entries:
        order.add(entry.row, *[by_name[end].row for end in _ends(entry) if end in by_name])
    try:
        rows = list(order.static_order())
    except CycleError as error:
        called = {entry.row: entry.name for entry in entries}
        circle = " → ".join([called[row] for row in reversed(error.args[1])])
        raise UnreadableServices(f"dependencies go in a circle: {circle}") from None
    by_row = {entry.row: entry for entry in entries}
    return [by_row[row] for row in rows]


def batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yield services in parts that one request may have: at most 500, and so many bytes."""
    batch, size = list[Entry](), ENVELOPE_BYTES
    for entry in entries:
        more = len(json.dumps(entry.body)) + 2
        if batch and (len(batch) == MAX_BULK or size + more > MAX_BODY_BYTES):
            yield batch
            batch, size = [], ENVELOPE_BYTES
        batch.append(entry)
        size += more
    if batch:
        yield batch


def without_ends(entry: Entry, names: frozenset[str]) -> Mapping[str, Any]:
    """Return a service without its dependencies on ``names``, which are lower-case."""
    ends = entry.body.get("dependencies")
    if not isinstance(ends, list) or not names:
        return entry.body
    return {**entry.body, "dependencies": [end for end in ends if str(end).lower() not in names]}


def _settable(item: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    body = {name: value for name, value in item.items() if name not in SERVER_OWNED}
    if "id" in item and item.get("status") not in DECIDED:
        body.pop("status", None)
    ends = body.get("dependencies")
    if isinstance(ends, list):
        body["dependencies"] = [names.get(end, end) if isinstance(end, str) else end for end in ends]
    return body


def _ends(entry: Entry) -> list[str]:
    ends = entry.body.get("dependencies")
    return [end.lower() for end in ends if isinstance(end, str)] if isinstance(ends, list) else []
