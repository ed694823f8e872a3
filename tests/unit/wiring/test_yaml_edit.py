"""Keys of a YAML text are set and deleted in place, and nothing else of it changes."""

from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from copy import deepcopy
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hx_gateway.wiring.yaml_edit import delete_key, get_value, set_value
from hx_gateway.wiring.yaml_tree import YamlProblem
from tests.unit.wiring.yaml_documents import NAMES, documents

PATHS = st.lists(st.sampled_from(NAMES[:6]), min_size=1, max_size=3)
SOME_LEFT_OUT = settings(suppress_health_check=[HealthCheck.filter_too_much])
VALUES = st.sampled_from(("os.environ/DATABASE_URL", "redis", True, False))


def loaded(text: str) -> Any:
    """Return what LiteLLM's own YAML reader makes of ``text``; not a number is equal to itself here."""
    return yaml.safe_load(re.sub(r"(?<![\w.])\.nan(?![\w.])", "7.5", text.removeprefix("\ufeff")))


def with_value(values: Any, path: list[str], value: object) -> Any:
    made = deepcopy(values) if values is not None else {}
    inner = made
    for name in path[:-1]:
        if inner.get(name) is None:
            inner[name] = {}
        inner = inner[name]
    inner[path[-1]] = value
    return made


def without(values: Any, path: list[str]) -> Any:
    made = deepcopy(values)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return made


def blocked(values: Any, path: list[str]) -> bool:
    """Return whether something that is no mapping stands where ``path`` goes through."""
    for name in path[:-1]:
        values = (values or {}).get(name)
        if values is not None and not isinstance(values, dict):
            return True
    return False


