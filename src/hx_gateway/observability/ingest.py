"""Events out of a body, each by itself: one that is wrong costs no other."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from hx_gateway.errors import BodyTooLarge, HXError, InvalidRequest, Unavailable
from hx_gateway.journal.errors import JournalClosed, JournalRefused
from hx_gateway.observability.fields import InvalidEvent, invalid
from hx_gateway.observability.layer import Accepted, DatabaseIntegrationLayer
from hx_gateway.observability.rows import Row, Rows

MAX_EVENTS = 10_000
DEFAULT_TABLE = "trace_events"
# After so many events others get their turn on the loop.
SLICE_EVENTS = 500
# In a thread: from here on it takes longer than a thread costs.
LARGE_BODY_BYTES = 256 * 1024
# Each further value needs a comma and becomes some 70 bytes of memory. Usual events have one every 30 bytes or so.
MAX_COMMAS = 2_000_000
MAX_LINES = 10 * MAX_EVENTS
MAX_SHOWN_CHARS = 60

# What an event of each table may say: the arguments of the ``write_`` methods.
_MAKERS: Mapping[str, Callable[..., Row]] = {
    "trace_events": Rows.trace_event,
    "routing_decisions": Rows.routing_decision,
    "performance_metrics": Rows.performance_metric,
    "transformation_events": Rows.transformation_event,
}
FIELDS: Mapping[str, frozenset[str]] = {
    table: frozenset(inspect.signature(maker).parameters) - {"self"} for table, maker in _MAKERS.items()
}

# An event as it came: to be decoded, or decoded already.
Item: TypeAlias = Raw | bytes | Any
_ENCODED = frozenset({Raw, bytes})

_LIST = msgspec.json.Decoder(list[Raw])
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_decode = msgspec.json.Decoder().decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_WHITE_SPACE = b" \t\r\n"


class TooManyEvents(BodyTooLarge):
    """A batch of more than :data:`MAX_EVENTS`; nothing of it is kept."""

    code = "too_many_events"


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of a body; ``single`` says that it was one object and no list."""

    items: Sequence[Item]
    single: bool = False

    def __post_init__(self) -> None:
        if len(self.items) > MAX_EVENTS:
            raise TooManyEvents(
                f"The batch has {len(self.items):,} events, over the limit of {MAX_EVENTS:,}: split it."
            )


async def split_json(body: bytes) -> Batch:
    """Return the events of ``{"events": […]}``, of a list, or of one object.

    Numbers that JSON has no form for and halves of characters cost their event only, where a reader that knows them
    can read the body. Raises :class:`~hx_gateway.errors.InvalidRequest` for a body that is no JSON.
    """
    _refuse_dust(body)
    try:
        return _split(body)
    except _UNREADABLE:
        pass
    large = len(body) > LARGE_BODY_BYTES
    return _batch_of(await asyncio.to_thread(_read_leniently, body) if large else _read_leniently(body))


def split_lines(body: bytes) -> Batch:
    """Return the events of JSON lines; blank lines are none. One that cannot be read is decoded, and fails, later."""
    _refuse_dust(body)
    if body.count(b"\n") > MAX_LINES:
        raise TooManyEvents(f"The body has more than {MAX_LINES:,} lines, over any limit of events: split it.")
    return Batch([line for line in body.split(b"\n") if line and not line.isspace()])


async def write_events(layer: DatabaseIntegrationLayer, items: Sequence[Item], tenant_id: str) -> list[Accepted]:
    """Write events of any of the tables for a tenant; return what became of each, in their order.

    Raises ``Unavailable`` where there is no record to write to.
    """
    results: list[Accepted] = [_NOTHING] * len(items)
    for begin in range(0, len(items), SLICE_EVENTS):
        if begin:
            await asyncio.sleep(0)
        groups: dict[str, tuple[list[int], list[Any]]] = {}
        for index, item in enumerate(items[begin : begin + SLICE_EVENTS], begin):
            try:
                table, event = _read_event(item, tenant_id)
            except HXError as error:
                results[index] = Accepted(error=error)
                continue
            indexes, events = groups.get(table) or groups.setdefault(table, ([], []))
            indexes.append(index)
            events.append(event)
        for table, (indexes, events) in groups.items():
            for index, accepted in zip(indexes, await write_table(layer, table, events), strict=True):
                results[index] = accepted
    return results


async def write_table(
    layer: DatabaseIntegrationLayer, table: str, events: Sequence[Mapping[str, Any]]
) -> list[Accepted]:
    """Write events of one table, as :meth:`DatabaseIntegrationLayer.write_many` does, and name every wrong field.

    Raises ``Unavailable`` where there is no record to write to.
    """
    try:
        written = await layer.write_many(table, events)
    except JournalRefused as refusal:
        return [Accepted(error=refusal)] * len(events)
    except JournalClosed as closed:
        raise no_record() from closed
    for index, accepted in enumerate(written):
        if accepted.error is not None and accepted.error.param is None and isinstance(accepted.error, InvalidEvent):
            written[index] = Accepted(error=_blame(events[index], accepted.error))
    return written


