"""Rights as rules: who is above whom, and which globs and limits lie within others."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hx_gateway.access import grants
from hx_gateway.access.admin_key import ADMIN_PRINCIPAL
from hx_gateway.access.errors import ExceedsGrantor
from hx_gateway.access.grants import Offer, Target
from hx_gateway.access.principal import KeyId, Principal, Role, Scope, TenantId
from hx_gateway.access.resources import ResourceKind
from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.errors import Forbidden

ENDS = datetime(2027, 1, 1, tzinfo=UTC)
FROM_THE_TOP = tuple(Role)
KEY, TEAM, USER, TENANT = ResourceKind.KEY, ResourceKind.TEAM, ResourceKind.USER, ResourceKind.TENANT


def principal(role: Role, **more: Any) -> Principal:
    plain = {"key_id": KeyId("mine"), "tenant_id": TenantId("acme"), "scopes": frozenset({Scope.MODELS}), "role": role}
    return Principal(**{**plain, **more})


def limited(*, limits: ScopeLimits | None = None, budget: tuple[Period, int] | None = None) -> Principal:
    """Return an admin whose own key has limits or a budget."""
    budgets: tuple[Budget, ...] = ()
    if budget is not None:
        period, limit = budget
        budgets = (Budget(id="bg", kind=ScopeKind.KEY, owner_id="mine", limit_nano=limit, period=period),)
    others = ScopeLimits(kind=ScopeKind.TENANT, id="acme", requests=Rate(1, 1))
    scopes = (others,) if limits is None else (limits, others)
    return principal(Role.TENANT_ADMIN, allowance=Allowance(tenant_id="acme", limits=scopes, budgets=budgets))


def exceeds(giver: Principal, field: str, **offer: Any) -> bool:
    try:
        grants.check_offer(giver, Offer(**{field: offer[field]}), {field})
    except ExceedsGrantor:
        return True
    return False


@pytest.mark.parametrize(
    ("globs", "own", "within"),
    [
        (["gpt-4o"], ["gpt-*"], True),
        (["gpt-4o*"], ["gpt-*"], True),
        (["gpt-?"], ["gpt-*"], True),
        (["gpt-*"], ["gpt-*"], True),
        (["gpt-[45]"], ["gpt-[45]"], True),
        (["gpt-[45]"], ["*"], True),
        (["gpt-4"], ["gpt-[45]"], True),
        (["a", "b"], ["a", "b", "c"], True),
        ([], ["a"], True),
        (["*"], ["gpt-*"], False),
        (["gpt*"], ["gpt-*"], False),
        (["gpt-*"], ["gpt-?"], False),
        (["gpt-?*"], ["gpt-??"], False),
        (["[a]"], ["*a]"], False),
        (["gpt-[4-9]"], ["gpt-[45]"], False),
        (["a", "d"], ["a", "b", "c"], False),
        (["a"], [], False),
    ],
)
def test_globs_lie_within_others(globs: list[str], own: list[str], within: bool) -> None:
    assert exceeds(principal(Role.TENANT_ADMIN, models=(tuple(own),)), "models", models=[globs]) is not within


@given(st.text("ab*?[]!-", max_size=6), st.text("ab*?[]!-", max_size=6), st.text("ab]-", max_size=6))
def test_what_a_glob_within_another_matches_the_other_does(glob: str, wider: str, name: str) -> None:
    giver = principal(Role.TENANT_ADMIN, models=((wider,),))
    if not exceeds(giver, "models", models=[[glob]]) and fnmatchcase(name, glob):
        assert fnmatchcase(name, wider)


LISTS = st.lists(st.lists(st.text("ab*?[]!-", max_size=5), max_size=2).map(tuple), max_size=2).map(tuple)
PRINCIPALS = st.builds(
    Principal,
    key_id=st.just(KeyId("one")),
    tenant_id=st.sampled_from([TenantId("acme"), TenantId("rival")]),
    scopes=st.frozensets(st.sampled_from([Scope.MODELS, Scope.SPEND_READ, Scope.EVENTS_READ])),
    role=st.sampled_from(Role),
    admin_teams=st.frozensets(st.sampled_from(["tm-1", "tm-2"])),
    models=LISTS,
    allowed_routes=LISTS,
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(st.lists(PRINCIPALS, min_size=2, max_size=5), st.lists(st.text("ab]-", max_size=5), max_size=5))
def test_a_key_may_no_more_than_any_key_above_it(line: list[Principal], names: list[str]) -> None:
    above = [line[0]]
    for principal in line[1:]:
        above.append(grants.held_to(principal, above[-1]))
    held = above.pop()
    for own, grantor in [(line[-1], line[-1]), *((held, one) for one in above)]:
        assert held.role in FROM_THE_TOP[FROM_THE_TOP.index(grantor.role) :]
        assert all(grantor.may_take(name) for name in names if held.may_take(name))
        assert grantor.expires_at is None or (held.expires_at is not None and held.expires_at <= grantor.expires_at)
        if own is held and grantor.role is Role.PLATFORM_ADMIN:
            continue
        assert held.scopes <= grantor.scopes
        assert all(grantor.may_use(name) for name in names if held.may_use(name))
        if grantor.tenant_id != held.tenant_id:
            assert held.role in (Role.MEMBER, Role.READ_ONLY)
            assert not held.admin_teams
        elif grantor.role is not Role.TENANT_ADMIN:
            assert held.admin_teams <= grantor.admin_teams


def test_what_is_not_taken_away_stays_as_it_is() -> None:
    own = principal(Role.MEMBER, models=(("a",),), allowed_routes=(("/v1/*",),), expires_at=ENDS)
    assert grants.held_to(own, principal(Role.TENANT_ADMIN)) == own
    assert grants.held_to(own, principal(Role.TENANT_ADMIN, models=(("a",),))) == own
    assert grants.held_to(own, ADMIN_PRINCIPAL) == own


def test_an_admin_of_the_platform_holds_what_it_made_to_its_routes_and_its_end_alone() -> None:
    root = principal(
        Role.PLATFORM_ADMIN, models=(("a",),), scopes=frozenset(), allowed_routes=(("/v1/*",),), expires_at=ENDS
    )
    held = grants.held_to(principal(Role.TENANT_ADMIN, tenant_id=TenantId("rival")), root)
    assert (held.models, held.role) == ((), Role.TENANT_ADMIN)
    assert held.scopes == {Scope.MODELS}
    assert (held.allowed_routes, held.expires_at) == ((("/v1/*",),), ENDS)


def test_who_was_an_admin_of_the_platform_has_no_say_in_other_tenants() -> None:
    made = principal(Role.TENANT_ADMIN, tenant_id=TenantId("rival"), admin_teams=frozenset({"tm-1"}))
    held = grants.held_to(made, principal(Role.TENANT_ADMIN))
    assert (held.role, held.admin_teams) == (Role.MEMBER, frozenset())


def test_one_list_of_a_key_must_lie_within_each_of_its_givers() -> None:
    giver = principal(Role.TENANT_ADMIN, models=(("a", "b"), ("b", "c")))
    assert not exceeds(giver, "models", models=[["b"]])
    assert not exceeds(giver, "models", models=[["a"], ["c"]])
    assert exceeds(giver, "models", models=[["a"]])
    assert exceeds(giver, "models", models=[])


def test_an_admin_of_the_platform_gives_any_scope_and_model_but_no_longer_life() -> None:
    root = principal(Role.PLATFORM_ADMIN, models=(("a",),), allowed_routes=(("/v1/keys",),), expires_at=ENDS)
    assert not exceeds(root, "models", models=[])
    assert not exceeds(root, "scopes", scopes=["passthrough"])
    assert exceeds(root, "allowed_routes", allowed_routes=None)
    assert exceeds(root, "expires_at", expires_at=None)


@pytest.mark.parametrize(
    ("limits", "within"),
    [
        ({"rpm": 10, "tpm": 100, "max_parallel": 2}, False),
        ({"rpm": 10, "burst": 5, "tpm": 100, "max_parallel": 2}, True),
        ({"rpm": 5, "tpm": 1, "max_parallel": 1}, True),
        ({"rpm": 5, "burst": 6, "tpm": 1, "max_parallel": 1}, False),
        ({"rpm": 5, "tpm": 1}, False),
        ({}, False),
    ],
)
def test_limits_are_those_of_the_own_key_at_most(limits: dict[str, int], within: bool) -> None:
    own = ScopeLimits(kind=ScopeKind.KEY, id="mine", requests=Rate(10, 5), tokens=Rate(100, 100), parallel=2)
    assert exceeds(limited(limits=own), "limits", limits=limits) is not within
    assert not exceeds(limited(), "limits", limits=limits)


@pytest.mark.parametrize(
    ("own", "holding"),
    [
        (Period.DAY, {"day", "week", "month", "total"}),
        (Period.WEEK, {"week", "total"}),
        (Period.MONTH, {"month", "total"}),
        (Period.TOTAL, {"total"}),
    ],
)
def test_a_budget_holds_a_key_to_its_givers(own: Period, holding: set[str]) -> None:
    giver = limited(budget=(own, 100))
    for period in Period:
        assert exceeds(giver, "budgets", budgets=[(period.value, 100)]) is (period.value not in holding)
        assert exceeds(giver, "budgets", budgets=[(period.value, 101)])
    assert exceeds(giver, "budgets", budgets=[])


def test_only_the_fields_that_are_given_are_looked_at() -> None:
    giver = principal(Role.TENANT_ADMIN, expires_at=ENDS, models=(("a",),))
    grants.check_offer(giver, Offer(), {"name", "tags"})
    with pytest.raises(ExceedsGrantor):
        grants.check_offer(giver, Offer(), {"name", "expires_at"})


@pytest.mark.parametrize(("giver", "highest"), [(role, role) for role in Role])
def test_nobody_handles_keys_of_those_above(giver: Role, highest: Role) -> None:
    order = list(Role)
    for role in Role:
        allowed = order.index(role) >= order.index(highest)
        try:
            grants.check_power(principal(giver), role, frozenset())
        except ExceedsGrantor:
            assert not allowed
        else:
            assert allowed


def test_an_admin_of_one_team_is_not_one_of_another() -> None:
    giver = principal(Role.TEAM_ADMIN, admin_teams=frozenset({"tm-a"}))
    grants.check_power(giver, Role.MEMBER, frozenset({"tm-a"}))
    with pytest.raises(ExceedsGrantor):
        grants.check_power(giver, Role.MEMBER, frozenset({"tm-a", "tm-b"}))


def test_who_may_only_read_administers_no_team() -> None:
    reader = principal(Role.READ_ONLY, admin_teams=frozenset({"tm-a"}))
    with pytest.raises(Forbidden):
        grants.sight_of(reader, KEY)
    with pytest.raises(Forbidden):
        grants.check_write(reader, Target(kind=KEY, id="x", team_id="tm-a"))


def test_a_key_without_a_user_is_nobodys_own() -> None:
    asking = principal(Role.MEMBER)
    with pytest.raises(Forbidden):
        grants.check_read(asking, Target(kind=KEY, id="other"))
    grants.check_read(asking, Target(kind=KEY, id="mine"))


@pytest.mark.parametrize("kind", [TENANT, TEAM, USER, KEY])
def test_who_administers_nothing_is_told_so_before_anything_is_looked_up(kind: ResourceKind) -> None:
    for role in (Role.MEMBER, Role.READ_ONLY):
        with pytest.raises(Forbidden):
            grants.sight_of(principal(role), kind)
        with pytest.raises(Forbidden):
            grants.check_create(principal(role), kind)


def test_a_new_key_gets_models_and_an_admins_gets_what_its_giver_has() -> None:
    giver = principal(Role.TENANT_ADMIN, scopes=frozenset({Scope.MODELS, Scope.SPEND_READ}))
    assert grants.defaults(giver, None) == {"scopes": ["models"], "expires_at": None}
    assert grants.defaults(giver, "tenant_admin")["scopes"] == ["models", "spend:read"]
    assert Scope.ADMIN not in grants.defaults(ADMIN_PRINCIPAL, "platform_admin")["scopes"]


def test_defaults_never_exceed_their_giver() -> None:
    own = ScopeLimits(kind=ScopeKind.KEY, id="mine", requests=Rate(10, 5), tokens=Rate(7, 7), parallel=2)
    budget = Budget(id="bg", kind=ScopeKind.KEY, owner_id="mine", limit_nano=5, period=Period.DAY)
    allowance = Allowance(tenant_id="acme", limits=(own,), budgets=(budget,))
    giver = principal(
        Role.TENANT_ADMIN,
        allowed_routes=(("/v1/*",), ("/v1/chat/*",)),
        expires_at=ENDS,
        allowance=allowance,
        scopes=frozenset(),
    )
    given = grants.defaults(giver, None)
    budgets = [(one["period"], one["limit_nano"]) for one in given.pop("budgets")]
    grants.check_offer(giver, Offer(**given, budgets=budgets), {*given, "budgets"})


def test_a_right_to_a_prefix_is_given_within_ones_own() -> None:
    writer = principal(Role.TENANT_ADMIN, scopes=frozenset({Scope.REGISTRY_WRITE}))
    own = principal(Role.TENANT_ADMIN, bound=frozenset({"registry:register:acme-"}))
    narrow, wide = "registry:register:acme-web-", "registry:register:ac"
    assert not exceeds(writer, "scopes", scopes=[narrow])
    assert not exceeds(own, "scopes", scopes=[narrow])
    assert exceeds(own, "scopes", scopes=[wide])
    assert exceeds(own, "scopes", scopes=["registry:write"])
    assert exceeds(principal(Role.TENANT_ADMIN), "scopes", scopes=[narrow])
    made = principal(Role.MEMBER, bound=frozenset({narrow, wide}))
    assert grants.held_to(made, own).bound == {narrow}
    assert grants.held_to(made, writer).bound == {narrow, wide}
