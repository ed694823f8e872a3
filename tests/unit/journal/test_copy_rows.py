"""Rows in PostgreSQL's binary COPY format, made, split and read back."""

from __future__ import annotations

import struct
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.journal.copy_rows import (
    ColumnType,
    RowFormat,
    decode_row,
    encode_row,
    row_time,
    split_rows,
)
from hx_gateway.kit.epochs import POSTGRES_EPOCH, from_postgres_us, postgres_us

FORM = RowFormat("schema", "table", tuple((str(kind), kind) for kind in ColumnType))
# Hypothesis takes its bounds without a zone.
MIN, MAX = datetime(1970, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001
MOMENTS = st.datetimes(MIN, MAX, timezones=st.just(UTC))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
VALUES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "timestamptz": MOMENTS.map(datetime.isoformat),
        "uuid": st.none() | st.uuids().map(str),
        "bool": st.none() | st.booleans(),
        "text": st.none() | st.text(max_size=50),
        "int2": st.none() | st.integers(-(2**15), 2**15 - 1),
        "int8": st.none() | st.integers(-(2**63), 2**63 - 1),
        "float8": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "jsonb": st.none() | JSON.filter(lambda value: value is not None),
    }
)


@given(VALUES)
def test_what_is_encoded_is_decoded_as_it_was(values: dict[str, Any]) -> None:
    assert decode_row(encode_row(values, FORM), FORM) == values


@given(st.lists(VALUES, max_size=5))
def test_rows_are_split_where_they_were_joined(rows: list[dict[str, Any]]) -> None:
    encoded = [encode_row(row, FORM) for row in rows]
    assert list(split_rows(b"".join(encoded))) == encoded


@given(VALUES, st.data())
def test_a_row_cut_anywhere_is_not_a_row(values: dict[str, Any], data: st.DataObject) -> None:
    row = encode_row(values, FORM)
    cut = data.draw(st.integers(1, len(row) - 1))
    with pytest.raises(ValueError, match="cut short"):
        list(split_rows(row + row[:cut]))
    with pytest.raises(ValueError, match=r"."):
        decode_row(row[:cut][:1], FORM)


@given(st.binary(max_size=100))
def test_bytes_of_anything_raise_nothing_else(data: bytes) -> None:
    for read in (lambda: list(split_rows(data)), lambda: decode_row(data, FORM)):
        with suppress(ValueError):
            read()


@given(MOMENTS)
def test_time_is_kept_to_the_microsecond(moment: datetime) -> None:
    assert from_postgres_us(postgres_us(moment)) == moment
    row = encode_row({"timestamptz": moment.isoformat()}, FORM)
    assert row_time(row) == postgres_us(moment)
    assert postgres_us(POSTGRES_EPOCH) == 0


def test_a_value_that_does_not_fit_is_named() -> None:
    for name, value in (("int2", 2**15), ("uuid", "x"), ("text", 5), ("timestamptz", "soon"), ("float8", "many")):
        with pytest.raises(ValueError, match=f"^{name}: "):
            encode_row({name: value}, FORM)


def test_a_float_that_json_has_no_word_for_is_told_as_text() -> None:
    form = RowFormat("schema", "table", (("value", ColumnType.FLOAT8),))
    assert decode_row(struct.pack(">hid", 1, 8, float("nan")), form) == {"value": "nan"}


def test_a_row_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="1 columns, not 8"):
        decode_row(struct.pack(">hi", 1, -1), FORM)
