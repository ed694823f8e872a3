"""Heads of responses: nothing that an upstream sends can end a line early."""

from __future__ import annotations

import pytest

from hx_gateway.http.cycle import head_lines


def test_lines_are_what_was_given() -> None:
    fields = [(b"content-type", b"text/plain"), (b"x-ratelimit-limit", b"a\tb \xe9"), (b"empty", b"")]
    assert head_lines(fields) == b"content-type: text/plain\r\nx-ratelimit-limit: a\tb \xe9\r\nempty: \r\n\r\n"


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\x00b", b"\x7f", b"\x1b[31m"])
def test_a_value_holds_no_control_character(value: bytes) -> None:
    with pytest.raises(RuntimeError):
        head_lines([(b"x-request-id", b"1"), (b"x-bad", value)])


@pytest.mark.parametrize("name", [b"x bad", b"x:bad", b"x\r\nbad", b"x\x00", b"caf\xe9", b'"x"'])
def test_a_name_is_a_token(name: bytes) -> None:
    with pytest.raises(RuntimeError):
        head_lines([(name, b"1")])
