"""The official registry over the catalogue: all services are servers, and what is published stays."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest

from hx_gateway.access.principal import KeyId, Principal, Role, Scope, TenantId
from hx_gateway.access.resources import Actor
from hx_gateway.errors import Forbidden, InvalidRequest, NotFound
from hx_gateway.registry import Deleted, Dependencies, HasDependents, ServiceStatus, Standing, Transactions
from hx_gateway.registry.catalog import Catalog
from hx_gateway.registry.official import publishing
from hx_gateway.registry.official.naming import Naming
from hx_gateway.registry.official.registry import OfficialRegistry, ServerPage
from hx_gateway.registry.official.repository import Listing
from hx_gateway.registry.official.rights import Reader
from hx_gateway.registry.official.server_json import OFFICIAL_META, InvalidServer
from tests.integration.registry.registries import Registry, SetClock
from tests.unit.registry.official.documents import IMAGE, NPM, REMOTE, server

AUDIT_KEY = b"k" * 32
HOUR = timedelta(hours=1)
MAIL = "com.example/mail"
NAMESPACE = "com.acme"


class Desk:
    """Both ways to a tenant's services: the official API and the catalogue."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.clock = SetClock()
        transactions = Transactions(registry.database, audit_key=AUDIT_KEY, clock=self.clock)
        self.catalog = Catalog(transactions)
        self.standing = Standing(transactions)
        self.dependencies = Dependencies(transactions)
        self.official = OfficialRegistry(transactions, naming=Naming(NAMESPACE))
        self.ann = self.actor()
        self.reader = Reader(tenant_id=registry.tenant)

    def actor(self, *, scopes: frozenset[Scope] = frozenset(Scope)) -> Actor:
        tenant = TenantId(self.registry.tenant)
        key, user = KeyId("key-ann"), "us-ann"
        principal = Principal(key_id=key, tenant_id=tenant, user_id=user, role=Role.MEMBER, scopes=scopes)
        return Actor(principal=principal, request_id="req_test", client="192.0.2.1")

    async def create(self, name: str, **fields: Any) -> dict[str, Any]:
        return (await self.catalog.create(self.ann, {"name": name, **fields}))[0]

    async def publish(self, version: str = "1.0.0", **more: Any) -> dict[str, Any]:
        """Publish an hour later than what was published before."""
        self.clock.time += HOUR
        return await self.official.publish(self.ann, server(version=version, **more))

    async def page(self, limit: int = 30, cursor: str | None = None, **listing: Any) -> ServerPage:
        return await self.official.servers(self.reader, Listing(**listing), limit=limit, cursor=cursor)

    async def listed(self, **listing: Any) -> list[str]:
        return [shown(found) for found in (await self.page(**listing)).servers]

    async def versions(self, name: str = MAIL, *, include_deleted: bool = True) -> dict[str, str]:
        """Return the status of each version, the newest first; of the latest with a star."""
        found = await self.official.versions(self.reader, name, include_deleted=include_deleted)
        return {each["server"]["version"]: said(each)["status"] + "*" * said(each)["isLatest"] for each in found}

    async def status(self, version: str, status: Any, message: str | None = None, name: str = MAIL) -> dict[str, Any]:
        self.clock.time += HOUR
        return await self.official.set_status(self.ann, name, version, status, message)


def said(found: dict[str, Any]) -> dict[str, Any]:
    return dict(found["_meta"][OFFICIAL_META])


def shown(found: dict[str, Any]) -> str:
    return f"{found['server']['name']}@{found['server']['version']}"


@pytest.fixture
def desk(registry: Registry) -> Desk:
    return Desk(registry)


# Services that have published nothing


async def test_every_service_is_a_server_also_without_having_published_anything(desk: Desk) -> None:
    made = await desk.create("Weather Report", protocol="http", endpoint="https://weather.example.com/mcp")
    await desk.create("mail", version="2.1.0", protocol="tcp", endpoint="mail:25")
    await desk.create("io.example/news", version="^1.0")
    found = {each["server"]["name"]: each for each in (await desk.page()).servers}
    assert {shown(each) for each in found.values()} == {
        f"com.acme/{made['id']}@0.0.0",
        "com.acme/mail@2.1.0",
        "io.example/news@0.0.0",
    }
    weather = found[f"com.acme/{made['id']}"]
    assert weather["server"]["title"] == "Weather Report"
    assert weather["server"]["remotes"] == [{"type": "streamable-http", "url": "https://weather.example.com/mcp"}]
    assert said(weather)["status"] == "active"
    assert weather["_meta"]["com.acme/service"]["id"] == made["id"]


