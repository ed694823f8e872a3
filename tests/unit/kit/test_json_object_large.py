"""Bodies too large to be decoded twice are scanned, and judged exactly as small ones are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.kit import json_object
from hx_gateway.kit.json_object import JSONObjectError, decode_object, encode_object

PADDING = b'"pad":"' + b"x" * json_object.WHOLE_DECODE_BYTES + b'",'
PIECES = [b'"', b"\\", b"[", b"]", b"{", b"}", b"e999", b" 1", b"\xc3\xa9", b"\\u00e9", b":", b",", b"1e308"]


def verdict(data: bytes) -> str:
    try:
        decode_object(data)
    except JSONObjectError as error:
        return error.code
    return "accepted"


def large(data: bytes) -> bytes:
    assert data.startswith(b"{")
    return b"{" + PADDING + data[1:]


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1}',
        b'{ "a" : [ 1 , 2 ] }',
        b'{"a":1e999}',
        b'{"a":[-1E+999]}',
        b'{"a":[0e999]}',
        b'{"a":1e308}',
        b'{"a":2e308}',
        b'{"a":"1e999"}',
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"9" * 300 + b"e50}",
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"a":"' + b"[{" * 500 + b'"}',
        b'{"a":' + b'["\\\\\\"]",' * 80 + b"1" + b"]" * 80 + b"}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\ud83d"}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a\\"b":1,"c":2}',
        b'{"a":1}}',
    ],
)
def test_size_does_not_change_the_verdict(data: bytes) -> None:
    assert verdict(large(data)) == verdict(data)


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_size_does_not_change_the_verdict_on_odd_bytes(pieces: list[bytes]) -> None:
    data = b'{"a":[' + b"".join(pieces) + b"]}"
    # Of two things that are wrong, either may be named.
    assert (verdict(large(data)) == "accepted") is (verdict(data) == "accepted")


def test_the_values_of_a_large_body_stay_verbatim() -> None:
    data = large(b'{"a" : [1.50, "\xc3\xa9"] }')
    assert json.loads(encode_object(decode_object(data))) == json.loads(data)


def test_strings_are_told_from_the_rest_across_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_object, "WINDOW_BYTES", 7)
    assert verdict(large(b'{"a":["' + b'[[[","' * 100 + b'"]}')) == "accepted"
    assert verdict(large(b'{"a":' + b'["[", ' * 64 + b"1" + b"]" * 64 + b"}")) == "json_too_deep"


def test_more_containers_than_any_request_needs_are_refused() -> None:
    data = b'{"a":[' + b"[]," * json_object.MAX_CONTAINERS + b"[]]}"
    assert verdict(data) == "json_too_complex"


def test_a_duplicate_in_a_body_too_large_to_explain_is_still_found() -> None:
    data = b'{"a": 1, "pad": "' + b"x" * json_object.EXPLAIN_BYTES + b'", "a": 2}'
    assert verdict(data) == "duplicate_key"
