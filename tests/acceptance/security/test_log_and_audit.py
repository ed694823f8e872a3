"""Records that others rely on: the log cannot be written by a client, nor the audit log be rewritten."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from hx_gateway.access.admin_key import ADMIN_PRINCIPAL
from hx_gateway.access.directory import Actor, AuditState, Directory
from hx_gateway.access.minting import PepperedMinter
from hx_gateway.access.peppers import load_peppers
from hx_gateway.db.row_security import EVERY_TENANT_SETTINGS
from hx_gateway.identity import AUDIT_PURPOSE, current_window
from hx_gateway.services.database import DatabaseManager
from tests.acceptance.people import somewhere
from tests.acceptance.security.attacks import Line, decision_of, events_since
from tests.acceptance.security.conftest import Site
from tests.fixtures.gateway import Answer

FORGED = '{"event":"request","level":"info","request_id":"forged","key_id":"admin","status":200}'
# Nothing is wrong with this one.
QUOTES = "quotes"
LINES = {
    QUOTES: 'a" , "b" \\ \\n {forged}',
    "line feed": f"a\n{FORGED}",
    "carriage return": f"a\r\n{FORGED}\r\n",
    "end of a string": f'a","event":"forged"}}\n{FORGED}',
    "escape sequence": "a\x1b[2J\x1b[1;31mforged\x1b]0;forged\x07",
    "line separator": f"a\u2028{FORGED}\u2029{FORGED}",
    "next line": f"a\x85{FORGED}",
    "direction": "a\u202eegrof",
    "nothing": "a\x00forged",
    "half of a pair": "a\ud800forged",
    "very long": "forged" * 170_000,
}


@pytest.mark.parametrize("name", LINES)
def test_a_clients_text_is_at_most_one_value_of_one_line(site: Site, name: str) -> None:
    text, start = LINES[name], len(site.gateway.log())
    people, secret = site.people, site.world.keys["member"]
    quoted = json.dumps(text).encode()
    messages = b'"messages":[{"role":"user","content":"x"}]'
    people.ask("POST", "/v1/chat/completions", key=secret, raw=b'{"model":%s,%s}' % (quoted, messages))
    people.ask("POST", "/v1/chat/completions", key=secret, raw=b'{"model":"hx-chat",%s,%s:1}' % (messages, quoted))
    made = people.ask("POST", "/v1/keys", raw=b'{"name":%s}' % quoted)
    assert made.status in ((201,) if name == QUOTES else (400, 422)), made.body
    people.ask("POST", "/v1/teams", raw=b'{"name":"A","tags":[%s]}' % quoted)
    people.ask("POST", "/v1/users", raw=b'{"name":"A","email":%s}' % quoted)
    people.ask("PUT", f"/v1/prices/{''.join(f'%{byte:02x}' for byte in text.encode('utf-8', 'replace')[:900])}", {})
    until_logged(site, start, people.ask("GET", "/v1/models", key=secret))
    said = site.gateway.log()[start:]
    assert [char for char in said if char != "\n" and (ord(char) < 32 or char in "\x7f\x85")] == []
    for event in events_since(site.gateway, start):
        assert (event["event"], event.get("request_id")) != ("request", "forged")
        assert event["event"] != "forged"
        assert event.get("key_id") in (None, "admin", site.world.own_key)


def until_logged(site: Site, start: int, answer: Answer) -> str:
    """Return the request id of an answer once its line is in the log."""
    given = answer.header("x-request-id") or ""
    site.gateway.wait_until(lambda: site.gateway.log().endswith("\n") and given in site.gateway.log()[start:])
    return given


@pytest.mark.parametrize(
    "request_id", ["a b", "a\tb", "ä", "a\x85b", "../../etc", "a" * 65, "<script>", '{"a":1}', "%0a"]
)
def test_a_request_id_that_is_none_is_replaced(site: Site, request_id: str) -> None:
    start = len(site.gateway.log())
    with Line(site.gateway.port) as line:
        answer = line.ask("GET", "/v1/models", {"x-request-id": request_id, **somewhere()})
    given = until_logged(site, start, answer)
    assert given.startswith("req_")
    asked = [event for event in events_since(site.gateway, start) if event["event"] == "request"]
    assert [event["request_id"] for event in asked] == [given]


# The audit log


def run(site: Site, work: Callable[[asyncpg.Connection[Any]], Coroutine[Any, Any, Any]]) -> Any:
    """Do something to the gateway's database, as the gateway's own role."""

    async def connected() -> Any:
        url = site.gateway.environ["PG_URL"]
        connection = await asyncpg.connect(url, server_settings={**EVERY_TENANT_SETTINGS})
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(connected())


@pytest.fixture(scope="module")
def chained(site: Site) -> str:
    """Make a tenant with a few entries; return its id."""
    tenant = site.people.made("tenants")["id"]
    team = site.people.made("teams", tenant_id=tenant)["id"]
    for number in range(3):
        site.people.done("PATCH", f"/v1/teams/{team}", {"tags": [str(number)]})
    return str(tenant)


def checked(site: Site, tenant: str) -> AuditState:
    """Return what a check of the running gateway's audit log finds, with its own peppers."""
    peppers = load_peppers(site.gateway.data_dir / "peppers.json")
    audit_key = peppers.derive(AUDIT_PURPOSE)
    assert audit_key is not None

    async def announce(*_: object) -> None:
        """Tell nobody."""

    @asynccontextmanager
    async def directory() -> AsyncIterator[Directory]:
        database = DatabaseManager(site.gateway.environ["PG_URL"], pool_size=1, max_overflow=0)
        try:
            yield Directory(
                database,
                mint=PepperedMinter(lambda: peppers),
                audit_key=audit_key,
                announce=announce,
                window_of=current_window,
            )
        finally:
            await database.close()

    async def check() -> AuditState:
        async with directory() as there:
            actor = Actor(principal=ADMIN_PRINCIPAL, request_id="req_check", client="192.0.2.1")
            return await there.check_audit(actor, tenant)

    return asyncio.run(check())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE hx_gateway.audit_log SET actor_key = 'nobody' WHERE tenant_id = $1",
        "DELETE FROM hx_gateway.audit_log WHERE tenant_id = $1",
        "WITH gone AS (DELETE FROM hx_gateway.audit_log WHERE tenant_id = $1 RETURNING 1) SELECT count(*) FROM gone",
    ],
)
def test_the_gateways_role_neither_changes_nor_deletes_entries(site: Site, chained: str, statement: str) -> None:
    before = checked(site, chained)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only ever added to"):
        run(site, lambda connection: connection.execute(statement, chained))
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only ever added to"):
        run(site, lambda connection: connection.execute("TRUNCATE hx_gateway.audit_log"))
    assert checked(site, chained) == before == AuditState(entries=before.entries, broken_at=None)
    assert before.entries >= 5


