"""Who sees whose spend: never that of another tenant, and of the own one only what the role allows."""

from __future__ import annotations

from typing import Any

import pytest

from hx_gateway.access.principal import Principal
from hx_gateway.errors import Forbidden, NotFound
from hx_gateway.spend.queries import Query
from tests.integration.spend.samples import (
    MEMBER,
    PLATFORM,
    STRANGER,
    TEAM_ADMIN,
    TEAM_KEY,
    TENANT_ADMIN,
    Asker,
    Rows,
)

SEEN: list[tuple[Principal, set[str]]] = [
    (PLATFORM, {"own", "user", "team", "tenant", "foreign", "anonymous"}),
    (TENANT_ADMIN, {"own", "user", "team", "tenant", "anonymous"}),
    (TEAM_ADMIN, {"own", "user", "team"}),
    (MEMBER, {"own", "user"}),
    (TEAM_KEY, set()),
    (STRANGER, {"foreign"}),
]
ASKERS = pytest.mark.parametrize(("who", "seen"), SEEN, ids=[f"{who.key_id}-of-{who.tenant_id}" for who, _ in SEEN])


async def _everybody(rows: Rows) -> None:
    for add in (rows.log, rows.error):
        await add("own", key_id="k-1", team_id="tm-1", user_id="us-1")
        await add("user", key_id="k-2", team_id="tm-1", user_id="us-1")
        await add("team", key_id="k-3", team_id="tm-1", user_id="us-3")
        await add("tenant", key_id="k-4", team_id="tm-2", user_id="us-4")
        await add("foreign", tenant_id="other", key_id="k-1", team_id="tm-1", user_id="us-1")
        await add("anonymous", key_id="k-5", team_id=None, user_id=None)


@ASKERS
@pytest.mark.parametrize("path", ["/v1/spend/logs", "/v1/spend/errors"])
async def test_a_list_has_what_its_caller_may_see(
    asker: Asker, rows: Rows, path: str, who: Principal, seen: set[str]
) -> None:
    await _everybody(rows)
    assert set(await asker.ids(path, who)) == seen


@ASKERS
async def test_a_file_has_what_its_caller_may_see(asker: Asker, rows: Rows, who: Principal, seen: set[str]) -> None:
    await _everybody(rows)
    header, *lines = (await asker.ask("/v1/spend/logs", who, format="csv")).csv()
    assert {line[header.index("request_id")] for line in lines} == seen


@ASKERS
async def test_no_filter_widens_what_is_seen(asker: Asker, rows: Rows, who: Principal, seen: set[str]) -> None:
    await _everybody(rows)
    for query in ({"key_id": "k-4"}, {"team_id": "tm-2"}, {"user_id": "us-4"}, {"request_id": "tenant"}):
        assert set(await asker.ids("/v1/spend/logs", who, **query)) == seen & {"tenant"}


@ASKERS
async def test_sums_are_of_what_is_seen(asker: Asker, rows: Rows, who: Principal, seen: set[str]) -> None:
    days: dict[str, dict[str, Any]] = {
        "own": {"key_id": "k-1", "team_id": "tm-1", "user_id": "us-1"},
        "user": {"key_id": "k-2", "team_id": "tm-1", "user_id": "us-1"},
        "team": {"key_id": "k-3", "team_id": "tm-1", "user_id": "us-3"},
        "tenant": {"key_id": "k-4", "team_id": "tm-2", "user_id": "us-4"},
        "foreign": {"tenant_id": "other", "key_id": "k-1", "team_id": "tm-1", "user_id": "us-1"},
        "anonymous": {"key_id": "k-5"},
    }
    for number, (name, columns) in enumerate(days.items()):
        await rows.day(**columns, model=name, requests=10**number)
    answer = (await asker.ask("/v1/spend/summary", who, group_by="model")).json()
    assert {item["model"] for item in answer["items"]} == seen
    assert answer["totals"]["requests"] == sum(item["requests"] for item in answer["items"])


