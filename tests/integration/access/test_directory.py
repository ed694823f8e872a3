"""The directory on a real database: what is made is there, whole, and told; what is deleted comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from hx_gateway.access.directory import ListQuery, ResourceKind
from hx_gateway.access.errors import Conflict, InvalidField
from hx_gateway.access.key_rows import load_key
from hx_gateway.errors import NotFound
from tests.integration.access.directories import (
    KEY,
    NOON,
    PEPPERS,
    ROOT,
    TEAM,
    TENANT,
    TOMORROW,
    USER,
    Office,
    office_at,
)

DOLLAR = 1_000_000_000


@pytest.fixture
async def office(ordinary: str) -> AsyncIterator[Office]:
    """Give an office on the module's database."""
    async with office_at(ordinary) as office:
        yield office


def budget(period: str, dollars: int, **more: Any) -> dict[str, Any]:
    """Return a budget as it is sent."""
    return {"period": period, "limit_nano": dollars * DOLLAR, "soft_nano": None, "model": None, **more}


async def test_a_tenant_is_shown_as_it_was_made(office: Office, tenant: str) -> None:
    fields = {
        "name": "Acme",
        "time_zone": "Asia/Tokyo",
        "models": ["gpt-*"],
        "limits": {"rpm": 5},
        "model_limits": {"gpt-4o": {"tpm": 7}},
        "metadata": {"cost_centre": "4711"},
        "tags": ["blue"],
        "budgets": [budget("month", 5, soft_nano=DOLLAR), budget("day", 1, model="gpt-4o")],
    }
    made = await office.tenant(tenant, **fields)
    budgets = made.pop("budgets")
    assert made == {
        **{name: value for name, value in fields.items() if name != "budgets"},
        "id": tenant,
        "blocked": False,
        "created_at": "2026-11-25T12:00:00Z",
        "updated_at": "2026-11-25T12:00:00Z",
        "created_by": "admin",
        "updated_by": "admin",
        "deleted_at": None,
        "version": 1,
    }
    plain = {"spent_usd": 0.0, "reserved_usd": 0.0, "resets_at": "2026-11-26T00:00:00Z"}
    assert sorted(({**one, "id": ""} for one in budgets), key=lambda one: one["limit_usd"]) == [
        {"id": "", "limit_usd": 1.0, "soft_usd": None, "period": "day", "model": "gpt-4o", **plain},
        {"id": "", "limit_usd": 5.0, "soft_usd": 1.0, "period": "month", **plain},
    ]
    assert await office.get(TENANT, tenant) == {**made, "budgets": budgets}


async def test_the_tenant_default_is_there_and_cannot_be_deleted(office: Office) -> None:
    assert (await office.get(TENANT, "default"))["name"] == "Default"
    with pytest.raises(Conflict, match="default"):
        await office.directory.delete(ROOT, TENANT, "default")


async def test_a_tenant_without_an_id_is_given_one(office: Office) -> None:
    made = await office.directory.create(ROOT, TENANT, {"name": "Nameless"})
    assert made["id"].startswith("tn-")
    assert len(made["id"]) == 19