@pytest.mark.parametrize(
    "name", ["mail", "Mail_2", "io.example/mail", "com.acme/mail", "my mail", "ü", "m" * 255, "mail-", "a/b/c", "x"]
)
async def test_the_database_names_services_as_we_do(desk: Desk, name: str) -> None:
    made = await desk.create(name)
    ((found),) = (await desk.page()).servers
    expected = Naming(NAMESPACE).server_name(name, made["id"])
    assert found["server"]["name"] == expected
    one = await desk.official.one(desk.reader, expected, "latest")
    assert one["_meta"]["com.acme/service"]["id"] == made["id"]


async def test_health_is_no_status(desk: Desk) -> None:
    made = await desk.create("mail")
    await desk.standing.note_health(desk.ann, made["id"], ServiceStatus.UNHEALTHY)
    found = await desk.official.one(desk.reader, "com.acme/mail", "0.0.0")
    assert said(found)["status"] == "active"
    assert found["_meta"]["com.acme/service"]["status"] == "unhealthy"


async def test_a_service_is_deprecated_deleted_and_brought_back_without_being_published(desk: Desk) -> None:
    await desk.create("mail")
    found = await desk.status("0.0.0", "deprecated", "Use post.", name="com.acme/mail")
    assert (said(found)["status"], said(found)["statusMessage"]) == ("deprecated", "Use post.")
    found = await desk.status("0.0.0", "deleted", name="com.acme/mail")
    assert said(found)["status"] == "deleted"
    assert await desk.listed() == []
    assert (await desk.catalog.get(desk.ann, "mail", include_deleted=True))["deleted_at"] is not None
    found = await desk.status("0.0.0", "active", name="com.acme/mail")
    assert said(found)["status"] == "active"
    assert (await desk.catalog.get(desk.ann, "mail"))["service_metadata"] == {}
    with pytest.raises(InvalidRequest, match="No changes to apply"):
        await desk.status("0.0.0", "active", name="com.acme/mail")
    with pytest.raises(NotFound):
        await desk.status("1.0.0", "deleted", name="com.acme/mail")


async def test_of_services_that_were_deleted_the_last_of_a_name_is_told_of(desk: Desk) -> None:
    for version in ("1.0.0", "2.0.0"):
        desk.clock.time += HOUR
        made = await desk.create("mail", version=version)
        await desk.catalog.delete(desk.ann, made["id"])
    assert await desk.listed() == []
    assert await desk.listed(include_deleted=True) == ["com.acme/mail@2.0.0"]
    await desk.create("MAIL", version="3.0.0")
    assert await desk.listed(include_deleted=True) == ["com.acme/MAIL@3.0.0"]


# Publishing


async def test_publishing_makes_the_service_and_keeps_the_document(desk: Desk) -> None:
    published = await desk.publish(title="Mail", packages=[NPM])
    assert published["server"] == server(title="Mail", packages=[NPM])
    assert said(published) == {
        "status": "active",
        "statusChangedAt": "2026-11-25T13:00:00Z",
        "publishedAt": "2026-11-25T13:00:00Z",
        "updatedAt": "2026-11-25T13:00:00Z",
        "isLatest": True,
    }
    made = await desk.catalog.get(desk.ann, MAIL)
    assert (made["display_name"], made["version"], made["endpoint"]) == ("Mail", "1.0.0", REMOTE["url"])
    assert (made["protocol"], made["build_type"]) == ("http", "custom")
    assert await desk.official.one(desk.reader, MAIL, "latest") == published


