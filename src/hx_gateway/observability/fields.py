"""Fields of events: checked, repaired where that loses nothing, and encoded as PostgreSQL's COPY takes them.

Text that is used again and again is encoded once: a field is a dictionary from what came to what goes out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from hx_gateway.errors import InvalidRequest
from hx_gateway.journal.copy_rows import NULL, sized
from hx_gateway.kit.epochs import postgres_us

REMEMBERED = 4096
MAX_REMEMBERED_BYTES = 256
MAX_JSON_BYTES = 64 * 1024
MAX_JSON_DEPTH = 64
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_JSONB_VERSION = b"\x01"
_FLOAT = struct.Struct(">id")
_BIG = struct.Struct(">iq")
_encode_json = msgspec.json.Encoder().encode


class InvalidEvent(InvalidRequest):
    """An event that breaks a rule; ``param`` names the field. Nothing of it is kept."""

    code = "invalid_event"


def invalid(field: str, rule: str) -> InvalidEvent:
    """Return the error for ``field``; ``rule`` goes on with its name."""
    return InvalidEvent(f"{field} {rule}.", param=field)


class TextField(dict[Any, bytes]):
    """A text column: ``field[value]`` is the encoded field, or :class:`InvalidEvent`.

    ``repair`` is for text that people read: NUL and lone surrogates, which PostgreSQL cannot store, become U+FFFD. In
    names and ids they are an error: a repaired id would be another one.
    """

    def __init__(self, name: str, most: int, *, required: bool = False, repair: bool = False) -> None:
        super().__init__()
        self._name = name
        self._most = most
        self._required = required
        self._repair = repair
        self._restart()

    def _restart(self) -> None:
        self.clear()
        if not self._required:
            self[None] = NULL

    def __missing__(self, value: Any) -> bytes:
        """Check and encode ``value``; remember it if it is short."""
        if not isinstance(value, str):
            raise invalid(self._name, "is missing" if value is None else f"must be text, not {type(value).__name__}")
        if self._required and not value:
            raise invalid(self._name, "must not be empty")
        if len(value) > self._most:
            raise invalid(self._name, f"has {len(value):,} characters, over the limit of {self._most:,}")
        encoded = self._encoded(value)
        field = sized(encoded)
        if len(encoded) <= MAX_REMEMBERED_BYTES:
            if len(self) >= REMEMBERED:
                self._restart()
            self[value] = field
        return field

    def _encoded(self, value: str) -> bytes:
        if self._repair:
            return repaired(value).encode()
        try:
            encoded = value.encode()
        except UnicodeEncodeError:
            raise invalid(self._name, f"holds half of a surrogate pair: {value!r:.100}") from None
        if b"\0" in encoded:
            raise invalid(self._name, f"holds the character NUL: {value!r:.100}")
        return encoded


def repaired(value: str) -> str:
    """Return ``value`` with U+FFFD for what PostgreSQL's text cannot hold."""
    if "\0" in value:
        value = value.replace("\0", REPLACEMENT)
    try:
        value.encode()
    except UnicodeEncodeError:
        return "".join(REPLACEMENT if "\ud800" <= char <= "\udfff" else char for char in value)
    return value


def encode_number(name: str, value: float | None) -> bytes:
    """Return a nullable number's field. Raises :class:`InvalidEvent` for what is not one, or not finite."""
    if value is None:
        return NULL
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(name, f"must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise invalid(name, f"must be finite, not {number}")
    return _FLOAT.pack(8, number)


def encode_duration(name: str, value: float | None) -> bytes:
    """Return a nullable number of milliseconds' field; it is never below 0."""
    if value is not None and isinstance(value, int | float) and value < 0:
        raise invalid(name, f"must not be below 0, and is {value}")
    return encode_number(name, value)


def encode_size(name: str, value: int | None) -> bytes:
    """Return a nullable number of bytes' field."""
    if value is None:
        return NULL
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise invalid(name, f"must be a whole number of bytes, not {value!r:.50}")
    return _BIG.pack(8, value)


def encode_json(name: str, value: Any) -> bytes:
    """Return a jsonb column's field of ``value``, which JSON must be able to hold: 64 KiB and 64 levels at most."""
    try:
        encoded = _encode_json(value)
    except (TypeError, ValueError, OverflowError, RecursionError, UnicodeEncodeError):
        encoded = _encode_json(_cleaned(name, value, 0))
    if b"null" in encoded or b"\\u0000" in encoded:
        # Among them may be a number that JSON has no form for, or a NUL: PostgreSQL takes neither.
        encoded = _encode_json(_cleaned(name, value, 0))
    if len(encoded) > MAX_JSON_BYTES:
        raise invalid(name, f"is {len(encoded):,} bytes of JSON, over the limit of {MAX_JSON_BYTES:,}")
    if encoded.count(b"[") + encoded.count(b"{") > MAX_JSON_DEPTH:
        _cleaned(name, value, 0)
    return sized(_JSONB_VERSION + encoded)


def _cleaned(name: str, value: Any, depth: int) -> Any:
    """Return ``value`` with its texts repaired. Raises :class:`InvalidEvent` for what JSON cannot hold."""
    if depth > MAX_JSON_DEPTH:
        raise invalid(name, f"is nested more than {MAX_JSON_DEPTH} levels deep")
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise invalid(name, f"holds {value}, which JSON has no form for")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {repaired(str(key)): _cleaned(name, item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(name, item, depth + 1) for item in value]
    try:
        return msgspec.to_builtins(value)
    except TypeError:
        raise invalid(name, f"holds a {type(value).__name__}, which JSON has no form for") from None


def encode_time(name: str, value: object) -> int:
    """Return a time as PostgreSQL keeps it. Raises :class:`InvalidEvent` for one without a zone."""
    if not isinstance(value, datetime):
        raise invalid(name, f"must be a time, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise invalid(name, f"needs a time zone, as in 2026-11-24T12:00:00Z, not {value}")
    return postgres_us(value)
