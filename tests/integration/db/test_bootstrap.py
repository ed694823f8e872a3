"""``hx-gateway db bootstrap`` on real servers: what it makes, what it leaves alone, and where passwords show up."""

from __future__ import annotations

import asyncio
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from hx_gateway.cli.db import app
from hx_gateway.cli.start import EX_CONFIG
from hx_gateway.db.row_security import exempt_role
from hx_gateway.db.scram import is_verifier_of
from hx_gateway.migrations.runner import downgrade, head, upgrade
from tests.fixtures.servers import PostgresServer, running_postgres
from tests.integration.db.databases import sql, url_of

CANARY = "cAnary/1#2?3%4:5@6\"7'8 9\\$x$ü"
# Whoever is not the administrator needs a password.
HBA = "host all hx 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
QUOTE = "'"
ODD_ROLE, ODD_DATABASE = 'the "team"\'s:role\\1 %', 'a "b"\'c;--\\d %s'
AWAY = "postgresql://someone:hidden@127.0.0.1:1/there"
NOTHING = "'hx_gateway' and its database 'hx_gateway' are there: nothing to do"
OWNERS = """
SELECT DISTINCT r.rolname FROM (
    SELECT relowner AS owner, relnamespace AS space FROM pg_class
    UNION ALL SELECT typowner, typnamespace FROM pg_type UNION ALL SELECT proowner, pronamespace FROM pg_proc
    UNION ALL SELECT nspowner, oid FROM pg_namespace
) AS things JOIN pg_namespace AS n ON n.oid = things.space JOIN pg_roles AS r ON r.oid = things.owner
WHERE n.nspname IN ('hx_gateway', 'hx_registry', 'agent_observability')
"""