async def test_a_version_is_published_once(desk: Desk) -> None:
    await desk.publish()
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="duplicate version") as caught:
            await desk.publish(description="Another one.")
        assert caught.value.status == 400
        if said(await desk.official.one(desk.reader, MAIL, "1.0.0", include_deleted=True))["status"] == "active":
            await desk.status("1.0.0", "deleted")
    assert (await desk.versions()) == {"1.0.0": "deleted*"}


async def test_the_service_follows_its_latest_version(desk: Desk) -> None:
    await desk.publish("1.0.0", description="First.")
    await desk.publish("2.0.0", description="Second.", remotes=None, packages=[IMAGE])
    made = await desk.catalog.get(desk.ann, MAIL)
    assert (made["description"], made["version"], made["build_type"]) == ("Second.", "2.0.0", "docker")
    await desk.publish("1.0.1", description="Mended.")
    assert (await desk.catalog.get(desk.ann, MAIL))["description"] == "Second."
    await desk.status("2.0.0", "deleted")
    made = await desk.catalog.get(desk.ann, MAIL)
    assert (made["description"], made["version"], made["build_type"]) == ("Mended.", "1.0.1", "external")
    assert await desk.versions() == {"1.0.1": "active*", "2.0.0": "deleted", "1.0.0": "active"}


async def test_a_registered_service_is_published_under_its_name_and_keeps_what_is_its_own(desk: Desk) -> None:
    made = await desk.create("mail", tags=["demo"], build_type="stub", config={"command": "mail"}, version="1.0.0")
    published = await desk.publish("1.0.0", name="com.acme/mail")
    after = await desk.catalog.get(desk.ann, "mail")
    assert after["id"] == made["id"] == published["_meta"]["com.acme/service"]["id"]
    assert (after["tags"], after["build_type"], after["config"]["command"]) == (["demo"], "stub", "mail")
    assert (after["protocol"], after["endpoint"]) == ("http", REMOTE["url"])
    assert await desk.listed() == ["com.acme/mail@1.0.0"]


async def test_a_name_that_a_service_has_in_other_letters_is_refused(desk: Desk) -> None:
    await desk.create("COM.example/Mail")
    for name in (MAIL, f"com.acme/{'9d4c0f0a-0000-4000-8000-000000000000'}"):
        with pytest.raises(InvalidRequest) as caught:
            await desk.publish(name=name)
        assert caught.value.param == "name"


async def test_what_is_wrong_with_a_document_keeps_everything_as_it_was(desk: Desk) -> None:
    with pytest.raises(InvalidServer) as caught:
        await desk.publish("latest", name="x")
    assert [issue.path for issue in caught.value.issues] == ["name", "version"]
    assert await desk.listed(include_deleted=True) == []


async def test_who_may_not_publish_is_told_what_is_granted(desk: Desk) -> None:
    reads = desk.actor(scopes=frozenset({Scope.REGISTRY_READ}))
    for call in (
        desk.official.publish(reads, server()),
        desk.official.set_status(reads, MAIL, "1.0.0", "deleted"),
        desk.official.set_all_statuses(reads, MAIL, "deleted"),
        desk.official.put(reads, MAIL, "1.0.0", server()),
    ):
        with pytest.raises(Forbidden, match="granted to it: none"):
            await call


async def test_publishing_is_audited_in_the_same_chain(desk: Desk) -> None:
    await desk.publish()
    await desk.status("1.0.0", "deprecated", "Old.")
    rows = await desk.registry.rows(
        "SELECT object_kind, object_id, action, after FROM hx_gateway.audit_log ORDER BY id"
    )
    entries = [(row["object_kind"], row["action"]) for row in rows]
    assert entries == [("registry_item", "created"), ("server_version", "created"), ("server_version", "updated")]
    assert rows[1]["object_id"] == f"{MAIL}@1.0.0"
    assert rows[1]["after"]["document"]["version"] == "1.0.0"
    assert rows[2]["after"] == {"status": "deprecated", "status_message": "Old."}
    assert await desk.registry.first_broken_entry() is None


async def test_versions_published_at_once_leave_one_that_is_the_latest(desk: Desk) -> None:
    numbers = range(1, 7)
    await asyncio.gather(*(desk.official.publish(desk.ann, server(version=f"{n}.0.0")) for n in numbers))
    found = await desk.versions()
    assert {version: status for version, status in found.items() if status.endswith("*")} == {"6.0.0": "active*"}
    assert len(found) == len(numbers)


