"""What clients ask for is read from paths, queries and bodies, and what cannot be is refused with its name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hx_gateway.errors import HXError, NotFound
from hx_gateway.pipeline.context import Context
from hx_gateway.registry.official.parameters import (
    deleted_parameter,
    limit_parameter,
    listing_of,
    read_object,
    read_query,
    status_of,
)
from hx_gateway.registry.official.paths import ServerPath, Target, read_path
from hx_gateway.registry.official.publishing import StatusChange
from hx_gateway.registry.official.repository import Listing
from tests.unit.pipeline.doubles import context


def asked(query: str) -> Context:
    return replace_query(context("/v0.1/servers"), query)


def replace_query(ctx: Context, query: str) -> Context:
    ctx.query = query.encode()
    return ctx


def listed(query: str) -> Listing:
    return listing_of(read_query(asked(query)))


@pytest.mark.parametrize(
    ("rest", "path"),
    [
        ("io.x/y/versions", ServerPath(Target.VERSIONS, "io.x/y")),
        ("io.x/y/versions/latest", ServerPath(Target.VERSION, "io.x/y", "latest")),
        ("io.x/y/versions/1.0.0+5", ServerPath(Target.VERSION, "io.x/y", "1.0.0+5")),
        ("io.x/y/versions/status", ServerPath(Target.VERSION, "io.x/y", "status")),
        ("io.x/y/versions/1.0.0/status", ServerPath(Target.VERSION_STATUS, "io.x/y", "1.0.0")),
        ("io.x/y/status", ServerPath(Target.STATUS, "io.x/y")),
        ("versions/versions/versions/versions", ServerPath(Target.VERSION, "versions/versions", "versions")),
    ],
)
def test_a_path_names_a_server_and_what_of_it(rest: str, path: ServerPath) -> None:
    assert read_path(rest) == path


@pytest.mark.parametrize("rest", ["io.x", "io.x/y", "io.x/y/", "io.x/y/z/versions", "io.x/y/versions/1/other", "a/b/c"])
def test_another_path_names_nothing(rest: str) -> None:
    with pytest.raises(NotFound):
        read_path(rest)


def test_a_listing_is_read_from_a_query() -> None:
    assert listed("") == Listing()
    assert listed("search=Mail&version=latest&include_deleted=true") == Listing(
        search="Mail", version="latest", include_deleted=True
    )
    assert listed("search=&version=&limit=") == Listing()


@pytest.mark.parametrize("text", ["2026-11-25T12:00:00Z", "2026-11-25T13:00:00%2B01:00", "2026-11-25t13:00:00+01:00"])
def test_whoever_follows_changes_learns_of_deletions(text: str) -> None:
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert listed(f"updated_since={text}") == Listing(updated_since=noon, include_deleted=True)


@pytest.mark.parametrize(
    ("query", "param", "status"),
    [
        ("updated_since=yesterday", "updated_since", 400),
        ("updated_since=2026-11-25", "updated_since", 400),
        ("updated_since=2026-11-25T12:00:00", "updated_since", 400),
        ("updated_since=2026-13-25T12:00:00Z", "updated_since", 400),
        ("updated_since=0001-01-01T00:00:00%2B14:00", "updated_since", 400),
        ("updated_since=2026-11-25T12:00:00Z&include_deleted=false", "include_deleted", 400),
        ("include_deleted=perhaps", "include_deleted", 422),
        ("search=a&search=b", "search", 400),
        ("search=%00", "search", 400),
        (f"search={'s' * 201}", "search", 400),
        (f"version={'1' * 256}", "version", 400),
    ],
)
def test_a_query_that_breaks_a_rule_is_refused(query: str, param: str, status: int) -> None:
    with pytest.raises(HXError) as caught:
        listed(query)
    assert (caught.value.param, caught.value.status) == (param, status)


@pytest.mark.parametrize("text", ["0", "101", "-1", "1.5", "x", "", "9" * 30])
def test_a_limit_is_a_number_in_its_range(text: str) -> None:
    with pytest.raises(HXError) as caught:
        limit_parameter({"limit": text})
    assert (caught.value.param, caught.value.status) == ("limit", 422)


def test_without_a_limit_there_are_thirty() -> None:
    assert (limit_parameter({}), limit_parameter({"limit": "100"})) == (30, 100)
    assert deleted_parameter({}) is None


def test_a_parameter_that_nobody_knows_is_passed_over() -> None:
    assert read_query(asked("featured=true&featured=x&limit=5")) == {"limit": "5"}


async def test_a_body_is_one_strict_object() -> None:
    ctx = context("/v0.1/publish", method="POST", body=b'{"name": "a/b", "n": 1.5}')
    assert await read_object(ctx) == {"name": "a/b", "n": 1.5}
    for body, code in ((b"[]", "not_an_object"), (b"{", "invalid_json"), (b'{"a":1,"a":2}', "duplicate_key")):
        with pytest.raises(HXError) as caught:
            await read_object(context("/v0.1/publish", method="POST", body=body))
        assert (caught.value.status, caught.value.code) == (400, code)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "status"),
        ({"status": "gone"}, "status"),
        ({"status": ["active"]}, "status"),
        ({"status": "deleted", "statusMessage": 5}, "statusMessage"),
        ({"status": "deleted", "reason": "x"}, "reason"),
    ],
)
def test_a_status_that_is_none_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(HXError) as caught:
        status_of(body)
    assert (caught.value.param, caught.value.status) == (param, 400)


@pytest.mark.parametrize(("status", "message"), [("active", "Back."), ("deleted", "m" * 501), ("deleted", "a\0b")])
def test_a_message_that_does_not_fit_is_refused(status: Any, message: str) -> None:
    with pytest.raises(HXError) as caught:
        StatusChange(status, message)
    assert (caught.value.param, caught.value.status) == ("statusMessage", 400)
    assert replace(StatusChange("deleted"), message="m" * 500).message == "m" * 500