@ASKERS
async def test_a_decision_is_told_to_who_sees_its_call(
    asker: Asker, rows: Rows, who: Principal, seen: set[str]
) -> None:
    await _everybody(rows)
    for name in ("own", "user", "team", "tenant", "foreign", "anonymous", "nobody"):
        if name in seen:
            assert len((await asker.ask(f"/v1/decisions/{name}", who)).json()["calls"]) == 2
        else:
            with pytest.raises(NotFound) as unknown:
                await asker.ask(f"/v1/decisions/{name}", who)
            assert unknown.value.code == "decision_not_found"


@pytest.mark.parametrize("who", [TENANT_ADMIN, TEAM_ADMIN, MEMBER], ids=lambda who: str(who.key_id))
@pytest.mark.parametrize("tenant", ["other", "nobody"])
@pytest.mark.parametrize("path", ["/v1/spend/logs", "/v1/spend/errors", "/v1/spend/summary", "/v1/decisions/foreign"])
async def test_another_tenant_may_not_be_named_whether_or_not_it_exists(
    asker: Asker, who: Principal, tenant: str, path: str
) -> None:
    with pytest.raises(Forbidden):
        await asker.ask(path, who, tenant_id=tenant)


async def test_the_own_tenant_may_be_named(asker: Asker, rows: Rows) -> None:
    await _everybody(rows)
    assert set(await asker.ids("/v1/spend/logs", MEMBER, tenant_id="acme")) == {"own", "user"}


async def test_a_route_is_not_told_of_a_request_that_another_key_named_the_same(asker: Asker, rows: Rows) -> None:
    await rows.log("shared", key_id="k-1")
    await rows.route("shared")
    assert len((await asker.ask("/v1/decisions/shared", MEMBER)).json()["routing"]) == 1
    await rows.log("shared", key_id="k-4")
    assert (await asker.ask("/v1/decisions/shared", MEMBER)).json()["routing"] == []
    assert len((await asker.ask("/v1/decisions/shared", TENANT_ADMIN)).json()["routing"]) == 1


# The second wall


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every statement forget whose rows its caller may see."""
    monkeypatch.setattr(Query, "_see", lambda self, sight: None)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("path", ["/v1/spend/logs", "/v1/spend/errors"])
async def test_a_list_that_forgets_its_tenant_has_nothing_of_another(asker: Asker, rows: Rows, path: str) -> None:
    await _everybody(rows)
    assert set(await asker.ids(path, TENANT_ADMIN)) == {"own", "user", "team", "tenant", "anonymous"}
    assert set(await asker.ids(path, STRANGER)) == {"foreign"}
    assert "foreign" in await asker.ids(path, PLATFORM)
    assert set(await asker.ids(path, PLATFORM, tenant_id="other")) == {"foreign"}


@pytest.mark.usefixtures("forgetful")
async def test_a_file_that_forgets_its_tenant_has_nothing_of_another(asker: Asker, rows: Rows) -> None:
    await _everybody(rows)
    header, *lines = (await asker.ask("/v1/spend/logs", STRANGER, format="csv")).csv()
    assert [line[header.index("request_id")] for line in lines] == ["foreign"]


@pytest.mark.usefixtures("forgetful")
async def test_a_decision_that_forgets_its_tenant_is_not_anothers(asker: Asker, rows: Rows) -> None:
    await _everybody(rows)
    with pytest.raises(NotFound):
        await asker.ask("/v1/decisions/foreign", TENANT_ADMIN)


@pytest.mark.usefixtures("forgetful")
async def test_sums_that_forget_their_tenant_have_nothing_of_another(asker: Asker, rows: Rows) -> None:
    await rows.day(tenant_id="acme", model="own", requests=1)
    await rows.day(tenant_id="other", model="foreign", requests=10)
    answer = (await asker.ask("/v1/spend/summary", TENANT_ADMIN, group_by="model")).json()
    assert [item["model"] for item in answer["items"]] == ["own"]
    assert answer["totals"]["requests"] == 1
