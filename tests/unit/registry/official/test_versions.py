"""Versions: which texts are one, and which of several is the latest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.registry.official.versions import is_range, latest_of, rank, version_problem

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "version",
    [
        "1.0.0",
        "0.0.1-alpha",
        "1.0.0-rc.1",
        "1.0.0+build.5",
        "2026-11-25",
        "v1",
        "1.0",
        "1!2.0",
        "snapshot",
        "x86",
        "0.x86",
    ],
)
def test_a_version_need_not_be_a_semantic_one(version: str) -> None:
    assert version_problem(version) is None


@pytest.mark.parametrize(
    "version",
    [
        *(
            "^1.0.0",
            "~1.2",
            ">=1",
            "<=2",
            ">1",
            "<2",
            "=1.0.0",
            ">=1 <2",
            "1.x",
            "1.2.*",
            "*",
            "x",
            "X",
            "v1.x",
            "1.X.0",
        ),
        *("1.0.0 - 2.0.0", "1.0 || 2.0"),
    ],
)
def test_a_range_is_no_version(version: str) -> None:
    assert is_range(version)
    assert version_problem(version) is not None


@pytest.mark.parametrize(
    "version", ["", "latest", "LATEST", "a/b", "a b", "a%2f", "..", ".", "-1", "a;b", "ü", "1\n", "a?b"]
)
def test_what_no_path_could_name_is_no_version(version: str) -> None:
    assert version_problem(version) is not None


def test_semantic_versions_are_ordered_by_their_numbers_and_releases_last() -> None:
    ascending = ["0.9.9", "1.0.0-alpha", "1.0.0-beta", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "10.0.0"]
    mixed = [*ascending[4:], *ascending[:4]]
    assert sorted(mixed, key=lambda version: rank(version, NOON)) == ascending


def test_others_are_ordered_by_when_they_were_published_and_come_before() -> None:
    later = NOON + timedelta(hours=1)
    ranks = [rank("zebra", NOON), rank("2026-11-25", later), rank("0.0.1", NOON - timedelta(days=900))]
    assert all(before < after for before, after in pairwise(ranks))


@pytest.mark.parametrize("version", ["1.0", "1.0.0.0", "v1.0.0", "1.0.0+5", "1.0.0-", "1.0.0-a_b", "1.0.x1"])
def test_what_only_looks_like_a_semantic_version_is_none(version: str) -> None:
    assert rank(version, NOON) < rank("0.0.0-a", NOON - timedelta(days=1))


def test_the_latest_is_not_a_deleted_one_unless_all_are() -> None:
    of = {version: rank(version, NOON) for version in ("1.0.0", "2.0.0")}
    assert latest_of([(of["1.0.0"], False, "a"), (of["2.0.0"], True, "b")]) == "a"
    assert latest_of([(of["1.0.0"], True, "a"), (of["2.0.0"], True, "b")]) == "b"
    assert latest_of([]) is None


@given(st.lists(st.text(max_size=12), min_size=2, max_size=6, unique=True))
def test_any_versions_have_one_order(versions: list[str]) -> None:
    ranks = [rank(version, NOON) for version in versions]
    assert len(set(ranks)) == len(ranks)
    assert all(before < after for before, after in pairwise(sorted(ranks)))
