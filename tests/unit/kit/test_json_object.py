"""Strict JSON: what is accepted is forwarded verbatim, what readers would differ on is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.kit.json_object import JSONObjectError, decode_object, encode_object

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=6)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 2]), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_any_object_is_read_and_its_values_kept_verbatim(
    value: dict[str, Any], ascii_only: bool, indent: int | None, separators: tuple[str, str]
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators).encode()
    members = decode_object(data)
    assert list(members) == list(value)
    assert json.loads(encode_object(members)) == value
    assert all(bytes(raw) in data for raw in members.values())


@given(OBJECTS, TEXT, VALUES, VALUES, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_a_name_that_stands_twice_is_always_found(
    value: dict[str, Any], name: str, first: Any, second: Any, ascii_only: bool, separators: tuple[str, str]
) -> None:
    def dump(part: object) -> str:
        return json.dumps(part, ensure_ascii=ascii_only, separators=separators)

    members = [f"{dump(key)}{separators[1]}{dump(item)}" for key, item in value.items() if key != name]
    members.insert(0, f"{dump(name)}{separators[1]}{dump(first)}")
    members.append(f"{dump(name)}{separators[1]}{dump(second)}")
    with pytest.raises(JSONObjectError) as caught:
        decode_object(("{" + separators[0].join(members) + "}").encode())
    assert caught.value.code == "duplicate_key"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "invalid_json"),
        (b"   ", "invalid_json"),
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b'{"a":1', "invalid_json"),
        (b'{"a":1}}', "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b'{"a":-Infinity}', "invalid_json"),
        (b'{"a":01}', "invalid_json"),
        (b'{"a":"\x00"}', "invalid_json"),
        (b'{"a":1}/*c*/', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b'{"a":"\xff"}', "invalid_utf8"),
        (b'{"a\xc3":1}', "invalid_utf8"),
        (b'{"a":"\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"a":"\\ud83d"}', "lone_surrogate"),
        (b'{"a":1e999}', "number_not_finite"),
        (b'{"a":-1e999}', "number_not_finite"),
        (b'{"a":' + b"9" * 5000 + b"}", "number_not_finite"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":1,"\\u0061":1}', "duplicate_key"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "json_too_deep"),
        (b'{"a":' + b'{"b":' * 100 + b"1" + b"}" * 101, "json_too_deep"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "json_too_deep"),
        (b'{"a":' + b'[ "]", ' * 80 + b"1" + b"]" * 80 + b"}", "json_too_deep"),
        (b'{"a":' + b'["\\\\\\"]",' * 80 + b"1" + b"]" * 80 + b"}", "json_too_deep"),
    ],
)
def test_what_readers_differ_on_is_refused_by_name(data: bytes, code: str) -> None:
    with pytest.raises(JSONObjectError) as caught:
        decode_object(data)
    assert caught.value.code == code


def test_brackets_inside_strings_are_no_levels() -> None:
    decode_object(b'{"a":"' + b"[{" * 500 + b'"}')


def test_sixty_four_levels_are_accepted() -> None:
    decode_object(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")
