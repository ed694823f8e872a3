"""Whom a key stands for, from what its row and its owners' rows say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hx_gateway.access.key_rows import KeyRecord
from hx_gateway.access.key_source import known_key, with_default_rate
from hx_gateway.access.known_key import Standing
from hx_gateway.access.principal import Role, Scope
from hx_gateway.allowances import Allowance, Rate, ScopeKind, ScopeLimits

PLAIN = KeyRecord(
    id="k1",
    tenant_id="tn-1",
    team_id=None,
    user_id=None,
    version=3,
    digest=b"d" * 32,
    pepper_id="pp-1",
    previous_digest=None,
    previous_pepper_id=None,
    previous_expires_at=None,
    imported_sha256=None,
    expires_at=None,
    deleted_by=None,
    blocked_by=None,
    admin_role=None,
    user_role=None,
    memberships={},
    scopes=("models",),
    models=(),
    aliases={},
    allowed_routes=None,
    tags=(),
    allowance=Allowance(tenant_id="tn-1"),
)
BOTH = {"tm-1": "admin", "tm-2": "read_only"}


@pytest.mark.parametrize(
    ("about", "role", "admin_of", "member_of"),
    [
        ({}, Role.MEMBER, set(), set()),
        ({"team_id": "tm-1"}, Role.MEMBER, set(), {"tm-1"}),
        ({"admin_role": "tenant_admin"}, Role.TENANT_ADMIN, set(), set()),
        ({"admin_role": "platform_admin", "user_role": "member"}, Role.PLATFORM_ADMIN, set(), set()),
        ({"user_id": "us-1", "user_role": "tenant_admin"}, Role.TENANT_ADMIN, set(), set()),
        ({"user_id": "us-1", "user_role": "member"}, Role.MEMBER, set(), set()),
        ({"user_role": "member", "memberships": BOTH}, Role.TEAM_ADMIN, {"tm-1"}, {"tm-1", "tm-2"}),
        ({"user_role": "member", "memberships": {"tm-2": "read_only"}}, Role.READ_ONLY, set(), {"tm-2"}),
        ({"user_role": "member", "memberships": BOTH, "team_id": "tm-2"}, Role.READ_ONLY, set(), {"tm-2"}),
        ({"user_role": "member", "memberships": BOTH, "team_id": "tm-1"}, Role.TEAM_ADMIN, {"tm-1"}, {"tm-1"}),
    ],
)
def test_the_role_comes_from_the_key_then_the_user_then_its_teams(
    about: dict[str, Any], role: Role, admin_of: set[str], member_of: set[str]
) -> None:
    principal = known_key(replace(PLAIN, **about)).principal
    assert principal.role is role
    assert principal.admin_teams == admin_of
    assert principal.member_teams == member_of


@pytest.mark.parametrize("admin_role", [None, "tenant_admin", "platform_admin"])
def test_only_a_platform_admin_holds_the_scope_of_admins_whatever_the_row_says(admin_role: str | None) -> None:
    principal = known_key(replace(PLAIN, scopes=("models", "admin", "no-such"), admin_role=admin_role)).principal
    expected = {Scope.MODELS} | ({Scope.ADMIN} if admin_role == "platform_admin" else set())
    assert principal.scopes == expected


@pytest.mark.parametrize("owner", ["key", "user", "team", "tenant"])
def test_a_key_ends_with_any_of_its_owners(owner: str) -> None:
    assert known_key(replace(PLAIN, blocked_by=owner)).standing is Standing.BLOCKED
    assert known_key(replace(PLAIN, deleted_by=owner)).standing is Standing.DELETED
    assert known_key(replace(PLAIN, deleted_by=owner, blocked_by="key")).standing is Standing.DELETED


def test_a_change_of_each_owner_concerns_the_key() -> None:
    known = known_key(replace(PLAIN, user_id="us-1", user_role="member", memberships=BOTH))
    assert set(known.owners) == {
        ("key", "k1"),
        ("tenant", "tn-1"),
        ("user", "us-1"),
        ("team", "tm-1"),
        ("team", "tm-2"),
    }


def test_a_key_without_a_limit_of_requests_gets_the_default_one() -> None:
    own = ScopeLimits(kind=ScopeKind.KEY, id="k", parallel=3)
    team = ScopeLimits(kind=ScopeKind.TEAM, id="tm", requests=Rate(9, 9))
    limited = with_default_rate(Allowance(tenant_id="t", limits=(own, team)), "k", 60)
    assert limited.limits == (ScopeLimits(kind=ScopeKind.KEY, id="k", requests=Rate(60, 60), parallel=3), team)
    assert with_default_rate(Allowance(tenant_id="t"), "k", 60).limits[0].requests == Rate(60, 60)


def test_a_limit_of_its_own_stays_as_it_is() -> None:
    own = Allowance(tenant_id="t", limits=(ScopeLimits(kind=ScopeKind.KEY, id="k", requests=Rate(600, 600)),))
    assert with_default_rate(own, "k", 60) is own
