"""Variables of an environment file are set and removed in place, and nothing else of it changes."""

from __future__ import annotations

import io

import pytest
from dotenv import dotenv_values
from hypothesis import assume, given
from hypothesis import strategies as st

from hx_gateway.wiring.env_file import EnvFileProblem, remove_variable, set_variable, value_of, variables

NAMES = ("PG_URL", "REDIS_URL", "OTHER")
LINES = (
    "PG_URL=old",
    "REDIS_URL='quoted # no comment'",
    'OTHER="two\nPG_URL=not me"',
    "OTHER=goes \\\non",
    "# PG_URL=commented out",
    "; a comment of systemd's",
    "",
    "  PG_URL = spaced  ",
    "export REDIS_URL=exported",
    "no assignment",
    "OTHER=",
)


@st.composite
def files(draw: st.DrawFn) -> str:
    newline = draw(st.sampled_from(("\n", "\r\n")))
    text = "".join(f"{line}\n" for line in draw(st.lists(st.sampled_from(LINES), max_size=6)))
    text = text.replace("\n", newline)
    return text.rstrip("\r\n") if draw(st.booleans()) else text


@given(files(), st.sampled_from(NAMES))
def test_what_is_set_is_there_and_the_others_are_as_they_were(text: str, name: str) -> None:
    new = set_variable(text, name, "postgresql://u:p%40@h/d")
    assert value_of(new, name) == "postgresql://u:p%40@h/d"
    others = [(found.name, found.value) for found in variables(text) if found.name != name]
    assert [(found.name, found.value) for found in variables(new) if found.name != name] == others
    assert set_variable(new, name, "postgresql://u:p%40@h/d") == new


@given(files(), st.sampled_from(NAMES))
def test_a_new_variable_that_is_removed_again_leaves_the_bytes_there_were(text: str, name: str) -> None:
    assume(value_of(text, name) is None)
    assert remove_variable(set_variable(text, name, "x"), name) == text


@given(files(), st.sampled_from(NAMES))
def test_what_is_removed_is_gone_and_the_others_are_as_they_were(text: str, name: str) -> None:
    new = remove_variable(text, name)
    assert value_of(new, name) is None
    assert [found for found in new.splitlines() if found not in text.splitlines()] == []
    others = [(found.name, found.value) for found in variables(text) if found.name != name]
    assert [(found.name, found.value) for found in variables(new)] == others


def test_a_value_is_replaced_where_it_stands() -> None:
    text = "A=1\nPG_URL=\"old\"\nB='2'"
    assert set_variable(text, "PG_URL", "new") == "A=1\nPG_URL=new\nB='2'"


def test_of_several_the_last_one_holds() -> None:
    assert set_variable("A=1\nA=2\n", "A", "3") == "A=1\nA=3\n"
    assert remove_variable("A=1\nB=\nA=2\n", "A") == "B=\n"


def test_what_is_written_is_what_the_gateway_reads() -> None:
    text = set_variable("", "PG_URL", "postgresql://u:a%23b%20%22@h:5432/d?sslmode=require&x=1")
    assert dotenv_values(stream=io.StringIO(text), interpolate=False) == {
        "PG_URL": "postgresql://u:a%23b%20%22@h:5432/d?sslmode=require&x=1"
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nB=goes on\\\n", "line 3: the file does not end with a whole line"),
        ("A=1\nB=goes on\\", "line 2: the file does not end with a whole line"),
        ("# a comment\\\nA=1\n", "line 1: a comment ends with a backslash"),
        ("A=1\n; C:\\", "line 2: a comment ends with a backslash"),
    ],
)
def test_what_would_swallow_a_variable_is_named(text: str, message: str) -> None:
    with pytest.raises(EnvFileProblem, match=message):
        set_variable(text, "PG_URL", "new")


@pytest.mark.parametrize("text", ["A=one\u2028PG_URL=two\n", "A=one\x85PG_URL=two\n", "A=1\n# two \\\\\nB=2\n"])
def test_lines_end_where_systemd_ends_them(text: str) -> None:
    assert value_of(text, "PG_URL") is None
    assert set_variable(text, "PG_URL", "new") == f"{text}PG_URL=new\n"


def test_an_open_quote_is_named_with_its_line_and_without_its_value() -> None:
    with pytest.raises(EnvFileProblem, match="line 2: a quote is not closed") as raised:
        variables("A=1\nB='hidden-value\nC=3\n")
    assert "hidden-value" not in str(raised.value)
