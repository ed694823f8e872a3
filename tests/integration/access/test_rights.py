"""Who may do what on a real database: another tenant's objects are not there, and nobody gives more than it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

import pytest

from hx_gateway.access.directory import Actor, ListQuery, ResourceKind
from hx_gateway.access.errors import ExceedsGrantor
from hx_gateway.access.principal import KeyId, Role, Scope, TenantId
from hx_gateway.allowances import Allowance, Budget, Period, Rate, ScopeKind, ScopeLimits
from hx_gateway.errors import Forbidden, NotFound
from tests.integration.access.directories import (
    KEY,
    NOON,
    ROOT,
    TEAM,
    TENANT,
    TOMORROW,
    USER,
    Office,
    confined,
    member,
    office_at,
    one_of,
    team_admin,
    tenant_admin,
)

# The statements are those of test_directory.py, which asks every server that we support.
pytestmark = pytest.mark.parametrize("servers", ["postgres18-valkey"], indirect=True, scope="package")
DOLLAR = 1_000_000_000
Operation: TypeAlias = Callable[[], Awaitable[Any]]
KINDS = (TENANT, TEAM, USER, KEY)


@pytest.fixture
async def office(ordinary: str) -> AsyncIterator[Office]:
    """Give an office on the module's database."""
    async with office_at(ordinary) as office:
        yield office


@dataclass
class House:
    """A tenant with a team, an admin and a member in it, and a key of the team and the member."""

    id: str
    team: str
    boss: str
    user: str
    key: str

    def of(self, kind: ResourceKind) -> str:
        """Return the id of the object of that kind."""
        return {TENANT: self.id, TEAM: self.team, USER: self.user, KEY: self.key}[kind]


async def house(office: Office, tenant: str) -> House:
    await office.tenant(tenant)
    team, (boss, user) = await office.team_with(tenant, "admin", "member")
    key = await office.make(KEY, tenant, team_id=team, user_id=user)
    return House(tenant, team, boss, user, key["id"])


def every_operation(office: Office, asking: Actor, kind: ResourceKind, object_id: str) -> dict[str, Operation]:
    """Return what can be asked about one object."""
    directory = office.directory
    operations: dict[str, Operation] = {
        "get": partial(directory.get, asking, kind, object_id),
        "get deleted": partial(directory.get, asking, kind, object_id, include_deleted=True),
        "update": partial(directory.update, asking, kind, object_id, {"name": "mine"}),
        "delete": partial(directory.delete, asking, kind, object_id),
        "restore": partial(directory.restore, asking, kind, object_id),
    }
    if kind is KEY:
        operations |= {
            "rotate": partial(directory.rotate, asking, object_id, 0),
            "block": partial(directory.block, asking, object_id),
            "unblock": partial(directory.unblock, asking, object_id),
        }
    if kind is TEAM:
        operations |= {
            "members": partial(directory.members, asking, object_id),
            "set member": partial(directory.set_member, asking, object_id, "us-any", "member"),
            "remove member": partial(directory.remove_member, asking, object_id, "us-any"),
        }
    return operations


async def refusal(attempt: Awaitable[Any]) -> tuple[str, int, str | None]:
    """Return what an attempt is refused with: the message without the id, status, and param."""
    with pytest.raises((NotFound, Forbidden)) as caught:
        await attempt
    return caught.value.message.partition("'")[0], caught.value.status, caught.value.param


@pytest.mark.parametrize("kind", KINDS)
async def test_another_tenants_objects_are_not_there(office: Office, tenant: str, kind: ResourceKind) -> None:
    ours = await house(office, tenant)
    theirs = await house(office, f"{tenant}-2")
    before = await office.get(kind, theirs.of(kind))
    for asking in (tenant_admin(ours.id), team_admin(ours.id, ours.team, theirs.team), member(ours.id)):
        strange = every_operation(office, asking, kind, theirs.of(kind))
        unknown = every_operation(office, asking, kind, "nobody")
        for name, attempt in strange.items():
            answer = await refusal(attempt())
            assert answer[1] == 404, name
            assert answer == await refusal(unknown[name]()), name
    assert await office.get(kind, theirs.of(kind)) == before