@contextmanager
def tampered(site: Site, statement: str, *values: object) -> Iterator[None]:
    """Do to the audit log what its owner can who turns its guard off, and undo it."""
    table = "hx_gateway.audit_log"

    async def tamper(connection: asyncpg.Connection[Any]) -> None:
        await connection.execute(f"CREATE TABLE hx_gateway.kept AS TABLE {table}")
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        await connection.execute(statement, *values)

    async def mend(connection: asyncpg.Connection[Any]) -> None:
        await connection.execute(f"DELETE FROM {table}")
        await connection.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE hx_gateway.kept")
        await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
        await connection.execute("DROP TABLE hx_gateway.kept")

    run(site, tamper)
    try:
        yield
    finally:
        run(site, mend)


OWN = "FROM hx_gateway.audit_log WHERE tenant_id = $1"
FORGERIES = {
    "another actor": (1, f"UPDATE hx_gateway.audit_log SET actor_key = 'x' WHERE id = (SELECT min(id) {OWN})"),
    "another value": (
        -1,
        f"UPDATE hx_gateway.audit_log SET after = '{{\"tags\": []}}' WHERE id = (SELECT max(id) {OWN})",
    ),
    "an entry taken out": (2, f"DELETE FROM hx_gateway.audit_log WHERE id = (SELECT min(id) {OWN})"),
    "two in another order": (
        None,
        (
            "UPDATE hx_gateway.audit_log AS a SET after = b.after, before = b.before FROM hx_gateway.audit_log AS b "
            f"WHERE a.id = (SELECT max(id) {OWN}) AND b.id = (SELECT max(id) - 1 {OWN})"
        ),
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_entries_that_were_tampered_with_are_found(site: Site, chained: str, forgery: str) -> None:
    ids = run(site, lambda c: c.fetch(f"SELECT id {OWN} ORDER BY id", chained))
    place, statement = FORGERIES[forgery]
    with tampered(site, statement, chained):
        found = checked(site, chained).broken_at
    expected = {None: ids[-1]["id"], -1: ids[-1]["id"], 1: ids[0]["id"], 2: ids[1]["id"]}[place]
    assert found == expected
    assert checked(site, chained).broken_at is None


def test_a_secret_in_an_objects_notes_is_masked_where_changes_are_recorded(site: Site) -> None:
    secret = f"a-password-{uuid4().hex}"
    made = site.people.made("teams", metadata={"db_password": secret, "deep": [{"api_key": secret}], "note": "kept"})
    site.people.done("PATCH", f"/v1/teams/{made['id']}", {"metadata": {"token": secret}})
    answer = site.people.ask("GET", f"/v1/audit?object_id={made['id']}")
    assert len(answer.json()["data"]) == 2
    assert secret.encode() not in answer.body
    assert b'"kept"' in answer.body


# What a failure tells


def test_a_failure_of_ours_tells_its_request_id_and_nothing_else(site: Site) -> None:
    people = site.people
    run(site, lambda c: c.execute("ALTER TABLE hx_gateway.teams RENAME COLUMN tags TO labels"))
    try:
        answers = [
            people.ask("GET", "/v1/teams"),
            people.ask("POST", "/v1/teams", {"name": "A"}),
            people.ask("GET", f"/v1/teams/{site.world.team}"),
        ]
    finally:
        run(site, lambda c: c.execute("ALTER TABLE hx_gateway.teams RENAME COLUMN labels TO tags"))
    for answer in answers:
        assert answer.status in (500, 503), answer.body
        text = answer.body.decode().lower()
        for word in ("select", "insert", "column", "tags", "asyncpg", "sqlalchemy", "traceback", ".py", "hx_gateway."):
            assert word not in text, answer.body
        assert answer.header("x-request-id")
    assert people.ask("GET", "/v1/teams").status == 200


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/debug", "/debug/pprof", "/console", "/.env", "/admin.key", "/_debug"]
)
def test_there_are_no_doors_for_developers(site: Site, path: str) -> None:
    assert decision_of(site.people.ask("GET", path)).status == 404