async def test_ids_of_tenants_are_taken_once_even_by_the_deleted(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    await office.directory.delete(ROOT, TENANT, tenant)
    with pytest.raises(Conflict) as caught:
        await office.tenant(tenant)
    assert (caught.value.status, caught.value.code, caught.value.param) == (409, "already_exists", "id")


async def test_a_key_is_shown_with_its_secret_once(office: Office, tenant: str, connection: Any) -> None:
    await office.tenant(tenant)
    made = await office.make(KEY, tenant, scopes=["models"], aliases={"fast": "gpt-4o-mini"}, tags=["a"])
    secret = made.pop("key")
    assert secret.startswith(f"sk-hx-{made['id']}-")
    assert (made["prefix"], made["last_four"]) == (f"sk-hx-{made['id']}", secret[-4:])
    assert made["rotates_until"] is None
    assert await office.get(KEY, made["id"]) == made
    record = await load_key(connection, key_id=made["id"])
    assert record is not None
    assert record.digest is not None
    assert PEPPERS.matches(secret, record.pepper_id or "", record.digest)
    assert record.aliases == {"fast": "gpt-4o-mini"}


async def test_a_key_that_is_to_end_after_seconds_ends_then(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    made = await office.make(KEY, tenant, expires_in=60)
    assert made["expires_at"] == "2026-11-25T12:01:01Z"


async def test_a_user_is_shown_with_its_teams(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    team, (user,) = await office.team_with(tenant, "admin")
    assert (await office.get(USER, user))["teams"] == [{"team_id": team, "role": "admin"}]
    await office.directory.delete(ROOT, TEAM, team)
    assert (await office.get(USER, user))["teams"] == []


async def test_what_is_sent_changes_and_nothing_else(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    made = await office.make(TEAM, tenant, limits={"rpm": 5}, metadata={"a": 1})
    office.clock.at += timedelta(minutes=1)
    changed = await office.directory.update(ROOT, TEAM, made["id"], {"name": "two", "metadata": {}, "blocked": True})
    expected = {"name": "two", "metadata": {}, "blocked": True, "version": 2, "updated_at": "2026-11-25T12:01:01Z"}
    assert changed == {**made, **expected}
    assert await office.get(TEAM, made["id"]) == changed


async def test_a_change_to_what_is_there_already_changes_nothing(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    made = await office.make(TEAM, tenant)
    office.told.clear()
    assert await office.directory.update(ROOT, TEAM, made["id"], {"name": "one"}) == made
    assert office.told == []
    assert len(await office.history(tenant, object_id=made["id"])) == 1


@pytest.mark.parametrize("name", ["id", "tenant_id", "digest", "created_at", "deleted_at", "version", "key"])
async def test_what_cannot_be_changed_is_refused(office: Office, tenant: str, name: str) -> None:
    await office.tenant(tenant)
    made = await office.make(TEAM, tenant)
    with pytest.raises(InvalidField) as caught:
        await office.directory.update(ROOT, TEAM, made["id"], {name: "other"})
    assert (caught.value.status, caught.value.param) == (422, name)


async def test_names_of_teams_are_taken_once_in_a_tenant(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    await office.tenant(f"{tenant}-2")
    await office.make(TEAM, tenant, name="Checkout")
    await office.make(TEAM, f"{tenant}-2", name="Checkout")
    with pytest.raises(Conflict) as caught:
        await office.make(TEAM, tenant, name="checkout")
    assert caught.value.param == "name"
    assert await office.names(ROOT, TEAM, tenant_id=tenant) == ["Checkout"]


async def test_addresses_of_users_are_taken_once_in_a_tenant(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    await office.make(USER, tenant, email="Ada@example.org")
    await office.make(USER, tenant)
    await office.make(USER, tenant)
    with pytest.raises(Conflict) as caught:
        await office.make(USER, tenant, email="ada@EXAMPLE.org")
    assert caught.value.param == "email"


@pytest.mark.parametrize("kind", [TEAM, USER, KEY, TENANT])
async def test_what_is_deleted_is_gone_until_it_is_restored(office: Office, tenant: str, kind: ResourceKind) -> None:
    await office.tenant(tenant)
    made = await office.get(TENANT, tenant) if kind is TENANT else await office.make(kind, tenant)
    made.pop("key", None)
    deleted = await office.directory.delete(ROOT, kind, made["id"])
    assert deleted["deleted_at"] is not None
    for attempt in (
        office.get(kind, made["id"]),
        office.directory.update(ROOT, kind, made["id"], {"name": "two"}),
        office.directory.delete(ROOT, kind, made["id"]),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await office.get(kind, made["id"], include_deleted=True) == deleted
    assert await office.names(ROOT, kind, tenant_id=tenant) == []
    restored = await office.directory.restore(ROOT, kind, made["id"])
    assert restored == {**made, "version": 3, "updated_at": restored["updated_at"]}
    assert await office.get(kind, made["id"]) == restored
    assert await office.directory.restore(ROOT, kind, made["id"]) == restored


async def test_what_is_restored_after_its_name_was_taken_is_refused(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    for kind, taken in ((TEAM, {"name": "Checkout"}), (USER, {"email": "ada@example.org"})):
        first = await office.make(kind, tenant, **taken)
        await office.directory.delete(ROOT, kind, first["id"])
        await office.make(kind, tenant, **taken)
        with pytest.raises(Conflict):
            await office.directory.restore(ROOT, kind, first["id"])
        with pytest.raises(NotFound):
            await office.get(kind, first["id"])


@pytest.mark.parametrize("kind", [TEAM, USER, TENANT])
async def test_keys_go_and_come_back_with_whom_they_belong_to(
    office: Office, tenant: str, kind: ResourceKind, connection: Any
) -> None:
    await office.tenant(tenant)
    team, (user,) = await office.team_with(tenant, "member")
    key = await office.make(KEY, tenant, team_id=team, user_id=user)
    parent = {TEAM: team, USER: user, TENANT: tenant}[kind]
    await office.directory.delete(ROOT, kind, parent)
    with pytest.raises(NotFound):
        await office.get(KEY, key["id"])
    assert await office.names(ROOT, KEY, tenant_id=tenant) == []
    record = await load_key(connection, key_id=key["id"])
    assert record is not None
    assert record.deleted_by == kind.value
    await office.directory.restore(ROOT, kind, parent)
    assert (await office.get(KEY, key["id"]))["id"] == key["id"]
    record = await load_key(connection, key_id=key["id"])
    assert record is not None
    assert (record.deleted_by, record.blocked_by) == (None, None)


async def test_budgets_that_are_sent_replace_those_that_are_there(office: Office, tenant: str, connection: Any) -> None:
    await office.tenant(tenant)
    key = await office.make(KEY, tenant, budgets=[budget("month", 5), budget("day", 1)])
    month, day = sorted(key["budgets"], key=lambda one: -one["limit_usd"])
    insert = "INSERT INTO hx_gateway.budget_windows VALUES ($1, 'month-UTC', $2, 1500000000, 250000000)"
    await connection.execute(insert, month["id"], tenant)
    changed = await office.directory.update(ROOT, KEY, key["id"], {"budgets": [budget("month", 9), budget("total", 2)]})
    kept, new = sorted(changed["budgets"], key=lambda one: -one["limit_usd"])
    assert kept == {**month, "limit_usd": 9.0, "spent_usd": 1.5, "reserved_usd": 0.25}
    assert (new["period"], new["resets_at"], new["spent_usd"]) == ("total", None, 0.0)
    again = await office.directory.update(ROOT, KEY, key["id"], {"budgets": [budget("day", 1)]})
    assert [one["period"] for one in again["budgets"]] == ["day"]
    assert again["budgets"][0]["id"] != day["id"]
    assert (await office.directory.update(ROOT, KEY, key["id"], {"budgets": []}))["budgets"] == []
    assert TOMORROW.day == 26


async def test_two_budgets_of_the_same_period_are_refused(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    for broken in ([budget("day", 1), budget("day", 2)], [budget("day", 1, model="gpt-4o")]):
        with pytest.raises(InvalidField) as caught:
            await office.make(TEAM, tenant, budgets=broken)
        assert caught.value.param == "budgets"
    assert await office.names(ROOT, TEAM, tenant_id=tenant) == []


async def test_a_rotated_key_has_a_new_secret_and_the_old_one_for_a_while(
    office: Office, tenant: str, connection: Any
) -> None:
    await office.tenant(tenant)
    made = await office.make(KEY, tenant)
    rotated = await office.directory.rotate(ROOT, made["id"], 60)
    assert rotated["id"] == made["id"]
    assert rotated["key"].startswith(f"sk-hx-{made['id']}-")
    assert rotated["rotates_until"] == "2026-11-25T12:01:01Z"
    record = await load_key(connection, key_id=made["id"])
    assert record is not None
    assert record.digest == PEPPERS.digest(rotated["key"])[1]
    assert record.previous_digest == PEPPERS.digest(made["key"])[1]
    assert record.previous_expires_at == NOON + timedelta(seconds=61)
    office.clock.at += timedelta(minutes=2)
    assert (await office.get(KEY, made["id"]))["rotates_until"] is None


async def test_a_key_that_is_rotated_at_once_forgets_its_secret(office: Office, tenant: str, connection: Any) -> None:
    await office.tenant(tenant)
    made = await office.make(KEY, tenant)
    await office.directory.rotate(ROOT, made["id"], 60)
    rotated = await office.directory.rotate(ROOT, made["id"], 0)
    record = await load_key(connection, key_id=made["id"])
    assert record is not None
    assert (record.previous_digest, record.previous_expires_at) == (None, None)
    assert record.digest == PEPPERS.digest(rotated["key"])[1]
    assert record.version == 3


async def test_a_key_is_blocked_and_unblocked(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    made = await office.make(KEY, tenant)
    assert (await office.directory.block(ROOT, made["id"]))["blocked"] is True
    assert (await office.directory.unblock(ROOT, made["id"]))["blocked"] is False
    assert [entry["action"] for entry in await office.history(tenant, object_id=made["id"])] == [
        "created",
        "blocked",
        "unblocked",
    ]


async def test_members_come_change_and_go(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    team = (await office.make(TEAM, tenant))["id"]
    user = (await office.make(USER, tenant, name="Ada", email="ada@example.org"))["id"]
    added = await office.directory.set_member(ROOT, team, user, "member")
    assert (added["role"], added["name"], added["email"]) == ("member", "Ada", "ada@example.org")
    assert await office.directory.members(ROOT, team) == [added]
    changed = await office.directory.set_member(ROOT, team, user, "admin")
    assert await office.directory.members(ROOT, team) == [changed] == [{**added, "role": "admin"}]
    assert await office.directory.remove_member(ROOT, team, user) == changed
    assert await office.directory.members(ROOT, team) == []
    with pytest.raises(NotFound):
        await office.directory.remove_member(ROOT, team, user)


async def test_a_key_of_a_team_and_a_user_needs_the_user_in_the_team(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    team, (user,) = await office.team_with(tenant, "member")
    await office.make(KEY, tenant, team_id=team, user_id=user)
    await office.directory.remove_member(ROOT, team, user)
    with pytest.raises(InvalidField) as caught:
        await office.make(KEY, tenant, team_id=team, user_id=user)
    assert caught.value.param == "user_id"


async def test_each_change_is_told_once_it_is_committed(office: Office, tenant: str, connection: Any) -> None:
    heard: list[dict[str, Any]] = []
    await connection.add_listener("hx_access", lambda *event: heard.append(json.loads(event[3])))
    await office.tenant(tenant)
    team, (user,) = await office.team_with(tenant, "member")
    key = (await office.make(KEY, tenant))["id"]
    await office.directory.update(ROOT, KEY, key, {"budgets": [budget("day", 1)]})
    with pytest.raises(Conflict):
        await office.make(TEAM, tenant, name="team")
    expected = [
        ("tenant", tenant, tenant),
        ("team", team, tenant),
        ("user", user, tenant),
        ("user", user, tenant),
        ("key", key, tenant),
        ("key", key, tenant),
    ]
    assert office.told == expected
    await connection.fetchval("SELECT 1")
    assert [(one["kind"], one["id"], one["tenant_id"]) for one in heard] == expected


async def test_pages_follow_each_other_while_others_add(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    for number in range(5):
        await office.make(TEAM, tenant, name=f"team {number}")
    for sort, names in (("-created_at", "43210"), ("created_at", "01234"), ("name", "01234"), ("-name", "43210")):
        seen, cursor = "", None
        while True:
            query = ListQuery(filters={"tenant_id": tenant}, sort=sort, limit=2, cursor=cursor)
            page = await office.directory.list(ROOT, TEAM, query)
            seen += "".join(item["name"][-1] for item in page.items if item["name"].startswith("team"))
            cursor = page.next_cursor
            if cursor is None:
                break
            if len(seen) == 2:
                # In front of what was seen, whichever way it is sorted.
                office.clock.at += timedelta(days=1 if sort == "-created_at" else -9)
                front = {"name": "a", "created_at": "b", "-name": "z", "-created_at": "y"}[sort]
                await office.directory.create(ROOT, TEAM, {"tenant_id": tenant, "name": f"{front} {sort}"})
        assert seen == names, sort


async def test_keys_are_sorted_by_their_end_and_those_without_come_last(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    for name, ends in (("never", None), ("late", NOON + timedelta(days=9)), ("soon", TOMORROW), ("ever", None)):
        await office.make(KEY, tenant, name=name, expires_at=ends)
    for sort, expected in (("expires_at", ["soon", "late"]), ("-expires_at", ["late", "soon"])):
        seen: list[str] = []
        cursor = None
        while len(seen) < 4:
            query = ListQuery(filters={"tenant_id": tenant}, sort=sort, limit=1, cursor=cursor)
            page = await office.directory.list(ROOT, KEY, query)
            seen += [item["name"] for item in page.items]
            cursor = page.next_cursor
        assert cursor is None
        ended = seen[:2] if sort == "expires_at" else seen[2:]
        assert ended == expected


async def test_lists_are_filtered(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    team, (user,) = await office.team_with(tenant, "member")
    await office.make(KEY, tenant, name="Alpha_1", tags=["blue"], models=["gpt-4o"], team_id=team)
    await office.make(KEY, tenant, name="beta", user_id=user, admin_role="tenant_admin")
    gamma = await office.make(KEY, tenant, name="gamma%")
    await office.directory.block(ROOT, gamma["id"])
    for filters, expected in (
        ({}, ["Alpha_1", "beta", "gamma%"]),
        ({"name": "ALPHA"}, ["Alpha_1"]),
        ({"name": "%"}, ["gamma%"]),
        ({"name": "_"}, ["Alpha_1"]),
        ({"tag": "blue"}, ["Alpha_1"]),
        ({"model": "gpt-4o"}, ["Alpha_1"]),
        ({"team_id": team}, ["Alpha_1"]),
        ({"user_id": user}, ["beta"]),
        ({"role": "tenant_admin"}, ["beta"]),
        ({"blocked": "true"}, ["gamma%"]),
        ({"blocked": "false", "name": "a"}, ["Alpha_1", "beta"]),
    ):
        assert sorted(await office.names(ROOT, KEY, tenant_id=tenant, **filters)) == expected, filters
    await office.make(USER, tenant, name="Bob", email="bob@example.org", role="tenant_admin")
    assert await office.names(ROOT, USER, tenant_id=tenant, email="BOB@example.org") == ["Bob"]
    assert await office.names(ROOT, USER, tenant_id=tenant, role="tenant_admin") == ["Bob"]
    assert await office.names(ROOT, USER, tenant_id=tenant, team_id=team) == ["member 0"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        (ListQuery(sort="digest"), "sort"),
        (ListQuery(sort="created_at; DROP TABLE hx_gateway.teams"), "sort"),
        (ListQuery(filters={"created_by": "x"}), "created_by"),
        (ListQuery(filters={"name": "a\0"}), "name"),
        (ListQuery(filters={"blocked": "maybe"}), "blocked"),
        (ListQuery(limit=0), "limit"),
        (ListQuery(limit=201), "limit"),
        (ListQuery(cursor="nonsense!"), "cursor"),
        (ListQuery(cursor="WyJhIiwxLCJiIl0="), "cursor"),
    ],
)
async def test_a_list_that_cannot_be_is_refused(office: Office, query: ListQuery, param: str) -> None:
    with pytest.raises(InvalidField) as caught:
        await office.directory.list(ROOT, TEAM, query)
    assert (caught.value.status, caught.value.param) == (422, param)


async def test_a_cursor_of_another_list_is_refused(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    for number in range(2):
        await office.make(TEAM, tenant, name=f"team {number}")
    page = await office.directory.list(ROOT, TEAM, ListQuery(filters={"tenant_id": tenant}, limit=1))
    for other in (ListQuery(cursor=page.next_cursor), ListQuery(filters={"tenant_id": tenant}, sort="name")):
        with pytest.raises(InvalidField, match="other filters"):
            await office.directory.list(
                ROOT, TEAM, ListQuery(filters=other.filters, sort=other.sort, cursor=page.next_cursor)
            )


async def test_the_audit_log_tells_what_changed_without_secrets(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    made = await office.make(KEY, tenant, metadata={"upstream_api_key": "hush", "note": "fine"})
    await office.directory.update(ROOT, KEY, made["id"], {"name": "two", "budgets": [budget("day", 1)]})
    rotated = await office.directory.rotate(ROOT, made["id"], 60)
    await office.directory.delete(ROOT, KEY, made["id"])
    await office.directory.restore(ROOT, KEY, made["id"])
    created, updated, turned, deleted, restored = await office.history(tenant, object_id=made["id"])
    assert created["before"] is None
    assert created["after"]["metadata"] == {"upstream_api_key": "***", "note": "fine"}
    assert updated["before"] == {"name": "one", "budgets": []}
    assert updated["after"]["name"] == "two"
    assert updated["after"]["budgets"][0]["limit_usd"] == 1.0
    assert turned["after"]["last_four"] == rotated["last_four"]
    assert (deleted["before"]["name"], deleted["after"]) == ("two", None)
    assert restored["after"] == {"deleted_at": None}
    told = json.dumps([created, updated, turned, deleted, restored])
    for secret in (made["key"], rotated["key"], PEPPERS.digest(made["key"])[1].hex(), "hush", "digest", "pepper"):
        assert secret not in told
    actors = {(entry["actor_key"], entry["actor_user"], entry["request_id"]) for entry in (created, restored)}
    assert actors == {("admin", None, "req_test")}


async def test_the_audit_log_comes_in_pages(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    for number in range(4):
        await office.make(TEAM, tenant, name=f"team {number}")
    seen, cursor = [], None
    while True:
        query = ListQuery(filters={"tenant_id": tenant, "object_kind": "team"}, limit=3, cursor=cursor)
        page = await office.directory.audit(ROOT, query)
        seen += [entry["after"]["name"] for entry in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ["team 3", "team 2", "team 1", "team 0"]


async def test_the_chain_holds_until_somebody_edits_an_entry(office: Office, tenant: str, connection: Any) -> None:
    await office.tenant(tenant, metadata={"number": 1e16, "text": "é \\u0000"})
    for number in range(3):
        await office.make(TEAM, tenant, name=f"team {number}", metadata={"a": 0.1, "b": [1.0, 1e-7]})
    whole = await office.directory.check_audit(ROOT, tenant)
    assert (whole.entries, whole.broken_at) == (4, None)
    second = (await office.history(tenant))[1]["id"]
    for change in ("actor_key = 'nobody'", 'after = after || \'{"name": "other"}\'', "at = at + interval '1 s'"):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("ALTER TABLE hx_gateway.audit_log DISABLE TRIGGER only_added_to")
        before = await connection.fetchrow("SELECT * FROM hx_gateway.audit_log WHERE id = $1", second)
        await connection.execute(f"UPDATE hx_gateway.audit_log SET {change} WHERE id = $1", second)
        await connection.execute("ALTER TABLE hx_gateway.audit_log ENABLE TRIGGER only_added_to")
        await transaction.commit()
        broken = await office.directory.check_audit(ROOT, tenant)
        assert (broken.entries, broken.broken_at) == (1, second), change
        await connection.execute("ALTER TABLE hx_gateway.audit_log DISABLE TRIGGER only_added_to")
        await connection.execute(
            "UPDATE hx_gateway.audit_log SET actor_key = $2, after = $3, at = $4 WHERE id = $1",
            second,
            before["actor_key"],
            before["after"],
            before["at"],
        )
        await connection.execute("ALTER TABLE hx_gateway.audit_log ENABLE TRIGGER only_added_to")
        assert (await office.directory.check_audit(ROOT, tenant)).broken_at is None
    await connection.execute("ALTER TABLE hx_gateway.audit_log DISABLE TRIGGER only_added_to")
    await connection.execute("DELETE FROM hx_gateway.audit_log WHERE id = $1", second)
    await connection.execute("ALTER TABLE hx_gateway.audit_log ENABLE TRIGGER only_added_to")
    assert (await office.directory.check_audit(ROOT, tenant)).broken_at == second + 1


@pytest.mark.parametrize("change", ["UPDATE {} SET action = 'deleted'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_entries_of_the_audit_log_are_neither_changed_nor_deleted(connection: Any, change: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only ever added to"):
        await connection.execute(change.format("hx_gateway.audit_log"))


async def test_changes_at_the_same_time_make_one_chain(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    await asyncio.gather(*(office.make(TEAM, tenant, name=f"team {number}") for number in range(4)))
    state = await office.directory.check_audit(ROOT, tenant)
    assert (state.entries, state.broken_at) == (5, None)


async def test_a_change_that_fails_at_its_end_leaves_nothing(office: Office, tenant: str) -> None:
    await office.tenant(tenant)
    office.told.clear()
    with pytest.raises(InvalidField):
        await office.make(KEY, tenant, budgets=[budget("day", 1), budget("day", 2)])
    assert await office.names(ROOT, KEY, tenant_id=tenant) == []
    assert len(await office.history(tenant)) == 1
    assert office.told == []


async def test_what_is_let_in_no_more_is_told_once_and_so_is_a_new_tenant(office: Office, tenant: str) -> None:
    gone: list[tuple[ResourceKind, str]] = []

    async def act(kind: ResourceKind, shown: Mapping[str, Any]) -> None:
        gone.append((kind, shown["id"]))

    office.directory.on_gone(act)
    await office.tenant(tenant)
    key = (await office.make(KEY, tenant))["id"]
    update = office.directory.update
    for changes in ({"name": "renamed"}, {"blocked": True}, {"name": "again"}, {"blocked": False}):
        await update(ROOT, TENANT, tenant, changes)
    await office.directory.delete(ROOT, KEY, key)
    with pytest.raises(NotFound):
        await office.directory.delete(ROOT, KEY, key)
    await office.directory.delete(ROOT, TENANT, tenant)
    await office.directory.restore(ROOT, TENANT, tenant)
    assert gone == [(TENANT, tenant), (TENANT, tenant), (KEY, key), (TENANT, tenant)]