async def test_there_are_only_so_many_versions(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MAX_VERSIONS", 2)
    await desk.publish("1.0.0")
    await desk.publish("1.0.1")
    with pytest.raises(InvalidRequest, match="which is all there may be"):
        await desk.publish("1.0.2")


# Status


async def test_deleting_the_last_version_deletes_the_service_and_any_brings_it_back(desk: Desk) -> None:
    await desk.publish("1.0.0")
    await desk.publish("2.0.0")
    await desk.official.delete(desk.ann, MAIL, "2.0.0")
    assert (await desk.catalog.get(desk.ann, MAIL))["version"] == "1.0.0"
    await desk.official.delete(desk.ann, MAIL, "1.0.0")
    with pytest.raises(Deleted):
        await desk.catalog.get(desk.ann, MAIL)
    with pytest.raises(NotFound):
        await desk.official.one(desk.reader, MAIL, "latest")
    assert await desk.versions() == {"2.0.0": "deleted*", "1.0.0": "deleted"}
    found = await desk.status("1.0.0", "deprecated", "Old.")
    assert (said(found)["status"], said(found)["isLatest"]) == ("deprecated", True)
    assert (await desk.catalog.get(desk.ann, MAIL))["version"] == "1.0.0"


async def test_all_versions_change_at_once_and_are_told_of(desk: Desk) -> None:
    await desk.publish("1.0.0")
    await desk.publish("2.0.0")
    await desk.status("1.0.0", "deprecated", "Old.")
    changed = await desk.official.set_all_statuses(desk.ann, MAIL, "deprecated", "Old.")
    assert [shown(each) for each in changed] == [f"{MAIL}@2.0.0"]
    changed = await desk.official.set_all_statuses(desk.ann, MAIL, "active")
    assert [shown(each) for each in changed] == [f"{MAIL}@2.0.0", f"{MAIL}@1.0.0"]
    assert all("statusMessage" not in said(each) for each in changed)
    with pytest.raises(InvalidRequest, match="No changes to apply: status is already active"):
        await desk.official.set_all_statuses(desk.ann, MAIL, "active")


async def test_a_message_may_change_alone(desk: Desk) -> None:
    await desk.publish()
    first = said(await desk.status("1.0.0", "deprecated", "Old."))
    second = said(await desk.status("1.0.0", "deprecated", "Very old."))
    assert second["statusMessage"] == "Very old."
    assert second["statusChangedAt"] == first["statusChangedAt"]
    assert second["updatedAt"] > first["updatedAt"]
    with pytest.raises(InvalidRequest, match="No changes"):
        await desk.status("1.0.0", "deprecated")


async def test_a_service_that_others_need_is_not_deleted(desk: Desk) -> None:
    await desk.publish()
    await desk.create("calendar")
    await desk.dependencies.add(desk.ann, "calendar", MAIL)
    with pytest.raises(HasDependents):
        await desk.official.delete(desk.ann, MAIL, "1.0.0")
    assert await desk.versions() == {"1.0.0": "active*"}


async def test_a_service_that_is_deleted_otherwise_takes_its_versions_along_and_brings_them_back(desk: Desk) -> None:
    await desk.publish("1.0.0")
    await desk.publish("2.0.0")
    desk.clock.time += HOUR
    await desk.catalog.delete(desk.ann, MAIL)
    assert await desk.listed() == []
    assert await desk.versions() == {"2.0.0": "deleted*", "1.0.0": "deleted"}
    assert await desk.listed(updated_since=desk.clock.time, include_deleted=True) == [f"{MAIL}@1.0.0", f"{MAIL}@2.0.0"]
    await desk.catalog.restore(desk.ann, MAIL)
    assert await desk.versions() == {"2.0.0": "active*", "1.0.0": "active"}
    await desk.catalog.delete(desk.ann, MAIL)
    await desk.status("1.0.0", "active")
    assert await desk.versions() == {"2.0.0": "deleted", "1.0.0": "active*"}


async def test_a_service_that_is_restored_otherwise_is_active_under_its_latest_version(desk: Desk) -> None:
    await desk.publish("1.0.0")
    await desk.publish("2.0.0")
    await desk.official.set_all_statuses(desk.ann, MAIL, "deleted")
    await desk.catalog.restore(desk.ann, MAIL)
    assert await desk.listed() == [f"{MAIL}@2.0.0"]
    assert await desk.versions() == {"2.0.0": "active*", "1.0.0": "deleted"}
    await desk.official.put(desk.ann, MAIL, "2.0.0", server(version="2.0.0", description="Mended."))
    await desk.publish("3.0.0")
    assert await desk.versions() == {"3.0.0": "active*", "2.0.0": "active", "1.0.0": "deleted"}


async def test_a_new_service_of_a_name_takes_over_its_history_when_it_publishes(desk: Desk) -> None:
    await desk.publish("1.0.0")
    await desk.catalog.delete(desk.ann, MAIL)
    made = await desk.create(MAIL, version="9.0.0")
    assert await desk.listed(include_deleted=True) == [f"{MAIL}@9.0.0"]
    await desk.publish("2.0.0")
    assert await desk.versions() == {"2.0.0": "active*", "1.0.0": "deleted"}
    with pytest.raises(InvalidRequest, match="duplicate"):
        await desk.publish("1.0.0")
    assert (await desk.catalog.get(desk.ann, MAIL))["id"] == made["id"]


async def test_a_service_that_is_called_otherwise_stands_for_itself(desk: Desk) -> None:
    await desk.publish("1.0.0")
    await desk.catalog.update(desk.ann, MAIL, {"name": "com.example/post"})
    assert await desk.listed(include_deleted=True) == ["com.example/post@1.0.0"]
    await desk.catalog.update(desk.ann, "com.example/post", {"name": MAIL})
    assert await desk.versions() == {"1.0.0": "active*"}


# Replacing


async def test_a_published_version_is_replaced_by_one_of_its_name_and_version(desk: Desk) -> None:
    await desk.publish()
    desk.clock.time += HOUR
    found = await desk.official.put(desk.ann, MAIL, "1.0.0", server(description="Mended."))
    assert found["server"]["description"] == "Mended."
    assert said(found)["updatedAt"] > said(found)["publishedAt"]
    assert (await desk.catalog.get(desk.ann, MAIL))["description"] == "Mended."
    for more, param in (({"name": "com.example/post"}, "name"), ({"version": "2.0.0"}, "version")):
        with pytest.raises(InvalidRequest) as caught:
            await desk.official.put(desk.ann, MAIL, "1.0.0", server(**more))
        assert caught.value.param == param


async def test_what_was_not_published_or_is_deleted_is_not_replaced(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await desk.official.put(desk.ann, MAIL, "1.0.0", server())
    await desk.create(MAIL, version="1.0.0")
    with pytest.raises(NotFound):
        await desk.official.put(desk.ann, MAIL, "1.0.0", server())
    await desk.publish("2.0.0")
    await desk.publish("3.0.0")
    await desk.official.delete(desk.ann, MAIL, "2.0.0")
    with pytest.raises(NotFound):
        await desk.official.put(desk.ann, MAIL, "2.0.0", server(version="2.0.0"))


# Lists


async def test_servers_are_found_by_a_part_of_name_or_description_and_by_version(desk: Desk) -> None:
    await desk.publish("1.0.0", description="Sends 100% letters.")
    await desk.publish("2.0.0", description="Sends letters.")
    await desk.create("weather", description="Rain and sun.", version="2.0.0")
    await desk.create("odd", version="latest")
    assert await desk.listed(search="MAIL") == [f"{MAIL}@1.0.0", f"{MAIL}@2.0.0"]
    assert await desk.listed(search="100%") == [f"{MAIL}@1.0.0"]
    assert await desk.listed(search="_") == []
    assert await desk.listed(search="com.acme/") == ["com.acme/odd@0.0.0", "com.acme/weather@2.0.0"]
    assert await desk.listed(search="rain") == ["com.acme/weather@2.0.0"]
    assert await desk.listed(version="2.0.0") == [f"{MAIL}@2.0.0", "com.acme/weather@2.0.0"]
    assert await desk.listed(version="0.0.0") == ["com.acme/odd@0.0.0"]
    assert await desk.listed(version="latest", search=MAIL) == [f"{MAIL}@2.0.0"]


async def test_who_asks_what_changed_since_gets_that(desk: Desk) -> None:
    await desk.publish("1.0.0")
    await desk.publish("1.0.0", name="com.example/post")
    since = desk.clock.time + HOUR
    assert await desk.listed(updated_since=since) == []
    await desk.publish("2.0.0", name="com.example/post")
    # The one before is not the latest any more.
    assert await desk.listed(updated_since=since) == ["com.example/post@1.0.0", "com.example/post@2.0.0"]


async def walk(desk: Desk, between: Any, **listing: Any) -> list[str]:
    """Return all servers, page by page; between the pages something happens."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await desk.page(2, cursor, **listing)
        found += [shown(each) for each in page.servers]
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor
        await between(len(found))


async def test_pages_hold_each_server_once_while_others_publish(desk: Desk) -> None:
    for letter in "abcdef":
        await desk.publish("1.0.0", name=f"com.example/{letter}")

    numbers = iter(range(2, 7))

    async def publish(_seen: int) -> None:
        for number in itertools.islice(numbers, 1):
            for letter in "abcdef":
                await desk.publish(f"{number}.0.0", name=f"com.example/{letter}")

    latest = await walk(desk, publish, version="latest")
    names = [each.partition("@")[0] for each in latest]
    assert names == [f"com.example/{letter}" for letter in "abcdef"]
    everything = await walk(desk, publish)
    assert next(numbers, None) is None
    assert len(everything) == len(set(everything))
    assert {f"com.example/{letter}@1.0.0" for letter in "abcdef"} <= set(everything)


async def test_a_cursor_is_good_for_its_own_query_only(desk: Desk) -> None:
    await desk.create("a")
    await desk.create("b")
    page = await desk.page(1)
    assert page.next_cursor is not None
    for cursor, listing in ((page.next_cursor, {"search": "a"}), ("nonsense", {}), ("", {"version": "latest"})):
        with pytest.raises(InvalidRequest) as caught:
            await desk.page(1, cursor, **listing)
        assert (caught.value.status, caught.value.param) == (400, "cursor")


async def test_names_are_in_one_order_whatever_the_databases_locale_is(desk: Desk) -> None:
    for name in ("b", "A", "a", "B"):
        await desk.create(f"com.{name}/x" if name.islower() else f"com.{name}y/x")

    async def nothing(_seen: int) -> None: ...

    assert await walk(desk, nothing) == ["com.Ay/x@0.0.0", "com.By/x@0.0.0", "com.a/x@0.0.0", "com.b/x@0.0.0"]


async def test_a_remote_that_another_server_has_is_warned_of(desk: Desk) -> None:
    await desk.publish()
    other = server(name="com.example/post")
    (issue,) = await desk.official.validate(desk.reader, other)
    assert (issue.path, issue.severity) == ("remotes[0].url", "warning")
    assert MAIL in issue.message
    assert await desk.official.validate(desk.reader, server(version="2.0.0")) == []
    assert said(await desk.publish(name="com.example/post"))["isLatest"] is True


# Tenants


async def test_another_tenant_sees_and_changes_nothing(desk: Desk, rival: Registry) -> None:
    await desk.publish()
    other = Desk(rival)
    assert await other.listed(include_deleted=True) == []
    with pytest.raises(NotFound):
        await other.official.one(other.reader, MAIL, "latest")
    with pytest.raises(NotFound):
        await other.status("1.0.0", "deleted")
    assert await other.official.validate(other.reader, server(name="com.example/post")) == []
    await other.publish()
    await other.official.set_all_statuses(other.ann, MAIL, "deleted")
    assert await desk.versions() == {"1.0.0": "active*"}


async def test_who_reads_from_outside_learns_nothing_of_how_services_are(desk: Desk) -> None:
    await desk.create("mail")
    outside = Reader(tenant_id=desk.registry.tenant, inside=False)
    page = await desk.official.servers(outside, Listing())
    assert page.servers[0]["_meta"].keys() == {OFFICIAL_META}
