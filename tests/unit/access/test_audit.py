"""The chain of the audit log, and what is kept of an object in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from hx_gateway.access.audit import AuditChain, Chained, Change, difference, masked, recorded

CHAIN = AuditChain(b"k" * 32)
CHANGE = Change(
    tenant_id="acme",
    at=datetime(2026, 11, 25, tzinfo=UTC),
    actor_key="admin",
    actor_user=None,
    action="created",
    object_kind="key",
    object_id="k",
    before=None,
    after='{"a": 1}',
    request_id="req",
)


def chain(length: int) -> list[Chained]:
    """Return entries that follow from each other."""
    entries: list[Chained] = []
    previous = None
    for number in range(1, length + 1):
        change = replace(CHANGE, object_id=str(number))
        entries.append(Chained(number, change, previous, CHAIN.link(change, previous)))
        previous = entries[-1].hash
    return entries


def test_entries_that_follow_from_each_other_are_whole() -> None:
    entries = chain(4)
    assert CHAIN.broken_at(entries) is None
    assert CHAIN.broken_at(entries[2:], entries[1].hash) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": "other"},
        {"at": CHANGE.at + timedelta(microseconds=1)},
        {"actor_key": "other"},
        {"actor_user": "us"},
        {"action": "deleted"},
        {"object_kind": "user"},
        {"object_id": "9"},
        {"before": "{}"},
        {"after": '{"a": 2}'},
        {"after": None},
        {"request_id": "other"},
    ],
)
def test_an_entry_that_was_edited_breaks_the_chain(changes: dict[str, Any]) -> None:
    entries = chain(3)
    entries[1] = replace(entries[1], change=replace(entries[1].change, **changes))
    assert CHAIN.broken_at(entries) == 2


def test_an_entry_that_was_taken_out_or_moved_breaks_the_chain() -> None:
    one, two, three = chain(3)
    assert CHAIN.broken_at([one, three]) == 3
    assert CHAIN.broken_at([two, three]) == 2
    assert CHAIN.broken_at([two, one, three]) == 2


def test_whoever_does_not_have_the_key_cannot_make_a_chain() -> None:
    assert AuditChain(b"x" * 32).broken_at(chain(1)) == 1
    with pytest.raises(ValueError, match="32 bytes"):
        AuditChain(b"short")


def test_a_moment_is_the_same_in_every_zone() -> None:
    elsewhere = replace(CHANGE, at=CHANGE.at.astimezone(timezone(timedelta(hours=9))))
    assert CHAIN.link(elsewhere, None) == CHAIN.link(CHANGE, None)


def test_values_named_like_secrets_are_masked_however_deep() -> None:
    metadata = {
        "note": "fine",
        "Authorization": "x",
        "nested": [{"db_password": {"a": 1}, "apiKey": "x", "fine": [1, None]}],
        "access-token": 7,
    }
    assert masked(metadata) == {
        "note": "fine",
        "Authorization": "***",
        "nested": [{"db_password": "***", "apiKey": "***", "fine": [1, None]}],
        "access-token": "***",
    }


def test_secrets_and_what_moves_by_itself_are_not_recorded() -> None:
    budget = {"id": "bg", "limit_usd": 1.0, "spent_usd": 0.5, "reserved_usd": 0.0, "resets_at": None}
    view = {"id": "k", "key": "sk", "version": 3, "updated_at": "x", "updated_by": "y", "budgets": [budget]}
    kept = recorded({**view, "metadata": {"token": "t"}})
    assert kept == {"id": "k", "budgets": [{"id": "bg", "limit_usd": 1.0}], "metadata": {"token": "***"}}


def test_a_difference_holds_what_differs() -> None:
    assert difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == ({"b": 2}, {"b": 3})
    assert difference({"a": 1}, {"a": 1}) == ({}, {})
