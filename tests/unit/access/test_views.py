"""What is shown of objects: money in dollars, times in UTC, and nothing that could be used as a key."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from hx_gateway.access.views import Row, Spent, moment, shown
from hx_gateway.db.models.budgets import BudgetRow
from hx_gateway.db.models.keys import ApiKey
from hx_gateway.db.models.teams import Team
from hx_gateway.db.models.tenants import Tenant
from hx_gateway.db.models.users import User

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
COMMON: dict[str, Any] = {
    "id": "x",
    "name": "one",
    "limits": {},
    "blocked": False,
    "details": {"note": "fine"},
    "tags": [],
    "created_at": NOON,
    "updated_at": NOON,
    "created_by": "admin",
    "updated_by": "admin",
    "version": 1,
}


def key(**more: Any) -> ApiKey:
    plain = {"tenant_id": "acme", "prefix": "sk-hx-x", "last_four": "abcd", "aliases": {}, "scopes": ["models"]}
    return ApiKey(**{**COMMON, **plain, **more})


@pytest.mark.parametrize(
    ("row", "more"),
    [
        (Tenant(**COMMON, time_zone="UTC", model_limits={}), {"time_zone", "model_limits"}),
        (Team(**COMMON, tenant_id="acme"), {"tenant_id"}),
        (User(**COMMON, tenant_id="acme", role="member"), {"tenant_id", "email", "role", "teams"}),
        (
            key(),
            {
                *("tenant_id", "team_id", "user_id", "prefix", "last_four", "aliases", "allowed_routes", "scopes"),
                *("admin_role", "expires_at", "rotates_until", "granted_by", "cache"),
            },
        ),
    ],
)
def test_an_object_has_the_members_of_its_kind(row: Row, more: set[str]) -> None:
    view = shown(row, [], now=NOON)
    common = {name for name in COMMON if name != "details"} | {"metadata", "models", "budgets", "deleted_at"}
    assert set(view) == common | more
    assert view["metadata"] == {"note": "fine"}
    json.dumps(view)


def test_digests_are_not_shown() -> None:
    row = key(digest=b"hush", pepper_id="pp-hush", previous_digest=b"hush", imported_sha256=b"hush")
    assert "hush" not in json.dumps(shown(row, [], now=NOON))


def test_a_rotation_is_shown_while_it_lasts() -> None:
    row = key(previous_expires_at=NOON + timedelta(seconds=1))
    assert shown(row, [], now=NOON)["rotates_until"] == "2026-11-25T12:00:01Z"
    assert shown(row, [], now=NOON + timedelta(seconds=1))["rotates_until"] is None


def test_money_is_in_dollars() -> None:
    row = BudgetRow(id="bg", period="day", limit_nano=1_500_000_001, soft_nano=None)
    budget = shown(key(), [(row, Spent(1, 2, NOON))], now=NOON)["budgets"][0]
    assert budget == {
        "id": "bg",
        "limit_usd": 1.500000001,
        "soft_usd": None,
        "period": "day",
        "spent_usd": 0.000000001,
        "reserved_usd": 0.000000002,
        "resets_at": "2026-11-25T12:00:00Z",
    }


def test_times_are_in_utc() -> None:
    assert moment(datetime(2026, 11, 25, 21, 0, 0, 5, tzinfo=timezone(timedelta(hours=9)))) == (
        "2026-11-25T12:00:00.000005Z"
    )
    assert moment(None) is None
