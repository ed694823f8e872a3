"""Requests that are equal have one identity, whatever way they are written; any other has another."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.cache.identity import LEFT_OUT, MAX_BODY_BYTES, canonical, digest_of, partition_of
from hx_gateway.cache_rules import CacheScope

_SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False) | st.text()
_FINITE = _SCALARS.filter(lambda value: not isinstance(value, float) or abs(value) < 1e300)
VALUES = st.recursive(
    _FINITE, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
BODIES = st.dictionaries(st.text().filter(lambda name: name not in LEFT_OUT), VALUES, max_size=5)


def fields(text: str) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(text.encode(), type=dict[str, msgspec.Raw])


def same(text: str) -> bytes:
    found = canonical(fields(text))
    assert found is not None
    return found


def otherwise(value: Any, dice: random.Random) -> str:
    """Write ``value`` in another of the ways that JSON allows."""
    space = dice.choice(["", " ", "\n\t"])
    if isinstance(value, dict):
        pairs = list(value.items())
        dice.shuffle(pairs)
        inner = ",".join(f"{space}{otherwise(k, dice)}{space}:{space}{otherwise(v, dice)}" for k, v in pairs)
        return f"{{{inner}{space}}}"
    if isinstance(value, list):
        return f"[{space}{','.join(otherwise(item, dice) for item in value)}{space}]"
    if isinstance(value, int) and not isinstance(value, bool):
        return dice.choice([f"{value}", f"{value}.0", f"{value}.00e0", f"{value}e0"])
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return dice.choice([repr(value), str(int(value))])
    return json.dumps(value, ensure_ascii=dice.random() < 0.5)


def plain(value: Any) -> Any:
    """Return what is to be told apart: 1 and 1.0 are one number, true is none."""
    if isinstance(value, dict):
        return {"d": sorted((name, repr(plain(member))) for name, member in value.items())}
    if isinstance(value, list):
        return [plain(member) for member in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


@given(BODIES, st.randoms(use_true_random=False))
def test_equal_requests_are_one_however_they_are_written(body: dict[str, Any], dice: random.Random) -> None:
    assert same(otherwise(body, dice)) == same(json.dumps(body))


@given(BODIES, BODIES)
def test_different_requests_are_two(one: dict[str, Any], other: dict[str, Any]) -> None:
    alike = repr(plain(one)) == repr(plain(other))
    assert (same(json.dumps(one)) == same(json.dumps(other))) is alike


@given(BODIES, st.text().filter(lambda name: name not in LEFT_OUT), VALUES)
def test_one_more_parameter_is_another_request(body: dict[str, Any], name: str, value: Any) -> None:
    if name not in body:
        assert same(json.dumps(body)) != same(json.dumps({**body, name: value}))


@pytest.mark.parametrize("name", ["temperature", "seed", "tools", "response_format", "made_up_parameter", "max_tokens"])
def test_a_parameter_counts_with_its_value(name: str) -> None:
    assert len({same(json.dumps(body)) for body in ({}, {name: None}, {name: 0}, {name: 1}, {name: "1"})}) == 5


@pytest.mark.parametrize("name", sorted(LEFT_OUT))
def test_what_changes_no_answer_does_not_count(name: str) -> None:
    assert same(json.dumps({"messages": [], name: {"a": 1}})) == same('{"messages": []}')


@pytest.mark.parametrize(
    ("one", "other"), [("1", "true"), ("0", "false"), ("null", "0"), ('"1"', "1"), ("0.1", "0.2"), ("[]", "{}")]
)
def test_values_of_different_types_differ(one: str, other: str) -> None:
    assert same(f'{{"a": {one}}}') != same(f'{{"a": {other}}}')


@pytest.mark.parametrize(
    "text",
    [
        '{"messages": [{"role": "user", "content": "one", "content": "other"}]}',
        '{"messages": [{"role": "user", "content": "one", "cont\\u0065nt": "one"}]}',
        r'{"a": {"b": "\"", "b": "\\"}}',
        r'{"a": {"\"": 1, "\"": 1}}',
    ],
)
def test_what_two_readers_would_read_differently_is_not_compared(text: str) -> None:
    assert canonical(fields(text)) is None


def test_escapes_are_not_taken_for_a_key_that_came_twice() -> None:
    assert same(r'{"a": "say \"hi\" \\", "b": ["\\\\\"", "\u0022"]}') == same(
        r'{"b":["\\\\\"","\""],"a":"say \"hi\" \\"}'
    )


def test_a_long_request_is_not_compared() -> None:
    assert canonical(fields(json.dumps({"a": "x" * MAX_BODY_BYTES}))) is None


PARTS = st.sampled_from(["", "a", "b", "ab", "a/b"])


@given(st.tuples(PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS))
def test_no_part_runs_over_into_the_next(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    digests = [digest_of(partition, space, (call,), b"{}") for partition, space, call in (one, other)]
    assert (digests[0] == digests[1]) is (one == other)


def test_a_partition_begins_with_its_tenant_and_is_no_other_s() -> None:
    def of(scope: CacheScope, tenant: str = "acme", team: str | None = "t", user: str | None = "u") -> str:
        return partition_of(scope, tenant_id=tenant, team_id=team, user_id=user, key_id="k")

    found = {of(scope, tenant) for scope in CacheScope for tenant in ("acme", "rival")}
    assert len(found) == 8
    assert {name.partition("/")[0] for name in found} == {"acme", "rival"}
    assert of(CacheScope.TEAM, team=None) == of(CacheScope.USER, user=None) == of(CacheScope.KEY)
