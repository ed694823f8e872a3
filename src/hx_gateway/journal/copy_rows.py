"""Rows in PostgreSQL's binary COPY format: made when an event is accepted, sent as they are when it is committed.

The format is that of the COPY page of PostgreSQL's documentation ("Binary Format"); integers are big-endian. It has
been the same since version 7.4. Rows carry no column names: a table's columns, in order, are part of a record's kind.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from hx_gateway.kit.epochs import from_postgres_us, postgres_us

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"

_COUNT = struct.Struct(">h")
_LENGTH = struct.Struct(">i")
_JSONB_VERSION = 1


class ColumnType(StrEnum):
    """The column types that rows are made of, by their names in PostgreSQL."""

    TIMESTAMPTZ = "timestamptz"
    UUID = "uuid"
    BOOL = "bool"
    TEXT = "text"
    INT2 = "int2"
    INT8 = "int8"
    FLOAT8 = "float8"
    JSONB = "jsonb"


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A table and the columns of its rows. The first is the time by which the table is partitioned, if it is."""

    schema: str
    table: str
    columns: tuple[tuple[str, ColumnType], ...]

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [name for name, _ in self.columns]


def sized(data: bytes) -> bytes:
    """Return a field: its length and its bytes."""
    return _LENGTH.pack(len(data)) + data


def split_rows(payload: bytes) -> Iterator[bytes]:
    """Yield the rows of a payload. Raises ``ValueError`` where it is not made of rows."""
    at, size = 0, len(payload)
    try:
        while at < size:
            began = at
            (count,) = _COUNT.unpack_from(payload, at)
            at += 2
            for _ in range(count):
                (length,) = _LENGTH.unpack_from(payload, at)
                at += 4 + max(0, length)
            if count < 0 or at > size:
                raise ValueError("a row is cut short")
            yield payload[began:at]
    except struct.error as error:
        raise ValueError("a row is cut short") from error


def row_time(row: bytes) -> int:
    """Return the first column of a row, which is a time."""
    return int.from_bytes(row[6:14], "big", signed=True)


def decode_row(row: bytes, form: RowFormat) -> dict[str, Any]:
    """Return a row as names and JSON-ready values. Raises ``ValueError`` for one that is not of this format."""
    try:
        (count,) = _COUNT.unpack_from(row)
        if count != len(form.columns):
            raise ValueError(f"a row has {count} columns, not {len(form.columns)}")
        at, values = 2, {}
        for name, kind in form.columns:
            (length,) = _LENGTH.unpack_from(row, at)
            at += 4
            values[name] = None if length < 0 else _DECODERS[kind](row[at : at + length])
            at += max(0, length)
    except (struct.error, OverflowError, msgspec.DecodeError) as error:
        raise ValueError(f"a row of {form.table} cannot be read: {error}") from error
    return values


def encode_row(values: Mapping[str, Any], form: RowFormat) -> bytes:
    """Return the row of what :func:`decode_row` gave. Raises ``ValueError`` naming the column that does not fit."""
    parts = [_COUNT.pack(len(form.columns))]
    for name, kind in form.columns:
        value = values.get(name)
        try:
            parts.append(NULL if value is None else sized(_ENCODERS[kind](value)))
        except (struct.error, TypeError, AttributeError, OverflowError, ValueError) as error:
            raise ValueError(f"{name}: {value!r:.100} is not a {kind}") from error
    return b"".join(parts)


def _float(data: bytes) -> float | str:
    (value,) = struct.unpack(">d", data)
    return float(value) if math.isfinite(value) else str(value)


_DECODERS: dict[ColumnType, Callable[[bytes], Any]] = {
    ColumnType.TIMESTAMPTZ: lambda data: from_postgres_us(int.from_bytes(data, "big", signed=True)).isoformat(),
    ColumnType.UUID: lambda data: str(UUID(bytes=data)),
    ColumnType.BOOL: lambda data: data != b"\0",
    ColumnType.TEXT: lambda data: data.decode("utf-8", "replace"),
    ColumnType.INT2: lambda data: int.from_bytes(data, "big", signed=True),
    ColumnType.INT8: lambda data: int.from_bytes(data, "big", signed=True),
    ColumnType.FLOAT8: _float,
    ColumnType.JSONB: lambda data: msgspec.json.decode(data[1:]),
}
_ENCODERS: dict[ColumnType, Callable[[Any], bytes]] = {
    ColumnType.TIMESTAMPTZ: lambda value: struct.pack(">q", postgres_us(datetime.fromisoformat(value))),
    ColumnType.UUID: lambda value: UUID(value).bytes,
    ColumnType.BOOL: lambda value: bytes([bool(value)]),
    ColumnType.TEXT: lambda value: value.encode(),
    ColumnType.INT2: lambda value: struct.pack(">h", value),
    ColumnType.INT8: lambda value: struct.pack(">q", value),
    ColumnType.FLOAT8: lambda value: struct.pack(">d", float(value)),
    ColumnType.JSONB: lambda value: bytes([_JSONB_VERSION]) + msgspec.json.encode(value),
}