@dataclass
class Place:
    """A server whose log says every statement, and what is done there with the command."""

    server: PostgresServer

    def run(self, *options: str, typed: str | None = None, **given: str) -> Result:
        environ = {"PG_ADMIN_URL": self.server.url, **given}
        return CliRunner().invoke(app, ["bootstrap", *options], env=environ, input=typed)

    def url(self, password: str, role: str = "hx_gateway", database: str = "hx_gateway") -> str:
        credentials = f"{quote(role, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{credentials}@127.0.0.1:{self.server.port}/{quote(database, safe='')}"

    def psql(self, script: str, user: str = "hx") -> subprocess.CompletedProcess[str]:
        command = [str(self.server.binaries / "psql"), "-Xq", "-h", "127.0.0.1", "-p", str(self.server.port)]
        return subprocess.run(
            [*command, "-U", user, "-d", "postgres", "-f", "-"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )

    def log(self) -> str:
        return "".join(path.read_text() for path in (self.server.base / "data" / "log").iterdir())

    def clear(self) -> None:
        """Drop every database and role that the server did not have at first."""
        made = "FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1') \\gexec\n"
        roles = "FROM pg_roles WHERE rolname !~ '^(pg_|hx$)' ORDER BY oid DESC \\gexec\n"
        self.psql(
            f"SELECT format('DROP DATABASE %I WITH (FORCE)', datname) {made}"
            f"SELECT format('DROP OWNED BY %I', rolname) {roles} SELECT format('DROP ROLE %I', rolname) {roles}"
        )


@pytest.fixture(scope="module", params=["wheel18", "debian15"])
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    log = {"logging_collector": "on", "log_directory": "log", "log_statement": "all"}
    with running_postgres(request.param, log, access=HBA) as server:
        yield server


@pytest.fixture
def place(server: PostgresServer) -> Iterator[Place]:
    place = Place(server)
    yield place
    place.clear()


async def fetch(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


def asked(url: str, query: str) -> list[Any]:
    return asyncio.run(fetch(url, query))


def test_it_makes_all_of_it_and_then_has_nothing_to_do(place: Place) -> None:
    done = place.run(PG_PASS=CANARY)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[:2] == ["role 'hx_gateway' made", "database 'hx_gateway' made, owned by 'hx_gateway'"]
    assert sum(line.startswith("schema ") for line in lines) == 3
    assert f"'hx_gateway' logs in at postgresql://127.0.0.1:{place.server.port}/hx_gateway" in lines
    again = place.run(PG_PASS=CANARY)
    assert again.exit_code == 0, again.output
    assert again.output.splitlines()[0] == NOTHING
    assert CANARY not in done.output + again.output


def test_the_gateway_migrates_as_that_role_and_the_policies_hold_for_it(place: Place) -> None:
    assert place.run(PG_PASS=CANARY).exit_code == 0
    url = place.url(CANARY)

    async def look() -> tuple[str | None, list[str]]:
        applied = await upgrade(url)
        connection = await asyncpg.connect(url)
        try:
            # A LiteLLM that shares the database has its tables there.
            await connection.execute("CREATE TABLE public.foreign_to_us (id int)")
            return await exempt_role(connection), applied
        finally:
            await connection.close()

    exempt, applied = asyncio.run(look())
    assert (exempt, applied[-1]) == (None, head())
    assert place.run(PG_PASS=CANARY).output.splitlines()[0] == NOTHING


def test_names_and_passwords_of_any_characters_are_taken_as_they_are(place: Place) -> None:
    given = {"PG_USER": ODD_ROLE, "PG_DB": ODD_DATABASE, "PG_PASS": CANARY}
    assert place.run(**given).exit_code == 0
    assert "nothing to do" in place.run(**given).output
    url = place.url(CANARY, ODD_ROLE, ODD_DATABASE)
    assert asked(url, "SELECT current_user || current_database()") == [ODD_ROLE + ODD_DATABASE]


def test_the_printed_script_does_the_same_and_can_be_run_again(place: Place) -> None:
    given = {"PG_USER": ODD_ROLE, "PG_DB": ODD_DATABASE.replace("\\", ""), "PG_PASS": CANARY, "PG_ADMIN_URL": ""}
    printed = place.run("--print-sql", **given)
    assert printed.exit_code == 0, printed.output
    assert CANARY not in printed.output
    for _ in range(2):
        done = place.psql(printed.stdout)
        assert (done.returncode, done.stderr) == (0, "")
    url = place.url(CANARY, ODD_ROLE, given["PG_DB"])
    assert asked(url, OWNERS) == [ODD_ROLE]
    assert "nothing to do" in place.run(**{**given, "PG_ADMIN_URL": place.server.url}).output


def test_a_role_that_no_policy_holds_for_is_refused_and_nothing_is_made(place: Place) -> None:
    sql(place.server, "CREATE ROLE hx_gateway LOGIN BYPASSRLS")
    refused = place.run(PG_PASS=CANARY)
    assert refused.exit_code == EX_CONFIG
    assert "the role 'hx_gateway' is a superuser or has BYPASSRLS" in refused.output
    script = place.psql(place.run("--print-sql", PG_PASS=CANARY).stdout)
    assert script.returncode == 3
    assert "the role 'hx_gateway' is a superuser or has BYPASSRLS" in script.stderr
    assert sql(place.server, "SELECT 1 FROM pg_database WHERE datname = 'hx_gateway'") == ""


def test_another_password_is_set_and_none_leaves_it_as_it_is(place: Place) -> None:
    place.run(PG_PASS="the first one")
    changed = place.run(PG_PASS=CANARY)
    assert changed.output.splitlines()[0] == "password of 'hx_gateway' set"
    left = place.run()
    assert left.exit_code == 0, left.output
    assert left.output.splitlines()[0] == NOTHING
    assert asked(place.url(CANARY), "SELECT 1") == [1]


def test_what_others_own_of_our_schemas_is_handed_over(place: Place) -> None:
    sql(place.server, "CREATE DATABASE hx_gateway")
    admins = url_of(place.server, "hx_gateway")
    asyncio.run(upgrade(admins))
    sql(place.server, "CREATE TABLE public.foreign_to_us (id int)", "hx_gateway")
    done = place.run(PG_PASS=CANARY)
    assert done.exit_code == 0, done.output
    assert "database 'hx_gateway' given to 'hx_gateway'" in done.output
    assert "what is in these schemas handed over to 'hx_gateway'" in done.output
    assert asked(admins, OWNERS) == ["hx_gateway"]
    assert asked(admins, "SELECT tableowner FROM pg_tables WHERE tablename = 'foreign_to_us'") == ["hx"]
    asyncio.run(downgrade(place.url(CANARY), "base"))
    assert asyncio.run(upgrade(place.url(CANARY)))[-1] == head()


def test_a_database_of_somebody_else_stays_theirs(place: Place) -> None:
    sql(place.server, "CREATE ROLE others")
    sql(place.server, "CREATE DATABASE hx_gateway OWNER others")
    sql(place.server, "REVOKE ALL ON DATABASE hx_gateway FROM PUBLIC")
    done = place.run(PG_PASS=CANARY)
    assert done.exit_code == 0, done.output
    assert "rights on the database 'hx_gateway' granted to 'hx_gateway'" in done.output
    owner = "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'hx_gateway'"
    assert sql(place.server, owner) == "others"
    assert asyncio.run(upgrade(place.url(CANARY)))[-1] == head()
    assert place.run(PG_PASS=CANARY).output.splitlines()[0] == NOTHING


def test_a_role_that_may_make_roles_and_databases_is_enough(place: Place) -> None:
    sql(place.server, "CREATE ROLE maker LOGIN CREATEROLE CREATEDB PASSWORD 'makers-word'")
    admin = {"PG_ADMIN_URL": place.url("makers-word", "maker", "postgres")}
    done = place.run(PG_PASS="another one", **admin)
    assert done.exit_code == 0, done.output
    assert asyncio.run(upgrade(place.url("another one")))[-1] == head()
    assert place.run(PG_PASS="another one", **admin).output.splitlines()[0] == "password of 'hx_gateway' set"


def test_a_password_is_made_only_where_it_has_somewhere_to_go(place: Place, tmp_path: Path) -> None:
    refused = place.run()
    assert refused.exit_code == EX_CONFIG
    assert "PG_PASS is not given: give it, or say with --out or --show" in refused.output
    assert sql(place.server, "SELECT 1 FROM pg_roles WHERE rolname = 'hx_gateway'") == ""
    out = tmp_path / "stores.env"
    made = place.run("--out", str(out), REDIS_HOST="cache.example.org")
    assert made.exit_code == 0, made.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    values = dict(line.split("=", 1) for line in out.read_text().splitlines())
    assert values.keys() == {"PG_URL", "REDIS_URL"}
    assert asked(values["PG_URL"], "SELECT 1") == [1]
    again = place.run("--env-file", str(out))
    assert again.output.splitlines()[0] == NOTHING
    # The line of Redis is the same: it is of the same password.
    assert [line for line in again.output.splitlines() if line.startswith("user ")] == [
        line for line in made.output.splitlines() if line.startswith("user ")
    ]
    for url in values.values():
        assert url.split(":")[2].split("@")[0] not in made.output + again.output
    assert "is there already" in place.run("--out", str(out)).output


def test_show_prints_the_urls_once(place: Place) -> None:
    shown = place.run("--show", REDIS_HOST="cache.example.org", REDIS_PASS="p@ss")
    (url,) = (line.partition("=")[2] for line in shown.output.splitlines() if line.startswith("PG_URL="))
    assert asked(url, "SELECT 1") == [1]
    assert "REDIS_URL=redis://hx_gateway:p%40ss@cache.example.org:6379/0" in shown.output.splitlines()


def test_no_password_reaches_the_servers_log_or_the_terminal(place: Place) -> None:
    wrong = place.url("wr0ng-word", "nobody", "postgres")
    failed = place.run("--ask", PG_ADMIN_URL="", typed=f"{wrong}\n{CANARY}\nr3dis-word\n")
    assert failed.exit_code == 1
    assert "failed (auth_failed)" in failed.output
    asked_for = place.run("--ask", PG_ADMIN_URL="", typed=f"{place.server.url}\n{CANARY}\nr3dis-word\n")
    assert asked_for.exit_code == 0, asked_for.output
    place.psql(place.run("--print-sql", PG_PASS=CANARY).stdout)
    log = place.log()
    assert "CREATE ROLE" in log
    for text in (log, failed.output, asked_for.output):
        for secret in (CANARY, CANARY.replace("'", "''"), quote(CANARY, safe=""), "wr0ng-word", "r3dis-word"):
            assert secret not in text


def test_a_verifier_is_what_the_server_makes_of_the_password(place: Place) -> None:
    # What SASLprep changes, what it refuses, and what it knows nothing of.
    changed = ["\u00aa\ufb01x\u00adn\u00a0\u2168", "e\u0301", "\u0627\u0628\u0627"]
    refused = ["\u0627\u0628a", "a\u0007\u00e9", "\U0001f511 key", "\u00ad"]
    passwords = ["plain", "'odd' \"one\"\\ $x$ %", *changed, *refused]
    roles = [f"CREATE ROLE known{n} PASSWORD '{p.replace(QUOTE, QUOTE * 2)}';" for n, p in enumerate(passwords)]
    done = place.psql("\n".join(["SET password_encryption = 'scram-sha-256';", *roles]))
    assert done.stderr == ""
    kept = asked(place.server.url, "SELECT rolpassword FROM pg_authid WHERE rolname ~ '^known' ORDER BY rolname")
    assert [is_verifier_of(*pair) for pair in zip(kept, passwords, strict=True)] == [True] * len(passwords)
    assert not is_verifier_of(kept[0], "plainx")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"PG_ADMIN_URL": ""}, "PG_ADMIN_URL is not given"),
        ({"PG_ADMIN_URL": "mysql://db.example.org/x"}, "PG_ADMIN_URL: the PostgreSQL URL must start with"),
        ({"PG_USER": "x" * 64}, "is no name for a role"),
        ({"PG_URL": "postgresql://hx@db.example.org/hx", "PG_HOST": "db.example.org"}, "are both given"),
        ({"REDIS_URL": "redis://cache.example.org/0"}, "REDIS_URL holds no password"),
        ({"REDIS_URL": "redis://:word@cache.example.org/0"}, "the user 'default' is everybody's"),
        ({"REDIS_HOST": "cache.example.org", "REDIS_USER": "a b", "REDIS_PASS": "word"}, "is no name for a user"),
    ],
)
def test_what_cannot_be_used_is_named_before_anybody_is_asked(given: dict[str, str], says: str) -> None:
    refused = CliRunner().invoke(app, ["bootstrap"], env={"PG_ADMIN_URL": AWAY, "PG_PASS": CANARY, **given})
    assert refused.exit_code == EX_CONFIG
    assert says in refused.output


def test_no_password_is_made_for_a_url_that_cannot_be(tmp_path: Path) -> None:
    out = tmp_path / "stores.env"
    refused = CliRunner().invoke(app, ["bootstrap", "--print-sql", "--out", str(out)])
    assert (refused.exit_code, refused.stdout) == (EX_CONFIG, "")
    assert "PG_HOST is missing" in refused.output
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    failed = CliRunner().invoke(app, ["bootstrap"], env={"PG_ADMIN_URL": AWAY, "PG_PASS": CANARY})
    assert failed.exit_code == 1
    assert "PostgreSQL at postgresql://127.0.0.1:1/there failed (refused)" in failed.output
    assert "hidden" not in failed.output
