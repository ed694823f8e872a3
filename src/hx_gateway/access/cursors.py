"""Where the next page of a list begins, as an opaque text that only fits the query it came from."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from hx_gateway.access.errors import InvalidField

# As much as the longest name takes, each of its characters escaped.
MAX_CURSOR_CHARS = 2560
_MARK_BYTES = 6
# Microseconds since 1970, of any year with four digits.
_MAX_COUNT = 253_402_300_800_000_000


class _Packed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    mark: str
    value: str | int | None
    id: str
    more: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Position:
    """The last object of a page: its value of what the list is sorted by, and its id.

    ``more`` are those of what it is sorted by where that is the same.
    """

    value: str | int | None
    id: str
    more: tuple[str | int, ...] = ()


def mark_of(*query: object) -> str:
    """Return what tells a query from others. No secret: tenant and rights are bound in the statement anyway."""
    return blake2b(repr(query).encode(), digest_size=_MARK_BYTES).hexdigest()


def encode_cursor(position: Position, mark: str) -> str:
    """Return the cursor of ``position`` in the query that ``mark`` tells from others."""
    packed = msgspec.json.encode(_Packed(mark, position.value, position.id, position.more))
    return base64.urlsafe_b64encode(packed).decode("ascii")


def decode_cursor(
    cursor: str | None, mark: str, value_type: type[str | int], *more: type[str | int]
) -> Position | None:
    """Return the position, with values of these types. Raises :class:`InvalidField` for one of another query, or of
    nobody's.
    """
    if cursor is None:
        return None
    if len(cursor) > MAX_CURSOR_CHARS:
        raise _not_ours()
    try:
        packed = msgspec.json.decode(base64.b64decode(cursor, b"-_", validate=True), type=_Packed)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise _not_ours() from None
    if packed.mark != mark:
        raise InvalidField(
            "cursor belongs to a query with other filters: repeat those, or pass none for the first page.",
            param="cursor",
        )
    fits = packed.value is None or _fits(packed.value, value_type)
    if "\0" in packed.id or not fits or len(packed.more) != len(more) or not all(map(_fits, packed.more, more)):
        raise _not_ours()
    return Position(packed.value, packed.id, packed.more)


def _fits(value: str | int, kind: type[str | int]) -> bool:
    if type(value) is not kind:
        return False
    return 0 <= value < _MAX_COUNT if isinstance(value, int) else "\0" not in value


def _not_ours() -> InvalidField:
    return InvalidField(
        "cursor is not one that a page came with: pass next_cursor as it is, or none for the first page.",
        param="cursor",
    )