@pytest.mark.parametrize("kind", [TEAM, USER, KEY])
async def test_nothing_is_made_in_another_tenant(office: Office, tenant: str, kind: ResourceKind) -> None:
    await office.tenant(tenant)
    await office.tenant(f"{tenant}-2")
    for wanted in (f"{tenant}-2", "nowhere"):
        attempt = office.directory.create(tenant_admin(tenant), kind, {"name": "x", "tenant_id": wanted})
        assert await refusal(attempt) == ("There is no tenant ", 404, "tenant_id")
    assert await office.names(ROOT, kind, tenant_id=f"{tenant}-2") == []


async def test_keys_are_not_made_for_whom_another_tenant_has(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    theirs = await house(office, f"{tenant}-2")
    for name, kind in (("team_id", TEAM), ("user_id", USER)):
        for asking in (tenant_admin(ours.id), ROOT):
            fields = {"name": "x", "tenant_id": ours.id, name: theirs.of(kind)}
            answer = await refusal(office.directory.create(asking, KEY, fields))
            assert answer == (f"There is no {kind.value} ", 404, name)


async def test_another_tenants_user_does_not_join_a_team(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    theirs = await house(office, f"{tenant}-2")
    for asking in (tenant_admin(ours.id), ROOT):
        attempt = office.directory.set_member(asking, ours.team, theirs.user, "member")
        assert (await refusal(attempt))[1:] == (404, "user_id")


@pytest.mark.parametrize("kind", KINDS)
async def test_lists_hold_the_own_tenants_objects(office: Office, tenant: str, kind: ResourceKind) -> None:
    ours = await house(office, tenant)
    theirs = await house(office, f"{tenant}-2")
    admin = tenant_admin(ours.id)
    page = await office.directory.list(admin, kind, ListQuery(limit=200, include_deleted=True))
    assert ours.of(kind) in {item["id"] for item in page.items}
    assert {item.get("tenant_id", item["id"]) for item in page.items} == {ours.id}
    answer = await refusal(office.directory.list(admin, kind, ListQuery(filters={"tenant_id": theirs.id})))
    assert answer[1:] == (404, "tenant_id")


async def test_the_audit_log_is_the_own_tenants(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    await house(office, f"{tenant}-2")
    page = await office.directory.audit(tenant_admin(ours.id), ListQuery(limit=200))
    assert {entry["tenant_id"] for entry in page.items} == {ours.id}
    other = ListQuery(filters={"tenant_id": f"{tenant}-2"})
    assert (await refusal(office.directory.audit(tenant_admin(ours.id), other)))[1] == 404
    assert (await refusal(office.directory.check_audit(tenant_admin(ours.id), f"{tenant}-2")))[1] == 404
    for asking in (team_admin(ours.id, ours.team), member(ours.id)):
        assert (await refusal(office.directory.audit(asking, ListQuery())))[1] == 403


async def test_a_member_sees_itself_and_its_own_keys_and_nothing_else(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    bare = await office.make(KEY, tenant)
    asking = member(ours.id, user_id=ours.user, key_id=KeyId("mine"), member_teams=frozenset({ours.team}))
    assert (await office.directory.get(asking, USER, ours.user))["id"] == ours.user
    assert (await office.directory.get(asking, KEY, ours.key))["id"] == ours.key
    alone = member(ours.id, key_id=KeyId(bare["id"]))
    assert (await office.directory.get(alone, KEY, bare["id"]))["id"] == bare["id"]
    for kind, object_id in ((TENANT, ours.id), (TEAM, ours.team), (USER, ours.boss), (KEY, bare["id"])):
        assert (await refusal(office.directory.get(asking, kind, object_id)))[1] == 403
    assert (await refusal(office.directory.get(alone, KEY, ours.key)))[1] == 403


@pytest.mark.parametrize("role", [Role.MEMBER, Role.READ_ONLY])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_member_lists_makes_and_changes_nothing(
    office: Office, tenant: str, kind: ResourceKind, role: Role
) -> None:
    ours = await house(office, tenant)
    asking = one_of(ours.id, role, user_id=ours.user, key_id=KeyId(ours.key))
    assert (await refusal(office.directory.list(asking, kind, ListQuery())))[1] == 403
    assert (await refusal(office.directory.create(asking, kind, {"name": "x"})))[1] == 403
    for name, attempt in every_operation(office, asking, kind, ours.of(kind)).items():
        if name.startswith("get") and kind in (USER, KEY):
            await attempt()
        else:
            assert (await refusal(attempt()))[1] == 403, name


async def test_a_team_admin_sees_its_teams_and_nothing_else(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    other, _ = await office.team_with(tenant, "member", name="other")
    await office.make(KEY, tenant, name="others", team_id=other)
    asking = team_admin(ours.id, ours.team, user_id=ours.boss)
    assert await office.names(asking, TEAM) == ["team"]
    assert await office.names(asking, USER) == ["admin 0", "member 1"]
    assert await office.names(asking, KEY) == ["one"]
    assert (await refusal(office.directory.list(asking, TENANT, ListQuery())))[1] == 403
    assert (await office.directory.get(asking, TEAM, ours.team))["id"] == ours.team
    assert (await office.directory.get(asking, USER, ours.user))["id"] == ours.user
    assert len(await office.directory.members(asking, ours.team)) == 2
    assert (await refusal(office.directory.get(asking, TEAM, other)))[1] == 403
    assert (await refusal(office.directory.members(asking, other)))[1] == 403


async def test_a_team_admin_handles_the_keys_of_its_team(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    other, _ = await office.team_with(tenant, "member", name="other")
    asking = team_admin(ours.id, ours.team, user_id=ours.boss)
    made = await office.directory.create(asking, KEY, {"name": "x", "team_id": ours.team, "user_id": ours.user})
    for name, attempt in every_operation(office, asking, KEY, made["id"]).items():
        await attempt()
        if name == "delete":
            await office.directory.restore(asking, KEY, made["id"])
    for fields in ({}, {"team_id": other}, {"user_id": ours.user}):
        assert (await refusal(office.directory.create(asking, KEY, {"name": "x", **fields})))[1] == 403
    strange = await office.make(KEY, tenant, team_id=other)
    assert {(await refusal(one()))[1] for one in every_operation(office, asking, KEY, strange["id"]).values()} == {403}
    for kind in (TEAM, USER):
        assert (await refusal(office.directory.create(asking, kind, {"name": "x"})))[1] == 403
        assert (await refusal(office.directory.update(asking, kind, ours.of(kind), {"name": "x"})))[1] == 403


async def test_a_team_admin_sets_members_but_no_admins(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    new = (await office.make(USER, tenant))["id"]
    other, _ = await office.team_with(tenant, name="other")
    asking = team_admin(ours.id, ours.team, user_id=ours.boss)
    for role in ("member", "read_only"):
        assert (await office.directory.set_member(asking, ours.team, new, role))["role"] == role
    for attempt in (
        office.directory.set_member(asking, ours.team, new, "admin"),
        office.directory.set_member(asking, ours.team, ours.boss, "member"),
        office.directory.remove_member(asking, ours.team, ours.boss),
    ):
        with pytest.raises(ExceedsGrantor):
            await attempt
    assert (await refusal(office.directory.set_member(asking, other, new, "member")))[1] == 403
    await office.directory.remove_member(asking, ours.team, new)


async def test_a_tenant_admin_changes_of_its_tenant_only_its_name(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    admin = tenant_admin(tenant)
    assert (await office.directory.update(admin, TENANT, tenant, {"name": "Other"}))["name"] == "Other"
    refused: list[dict[str, Any]] = [
        {"limits": {}},
        {"budgets": []},
        {"blocked": False},
        {"models": None},
        {"model_limits": {}},
        {"name": "x", "limits": {}},
    ]
    for changes in refused:
        assert (await refusal(office.directory.update(admin, TENANT, tenant, changes)))[1] == 403, changes
    for attempt in (
        office.directory.delete(admin, TENANT, tenant),
        office.directory.restore(admin, TENANT, tenant),
        office.directory.create(admin, TENANT, {"name": "New"}),
    ):
        assert (await refusal(attempt))[1] == 403


async def test_a_tenant_admin_makes_no_admins_of_the_platform(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    admin = tenant_admin(tenant)
    root = await office.make(USER, tenant, name="root", role="platform_admin")
    plain = await office.make(USER, tenant, name="plain")
    roots_key = await office.make(KEY, tenant, user_id=root["id"])
    platform_key = await office.make(KEY, tenant, admin_role="platform_admin")
    attempts: list[Awaitable[Any]] = [
        office.directory.create(admin, USER, {"name": "x", "role": "platform_admin"}),
        office.directory.update(admin, USER, plain["id"], {"role": "platform_admin"}),
        office.directory.update(admin, USER, root["id"], {"role": "member"}),
        office.directory.create(admin, KEY, {"name": "x", "admin_role": "platform_admin"}),
        office.directory.create(admin, KEY, {"name": "x", "user_id": root["id"]}),
    ]
    for key in (roots_key, platform_key):
        operations = every_operation(office, admin, KEY, key["id"])
        await operations.pop("get")()
        await operations.pop("get deleted")()
        attempts += [operation() for operation in operations.values()]
    for attempt in attempts:
        with pytest.raises(ExceedsGrantor):
            await attempt
    made = await office.directory.create(admin, USER, {"name": "y", "role": "tenant_admin"})
    assert made["role"] == "tenant_admin"
    assert (await office.directory.create(admin, KEY, {"name": "y", "admin_role": "tenant_admin"}))["admin_role"]


async def test_a_team_admin_gets_no_key_of_somebody_above(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    chief = (await office.make(USER, tenant, name="chief", role="tenant_admin"))["id"]
    other, _ = await office.team_with(tenant, name="other")
    for user in (chief, ours.user):
        await office.directory.set_member(ROOT, ours.team, user, "member")
    asking = team_admin(ours.id, ours.team, user_id=ours.boss)
    chiefs_key = await office.make(KEY, tenant, team_id=ours.team, user_id=chief)
    await office.directory.set_member(ROOT, other, ours.user, "admin")
    for attempt in (
        office.directory.create(asking, KEY, {"name": "x", "team_id": ours.team, "user_id": chief}),
        office.directory.create(asking, KEY, {"name": "x", "team_id": ours.team, "admin_role": "tenant_admin"}),
        office.directory.create(asking, KEY, {"name": "x", "team_id": ours.team, "user_id": ours.user}),
        office.directory.rotate(asking, chiefs_key["id"], 0),
        office.directory.rotate(asking, ours.key, 0),
    ):
        with pytest.raises(ExceedsGrantor):
            await attempt


OWN = Allowance(
    tenant_id="any",
    limits=(ScopeLimits(kind=ScopeKind.KEY, id="mine", requests=Rate(10, 10), parallel=2),),
    budgets=(Budget(id="bg", kind=ScopeKind.KEY, owner_id="mine", limit_nano=DOLLAR, period=Period.MONTH),),
)
LITTLE: dict[str, Any] = {
    "scopes": ["models"],
    "models": ["gpt-4o-mini"],
    "allowed_routes": ["/v1/chat/completions"],
    "expires_at": NOON + timedelta(hours=1),
    "limits": {"rpm": 10, "max_parallel": 1},
    "budgets": [{"period": "month", "limit_nano": DOLLAR, "soft_nano": None, "model": None}],
}
MUCH: dict[str, list[Any]] = {
    "scopes": [["models", "passthrough"]],
    "models": [None, ["gpt-4o-mini", "claude"], ["*"]],
    "allowed_routes": [None, ["/v1/*"]],
    "expires_at": [None, TOMORROW],
    "limits": [{}, {"rpm": 11, "max_parallel": 1}, {"rpm": 10, "burst": 11, "max_parallel": 1}, {"rpm": 1}],
    "budgets": [
        [],
        [{"period": "month", "limit_nano": DOLLAR + 1}],
        [{"period": "day", "limit_nano": DOLLAR}],
        [{"period": "week", "limit_nano": 1}],
    ],
}


def little_admin(tenant: str) -> Actor:
    """Return an admin whose key may little."""
    return confined(
        tenant_admin(tenant),
        scopes=frozenset({Scope.MODELS}),
        models=(("gpt-4o*",),),
        allowed_routes=(("/v1/chat/*", "/v1/keys*"),),
        expires_at=NOON + timedelta(hours=2),
        allowance=OWN,
    )


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in MUCH.items() for value in values])
async def test_a_key_is_not_given_more_than_its_giver_has(office: Office, tenant: str, name: str, value: Any) -> None:
    await office.tenant(tenant)
    admin = little_admin(tenant)
    with pytest.raises(ExceedsGrantor) as caught:
        await office.directory.create(admin, KEY, {"name": "x", **LITTLE, name: value})
    assert (caught.value.status, caught.value.code, caught.value.param) == (403, "exceeds_grantor", name)
    made = await office.directory.create(admin, KEY, {"name": "x", **LITTLE})
    with pytest.raises(ExceedsGrantor):
        await office.directory.update(admin, KEY, made["id"], {name: value})
    assert await office.directory.update(admin, KEY, made["id"], {"name": "y", name: LITTLE[name]})


async def test_a_new_key_is_given_what_its_giver_has_where_nobody_says_otherwise(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    made = await office.directory.create(little_admin(tenant), KEY, {"name": "x", "models": ["gpt-4o"]})
    assert made["scopes"] == ["models"]
    assert made["allowed_routes"] == ["/v1/chat/*", "/v1/keys*"]
    assert made["expires_at"] == "2026-11-25T14:00:00Z"
    assert made["limits"] == {"rpm": 10, "burst": 10, "max_parallel": 2}
    assert [(one["period"], one["limit_usd"]) for one in made["budgets"]] == [("month", 1.0)]


async def test_a_key_that_may_more_is_not_rotated_by_one_that_may_less(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    wide = await office.make(KEY, tenant)
    with pytest.raises(ExceedsGrantor):
        await office.directory.rotate(little_admin(tenant), wide["id"], 0)
    assert (await office.directory.rotate(tenant_admin(tenant), wide["id"], 0))["key"]
    narrow = await office.make(KEY, tenant, **LITTLE)
    assert (await office.directory.rotate(little_admin(tenant), narrow["id"], 0))["key"]


async def test_lists_of_user_and_team_count_for_a_new_key(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    team = await office.make(TEAM, tenant, models=["gpt-4o-mini"])
    admin = confined(tenant_admin(tenant), models=(("gpt-4o*",),))
    assert (await office.directory.create(admin, KEY, {"name": "x", "team_id": team["id"]}))["models"] is None
    with pytest.raises(ExceedsGrantor):
        await office.directory.create(admin, KEY, {"name": "x"})


async def test_the_platforms_admin_may_everything_in_every_tenant(office: Office, tenant: str) -> None:
    ours = await house(office, tenant)
    asking = one_of("default", Role.PLATFORM_ADMIN, tenant_id=TenantId("default"), scopes=frozenset({Scope.MODELS}))
    for kind in KINDS:
        assert (await office.directory.get(asking, kind, ours.of(kind)))["id"] == ours.of(kind)
        await office.directory.update(asking, kind, ours.of(kind), {"name": "x", "limits": {"rpm": 1}, "budgets": []})
        await office.directory.delete(asking, kind, ours.of(kind))
        await office.directory.restore(asking, kind, ours.of(kind))
    made = await office.directory.create(asking, KEY, {"name": "x", "tenant_id": tenant, "scopes": ["passthrough"]})
    assert made["tenant_id"] == tenant