def same(one: Any, other: Any) -> bool:
    """Compare; a mapping without keys may be null."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return (
        (one or None) == (other or None)
        if isinstance(one or {}, dict) and isinstance(other or {}, dict)
        else (type(one) is type(other) and one == other)
    )


def is_within(part: str, whole: str) -> bool:
    """Return whether all characters of ``part`` are in ``whole``, in their order."""
    rest = iter(whole)
    return all(char in rest for char in part)


@SOME_LEFT_OUT
@given(documents(), PATHS, VALUES)
def test_what_is_set_is_there_and_everything_else_means_what_it_did(
    text: str, path: list[str], value: str | bool
) -> None:
    before = loaded(text)
    if blocked(before, path):
        with pytest.raises(YamlProblem, match=r"must be a mapping"):
            set_value(text, path, value)
        return
    new = set_value(text, path, value)
    assert same(loaded(new), with_value(before, path, value))
    assert set_value(new, path, value) == new


@SOME_LEFT_OUT
@given(documents(), PATHS, VALUES)
def test_a_new_key_that_is_deleted_again_leaves_the_bytes_there_were(
    text: str, path: list[str], value: str | bool
) -> None:
    try:
        above = get_value(text, path[:-1]) if path[1:] else None
        assume(get_value(text, path) is None)
        assume(not path[1:] or (above is not None and not above.is_null))
        new = set_value(text, path, value)
    except YamlProblem:
        assume(False)
    assert delete_key(new, path) == text


@SOME_LEFT_OUT
@given(documents(), PATHS, VALUES)
def test_a_new_key_only_adds(text: str, path: list[str], value: str | bool) -> None:
    try:
        assume(get_value(text, path) is None)
        new = set_value(text, path, value)
    except YamlProblem:
        assume(False)
    # A null that was written out makes room for the mapping, with the blanks around it.
    nulls = [(found.start(), found.end()) for found in re.finditer(r"[ \t]*(?:null|~)[ \t]*", text)]
    assert any(is_within(text[:start] + text[end:], new) for start, end in [(0, 0), *nulls])


@SOME_LEFT_OUT
@given(documents(), PATHS)
def test_what_is_deleted_is_gone_and_everything_else_means_what_it_did(text: str, path: list[str]) -> None:
    try:
        found = get_value(text, path)
    except YamlProblem:
        found = None
    assume(found is not None)
    # Nothing at all may stand before the mark that ends a document.
    assume("..." not in text or len(path) > 1 or len(loaded(text)) > 1)
    # What comes behind it, as empty lines, could become part of a block of text before it: that is refused.
    with suppress(YamlProblem) if re.search("[|>]", text) else nullcontext():
        new = delete_key(text, path)
        assert same(loaded(new), without(loaded(text), path))


@SOME_LEFT_OUT
@given(documents(), PATHS, VALUES)
def test_a_scalar_is_replaced_where_it_stands(text: str, path: list[str], value: str | bool) -> None:
    try:
        found = get_value(text, path)
    except YamlProblem:
        found = None
    assume(found is not None and found.kind == "scalar" and found.style not in ("|", ">") and found.start < found.end)
    assert found is not None
    new = set_value(text, path, value)
    assert new[: found.start] == text[: found.start]
    assert new.endswith(text[found.end :])


# Layouts by name: text, path, value, what it becomes

SET: dict[str, tuple[str, str, str | bool, str]] = {
    "an empty file": ("", "general_settings.database_url", "x", "general_settings:\n  database_url: x\n"),
    "comments only": ("# head\n", "a", True, "# head\na: true\n"),
    "comments only without a line break": ("# head", "a", True, "# head\na: true"),
    "a new key goes before the comments that follow": (
        "a:\n  b: 1  # one\n\n# next\nc: 2\n",
        "a.d",
        "x",
        "a:\n  b: 1  # one\n  d: x\n\n# next\nc: 2\n",
    ),
    "the file's own indentation is kept": ("a:\n    b: 1\n", "c.d", "x", "a:\n    b: 1\nc:\n    d: x\n"),
    "an empty value": ("a:  # why\nb: 1\n", "a", "x", "a: x  # why\nb: 1\n"),
    "an empty mapping": ("a:  # why\nb: 1\n", "a.c", "x", "a:  # why\n  c: x\nb: 1\n"),
    "a written null": ("a: null  # why\n", "a.c", "x", "a:  # why\n  c: x\n"),
    "a quoted value": ("a: 'old'   # why\n", "a", "x", "a: x   # why\n"),
    "a folded value": ("a: >-\n  old\n  text\nb: 1\n", "a", "x", "a: x\nb: 1\n"),
    "a list": ("a:\n- 1\n- 2\nb: 1\n", "a", "x", "a: x\nb: 1\n"),
    "a flow mapping": ("a: {b: 1, c: [2]}\n", "a.d", "x", "a: {b: 1, c: [2], d: x}\n"),
    "a flow mapping over lines": ("a: {\n  b: 1,  # one\n  }\n", "a.d", "x", "a: {\n  b: 1, d: x,  # one\n  }\n"),
    "an empty flow mapping": ("a: { }\n", "a.d.e", "x", "a: {d: {e: x} }\n"),
    "JSON": ('{"a": {"b": 1}}', "a.b", False, '{"a": {"b": false}}'),
    "windows' line breaks": ("a:\r\n  b: 1\r\n", "a.c", "x", "a:\r\n  b: 1\r\n  c: x\r\n"),
    "no line break at the end": ("a:\n  b: 1", "a.c", "x", "a:\n  b: 1\n  c: x"),
    "text in a block is the last value": (
        "a:\n  b: |\n    text\n\n# c\n",
        "a.c",
        "x",
        "a:\n  b: |\n    text\n\n  c: x\n# c\n",
    ),
    "text without a line break is the last value": ("a: |\n  text", "b", "x", "b: x\na: |\n  text"),
    "an alias": ("a: &x 1\nb: *x\n", "b", "y", "a: &x 1\nb: y\n"),
    "a merged key": ("m: &m {b: 1}\na:\n  <<: *m\n", "a.b", "x", "m: &m {b: 1}\na:\n  <<: *m\n  b: x\n"),
    "a byte order mark": ("\ufeffa: 1\n", "b", "x", "\ufeffa: 1\nb: x\n"),
    "a marker": ("---\na: 1\n...\n", "b", "x", "---\na: 1\nb: x\n...\n"),
}


@pytest.mark.parametrize("name", SET)
def test_set(name: str) -> None:
    text, path, value, expected = SET[name]
    assert set_value(text, path.split("."), value) == expected


DELETED = {
    "a key with its comment": ("a: 1\nb: 2  # two\nc: 3\n", "b", "a: 1\nc: 3\n"),
    "a key with what is below it": ("a:\n  b:\n    - 1\n    - 2\n  c: 3\n", "a.b", "a:\n  c: 3\n"),
    "the only key": ("a:\n  b: 1\nc: 2\n", "a.b", "a:\nc: 2\n"),
    "the last line without a line break": ("a: 1\r\nb: 2", "b", "a: 1"),
    "the first of a flow mapping": ("a: {b: 1, c: 2}\n", "a.b", "a: {c: 2}\n"),
    "the last of a flow mapping": ("a: {b: 1, c: 2}\n", "a.c", "a: {b: 1}\n"),
    "the only one of a flow mapping": ("a: {b: 1,}\n", "a.b", "a: {}\n"),
    "one of a flow mapping over lines": ("a: {b: 1, # one\n  c: 2\n}\n", "a.c", "a: {b: 1 # one\n  \n}\n"),
    "an explicit key": ("? a\n: 1\nb: 2\n", "a", "b: 2\n"),
    "one that is not there": ("a: 1\n", "b.c", "a: 1\n"),
}


@pytest.mark.parametrize("name", DELETED)
def test_delete(name: str) -> None:
    text, path, expected = DELETED[name]
    assert delete_key(text, path.split(".")) == expected


REFUSED = {
    "a tab": ("a:\n\tb: 1\n", "a.b", r"line 2: .*a tab"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "a", r"line 3: the key 'a' is there twice"),
    "two documents": ("a: 1\n---\nb: 1\n", "a", r"line 2: a second document"),
    "a list": ("- 1\n", "a", r"line 1: the file must hold a mapping"),
    "an unclosed quote": ("a: 'x\nb: 1\n", "a", r"line \d: not valid YAML"),
    "an unknown alias": ("a: *x\n", "a", r"line 1: an alias of something"),
    "an alias on the way": ("m: &m {b: 1}\na: *m\n", "a.b", r"line 2: a is an alias"),
    "an anchor on the way": ("a: &m\n  b: 1\nc: *m\n", "a.b", r"line \d: a is used elsewhere too"),
    "an anchor that would go": ("a: &m 1\nc: *m\n", "a", r"line 1: a has an anchor"),
    "a control character": ("a: 1\nb: \x07\n", "a", r"line 2: not valid YAML: a character"),
    "a scalar on the way": ("a: 1\n", "a.b", r"line 1: a must be a mapping"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, path, message = REFUSED[name]
    with pytest.raises(YamlProblem, match=message):
        set_value(text, path.split("."), "x")


def test_a_merged_key_is_not_said_to_be_deleted() -> None:
    with pytest.raises(YamlProblem, match=r"line 3: a\.b may come through a merge"):
        delete_key("m: &m {b: 1}\na:\n  <<: *m\n", ["a", "b"])


def test_a_problem_repeats_no_value() -> None:
    for text in (
        "a: 1\nkey: @hidden-value\n",
        "key: 'hidden-value\n",
        "key: hidden-value: hidden-value\n",
        "k: *hidden-value\n",
    ):
        with pytest.raises(YamlProblem) as raised:
            set_value(text, ["a"], "x")
        assert "hidden-value" not in str(raised.value)