def no_record() -> Unavailable:
    """Return the error for a server that keeps no record, or not yet, or not any more."""
    return Unavailable("There is no record here: it needs a database, see PG_URL.")


def _read_event(item: Item, tenant_id: str) -> tuple[str, dict[str, Any]]:
    """Return an event's table and the arguments of its ``write_`` method. Raises what is wrong with it."""
    event = item
    if type(item) in _ENCODED:
        try:
            event = _decode(item)
        except _UNREADABLE:
            event = _decode_leniently(item)
    if type(event) is not dict:
        raise InvalidEvent(f"An event must be an object, not {_kind_of(event)}.")
    if None in event.values():
        event = {name: value for name, value in event.items() if value is not None}
    table = event.pop("table", DEFAULT_TABLE)
    fields = FIELDS.get(table) if isinstance(table, str) else None
    if fields is None:
        raise invalid("table", f"must be one of {', '.join(FIELDS)}, not {_shown(table)}")
    if not fields.issuperset(event):
        unknown = min(event.keys() - fields)
        raise InvalidEvent(f"{_shown(unknown)} is not a field of {table}.", param=unknown[:MAX_SHOWN_CHARS])
    timestamp = event.get("timestamp")
    if timestamp is not None:
        event["timestamp"] = read_time("timestamp", timestamp)
    if event.get("tenant_id", tenant_id) != tenant_id:
        raise invalid("tenant_id", f"is not that of the key, which is {tenant_id!r}: leave it out")
    event["tenant_id"] = tenant_id
    return table, event


def read_time(name: str, value: object) -> datetime:
    """Return an ISO 8601 time. One without a zone is not refused here. Raises :class:`InvalidEvent`."""
    try:
        return datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise invalid(name, f"must be a time in ISO 8601, as 2026-11-24T12:00:00Z, not {_shown(value)}") from None


def _decode_leniently(data: Raw | bytes) -> Any:
    try:
        return _read_leniently(bytes(data))
    except InvalidRequest as error:
        raise InvalidEvent(error.message, code=error.code) from error


def _split(body: bytes) -> Batch:
    """Return the events undecoded."""
    first = body.lstrip(_WHITE_SPACE)[:1]
    if first == b"{":
        fields = _OBJECT.decode(body)
        if "events" not in fields:
            return Batch([body], single=True)
        _check_envelope(fields)
        events = fields["events"]
        if bytes(memoryview(events)[:1]) != b"[":
            raise _no_list(_decode(events))
        return Batch(_LIST.decode(events))
    if first == b"[":
        return Batch(_LIST.decode(body))
    return _batch_of(_decode(body))


def _refuse_dust(body: bytes) -> None:
    """Raise for a body of so many values that they would fill the memory."""
    if len(body) > MAX_COMMAS and body.count(b",") > MAX_COMMAS:
        raise InvalidRequest(f"The body holds more than {MAX_COMMAS:,} values: split it.", code="json_too_complex")


def _read_leniently(body: bytes) -> Any:
    """Return what Python's own reader makes of ``body``: it knows NaN, Infinity and halves of surrogate pairs."""
    try:
        return json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not valid UTF-8 (byte {error.start}).", code="invalid_utf8") from None
    except RecursionError:
        raise InvalidRequest("The body nests lists and objects too deeply.", code="json_too_deep") from None
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None


def _batch_of(value: Any) -> Batch:
    if isinstance(value, list):
        return Batch(value)
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"The body must be an object or a list of events, not {_kind_of(value)}.", code="not_an_object"
        )
    if "events" not in value:
        return Batch([value], single=True)
    _check_envelope(value)
    if not isinstance(value["events"], list):
        raise _no_list(value["events"])
    return Batch(value["events"])


def _check_envelope(fields: Mapping[str, object]) -> None:
    if len(fields) > 1:
        other = min(fields.keys() - {"events"})
        raise InvalidRequest(
            f"{_shown(other)} is not known beside 'events': say it in each event.", param=other[:MAX_SHOWN_CHARS]
        )


def _no_list(value: object) -> InvalidRequest:
    return InvalidRequest(f"events must be a list, not {_kind_of(value)}.", param="events")


def _blame(event: Mapping[str, Any], error: InvalidEvent) -> InvalidEvent:
    """Return the error for the list or object that stands where a plain value belongs."""
    for name, value in event.items():
        if isinstance(value, dict | list) and name not in ("metadata", "alternatives"):
            return invalid(name, f"must be a plain value, not {_kind_of(value)}")
    return error


def _shown(value: object) -> str:
    return repr(value)[:MAX_SHOWN_CHARS]


def _kind_of(value: object) -> str:
    return _KINDS.get(type(value), "something else")


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_NOTHING = Accepted()
