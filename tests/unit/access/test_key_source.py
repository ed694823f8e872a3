"""Whom a key stands for, from what its row and its owners' rows say."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
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
    granted_by=None,
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


def granted(child: dict[str, Any], *grantors: dict[str, Any]) -> KeyRecord:
    """Return a key with those above it, the nearest first."""
    above = [replace(PLAIN, id=f"above-{number}", **about) for number, about in enumerate(grantors)]
    return replace(PLAIN, grantors=tuple(above), **child)


def test_a_key_is_held_to_every_key_above_it() -> None:
    noon = datetime(2027, 1, 1, 12, tzinfo=UTC)
    near = {"models": (("gpt-*",),), "scopes": ("models", "spend:read"), "allowed_routes": ("/v1/*",)}
    far = {"models": (("*-mini",),), "scopes": ("models",), "expires_at": noon, "admin_role": "tenant_admin"}
    known = known_key(granted({"scopes": ("models", "spend:read", "events:read")}, near, far))
    assert known.principal.models == (("gpt-*",), ("*-mini",))
    assert known.principal.scopes == {Scope.MODELS}
    assert known.principal.allowed_routes == (("/v1/*",),)
    assert (known.expires_at, known.principal.expires_at) == (noon, noon)
    assert known.principal.key_id == "k1"


def test_who_is_no_admin_any_more_has_made_no_admins() -> None:
    made: dict[str, Any] = {"admin_role": "platform_admin"}
    for role in Role.PLATFORM_ADMIN, Role.TENANT_ADMIN, Role.MEMBER:
        principal = known_key(granted(made, {"user_id": "us-1", "user_role": role.value})).principal
        assert principal.role is role
        assert (Scope.ADMIN in principal.scopes) is (role is Role.PLATFORM_ADMIN)


@pytest.mark.parametrize(
    ("about", "standing"),
    [
        ({"blocked_by": "key"}, Standing.BLOCKED),
        ({"blocked_by": "user"}, Standing.BLOCKED),
        ({"blocked_by": "key", "deleted_by": "key"}, Standing.BLOCKED),
        ({"deleted_by": "key"}, Standing.ACTIVE),
        ({"deleted_by": "user"}, Standing.ACTIVE),
        ({"blocked_by": "team"}, Standing.ACTIVE),
        ({"blocked_by": "tenant"}, Standing.ACTIVE),
        ({"blocked_by": "membership"}, Standing.ACTIVE),
    ],
)
def test_a_key_ends_with_one_above_it_that_is_suspect_and_outlives_one_that_is_gone(
    about: dict[str, Any], standing: Standing
) -> None:
    plain: dict[str, Any] = {}
    for grantors in ((about,), (plain, about), (about, plain)):
        assert known_key(granted(plain, *grantors)).standing is standing


def test_a_change_of_a_key_above_and_of_its_owners_concerns_the_key() -> None:
    known = known_key(granted({}, {"user_id": "us-1", "team_id": "tm-1"}, {"tenant_id": "tn-2"}))
    assert known.owners == (
        *(("key", "k1"), ("tenant", "tn-1")),
        *(("key", "above-0"), ("user", "us-1"), ("team", "tm-1")),
        *(("key", "above-1"), ("tenant", "tn-2")),
    )


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
