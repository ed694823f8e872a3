"""Where the next page begins, as an opaque text that only fits the query it came from."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from hx_gateway.errors import InvalidRequest
from hx_gateway.kit.epochs import from_unix_us, unix_us
from hx_gateway.observability.filters import RecordFilters

# The query's mark, microseconds since 1970, the event's id.
_LAYOUT = struct.Struct(">4sq16s")
_MARK_BYTES = 4
_SHAPE = re.compile(r"[A-Za-z0-9_-]{38}")


@dataclass(frozen=True, slots=True)
class Position:
    """The last record of a page: what comes after it is older, or as old and of a lower id."""

    timestamp: datetime
    event_id: UUID


def encode_cursor(position: Position, filters: RecordFilters) -> str:
    """Return the cursor of ``position`` in what ``filters`` ask for."""
    microseconds = unix_us(position.timestamp)
    packed = _LAYOUT.pack(_mark(filters), microseconds, position.event_id.bytes)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


def decode_cursor(cursor: str, filters: RecordFilters) -> Position:
    """Return the position. Raises :class:`~hx_gateway.errors.InvalidRequest` for a cursor that is not ours.

    One of other filters is refused too (as in https://google.aip.dev/158), for its pages would lack records without
    a word. The window and the limit may change between pages.
    """
    if not isinstance(cursor, str) or _SHAPE.fullmatch(cursor) is None:
        raise _not_ours()
    mark, microseconds, event_id = _LAYOUT.unpack(base64.urlsafe_b64decode(f"{cursor}=="))
    try:
        position = Position(from_unix_us(microseconds), UUID(bytes=event_id))
    except OverflowError:
        raise _not_ours() from None
    if mark != _mark(filters):
        raise InvalidRequest(
            "cursor belongs to a query with other filters: repeat those, or pass none for the first page.",
            param="cursor",
        )
    return position


def _not_ours() -> InvalidRequest:
    return InvalidRequest(
        "cursor is not one that a page came with: pass next_cursor as it is, or none for the first page.",
        param="cursor",
    )


def _mark(filters: RecordFilters) -> bytes:
    """Tell queries apart. No secret: the tenant is bound in the statement, whatever a cursor says."""
    query = (type(filters).__name__, filters.tenant_id, sorted(filters.chosen().items()))
    return blake2b(repr(query).encode(), digest_size=_MARK_BYTES).digest()
