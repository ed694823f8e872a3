"""Where the next page of calls begins, as an opaque text that only fits the query it came from."""

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

# The query's mark; the window's start and the call's time, microseconds since 1970; the call's id.
_LAYOUT = struct.Struct(">4sqq16s")
_MARK_BYTES = 4
_SHAPE = re.compile(r"[A-Za-z0-9_-]{48}")


@dataclass(frozen=True, slots=True)
class Position:
    """The last call of a page: what comes after it is older, or as old and of a lower id."""

    at: datetime
    call_id: UUID


def encode_cursor(position: Position, start: datetime, mark: object) -> str:
    """Return the cursor of ``position`` in the query that ``mark`` tells from others, whose window is from ``start``.

    Without the start a window of the last hours would move on between pages, and lose its oldest calls.
    """
    packed = _LAYOUT.pack(_digest(mark), unix_us(start), unix_us(position.at), position.call_id.bytes)
    return base64.urlsafe_b64encode(packed).decode("ascii")


def decode_cursor(cursor: str | None, mark: object) -> tuple[Position | None, datetime | None]:
    """Return the position and the window's start. Raises ``InvalidRequest`` for one of another query, or of nobody's.

    No secret is needed: tenant and rights are bound in the statement, whatever a cursor says.
    """
    if cursor is None:
        return None, None
    if _SHAPE.fullmatch(cursor) is None:
        raise _not_ours()
    digest, start, at, call_id = _LAYOUT.unpack(base64.urlsafe_b64decode(cursor))
    try:
        position, first = Position(from_unix_us(at), UUID(bytes=call_id)), from_unix_us(start)
    except OverflowError:
        raise _not_ours() from None
    if digest != _digest(mark):
        raise InvalidRequest(
            "cursor belongs to a query with other filters: repeat those, or pass none for the first page.",
            param="cursor",
        )
    return position, first


def _not_ours() -> InvalidRequest:
    return InvalidRequest(
        "cursor is not one that a page came with: pass next_cursor as it is, or none for the first page.",
        param="cursor",
    )


def _digest(mark: object) -> bytes:
    return blake2b(repr(mark).encode(), digest_size=_MARK_BYTES).digest()
