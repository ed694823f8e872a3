"""Makes what the gateway needs of a PostgreSQL server before it can migrate: its role, its database, its schemas.

Each step is a query that returns the statements still to be run, none where nothing is to do. A script for psql
(``\\gexec``) and :func:`bootstrap` are made of the same steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from hx_gateway.db.schemas import GATEWAY_SCHEMA, OBSERVABILITY_SCHEMA, REGISTRY_SCHEMA
from hx_gateway.db.scram import is_verifier_of, scram_verifier

CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 60.0
# The server cuts longer names off.
MAX_NAME_BYTES = 63
SCHEMAS = (GATEWAY_SCHEMA, REGISTRY_SCHEMA, OBSERVABILITY_SCHEMA)
# They belong to the server, whoever made them.
_NOBODYS_DATABASES = ("postgres", "template0", "template1")


class BootstrapProblem(Exception):
    """What was asked for cannot be made; the text says why and what to do. It holds no password."""


@dataclass(frozen=True, slots=True)
class Names:
    """The gateway's role and its database. Raises :class:`BootstrapProblem` for a name that no server keeps."""

    role: str
    database: str

    def __post_init__(self) -> None:
        for what, name in (("role", self.role), ("database", self.database)):
            if not name or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
                raise BootstrapProblem(f"{name!r} is no name for a {what}: give one of 1 to {MAX_NAME_BYTES} bytes.")


@dataclass(frozen=True, slots=True)
class Step:
    """``query`` returns the statements that are still to be run; ``done`` is what is so afterwards."""

    done: str
    query: str


async def role_exists(dsn: str, role: str) -> bool:
    """Return whether the server has ``role``. ``dsn`` as for :func:`bootstrap`, whose errors it raises."""
    async with _connected(dsn) as admin:
        return bool(await admin.fetchval("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", role))


async def bootstrap(dsn: str, names: Names, password: str | None) -> list[str]:
    """Make what is missing; return what was done: nothing where all is there.

    ``dsn`` is what asyncpg reads, of a superuser or of a role that may make roles and databases. Without a
    ``password`` the role keeps the one it has. What others own of our schemas is handed over to the role.

    Raises :class:`BootstrapProblem`, and the driver's errors as they are. What was done by then stays; the next run
    goes on from there.
    """
    async with _connected(dsn) as admin:
        there = await _check_role(admin, names.role)
        verifier = None
        if password is not None and not await _has_password(admin, names.role, password):
            verifier = scram_verifier(password)
        if there:
            role = _role_steps(names, verifier)
        elif verifier is None:
            raise BootstrapProblem(f"the role {names.role!r} is not there: give the password that it is to have.")
        else:
            role = [_creation(names, verifier)]
        done = await _carry_out(admin, [*role, *_database_steps(names)])
    async with _connected(dsn, names.database) as admin:
        return done + await _carry_out(admin, _schema_steps(names))


def script(names: Names, password: str) -> str:
    """Return all of it for psql, for a superuser or who may make roles and databases; a second run changes nothing.

    The password is set each time, and does not stand there as it is. Raises :class:`BootstrapProblem`.
    """
    if "=" in names.database or "\n" in names.database:
        raise BootstrapProblem(f"psql cannot connect to a database named {names.database!r}: give another name.")
    verifier = scram_verifier(password)
    server = [_creation(names, verifier), *_role_steps(names, verifier), *_database_steps(names)]
    head = ["\\set ON_ERROR_STOP on", "\\encoding UTF8", "SET standard_conforming_strings = on;"]
    connect = f"\\connect {identifier(names.database)}"
    lines = [*head, _refusal(names), *_lines(server), connect, *head[2:], *_lines(_schema_steps(names))]
    return "\n".join(lines) + "\n"


def identifier(name: str) -> str:
    """Return ``name`` quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return ``text`` as a string for SQL, with ``standard_conforming_strings`` on."""
    return "'" + text.replace("'", "''") + "'"


# Steps


def _creation(names: Names, verifier: str) -> Step:
    statement = f"CREATE ROLE {identifier(names.role)} LOGIN PASSWORD {literal(verifier)}"
    there = f"EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(names.role)})"
    return Step(f"role {names.role!r} made", _unless(there, statement))


def _role_steps(names: Names, verifier: str | None) -> list[Step]:
    """Return what lets a role that is there log in, with a new password where a verifier is given."""
    role = identifier(names.role)
    may = f"(SELECT rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = {literal(names.role)})"  # noqa: S608 - quoted
    steps = [Step(f"role {names.role!r} may log in", _unless(may, f"ALTER ROLE {role} LOGIN"))]
    if verifier is not None:
        statement = f"ALTER ROLE {role} PASSWORD {literal(verifier)}"
        steps.append(Step(f"password of {names.role!r} set", _unless("false", statement)))
    return steps


def _database_steps(names: Names) -> list[Step]:
    role, database = identifier(names.role), identifier(names.database)
    role_text, database_text = literal(names.role), literal(names.database)
    # Whoever gives something to a role must be able to become it; since version 16 that is a right of its own.
    become = "CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END"
    is_member = f"pg_catalog.pg_has_role(current_user, {role_text}, {become})"
    there = f"EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {database_text})"
    create = f"CREATE DATABASE {database} OWNER {role} ENCODING 'UTF8' TEMPLATE template0"
    # What the admin made for the gateway becomes the gateway's; what is somebody else's stays.
    admins = (
        f"SELECT FROM pg_catalog.pg_database AS d JOIN pg_catalog.pg_roles AS r ON r.oid = d.datdba "
        f"WHERE d.datname = {database_text} AND r.rolname = current_user AND r.rolname <> {role_text} "
        f"AND d.datname NOT IN ({', '.join(map(literal, _NOBODYS_DATABASES))})"
    )
    has = " AND ".join(
        f"pg_catalog.has_database_privilege({role_text}, {database_text}, {literal(right)})"
        for right in ("CONNECT", "CREATE", "TEMPORARY")
    )
    grant = f"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {database} TO {role}"
    return [
        Step(f"this role made a member of {names.role!r}", _unless(is_member, f"GRANT {role} TO CURRENT_USER")),
        Step(f"database {names.database!r} made, owned by {names.role!r}", _unless(there, create)),
        Step(
            f"database {names.database!r} given to {names.role!r}",
            _unless(f"NOT EXISTS ({admins})", f"ALTER DATABASE {database} OWNER TO {role}"),
        ),
        Step(f"rights on the database {names.database!r} granted to {names.role!r}", _unless(has, grant)),
    ]


def _schema_steps(names: Names) -> list[Step]:
    steps = [
        Step(
            f"schema {schema!r} made, owned by {names.role!r}",
            _unless(
                f"pg_catalog.to_regnamespace({literal(schema)}) IS NOT NULL",
                f"CREATE SCHEMA {identifier(schema)} AUTHORIZATION {identifier(names.role)}",
            ),
        )
        for schema in SCHEMAS
    ]
    return [*steps, Step(f"what is in these schemas handed over to {names.role!r}", _handing_over(names.role))]


def _handing_over(role: str) -> str:
    """Return the query for what others own of our schemas; what belongs to a table goes with it."""
    schemas = f"n.nspname IN ({', '.join(map(literal, SCHEMAS))})"
    owner = f"(SELECT oid FROM pg_catalog.pg_roles WHERE rolname = {literal(role)})"  # noqa: S608 - quoted
    to = literal(f" OWNER TO {identifier(role)}")
    return f"""
SELECT format('ALTER SCHEMA %I', n.nspname) || {to} FROM pg_catalog.pg_namespace AS n
WHERE {schemas} AND n.nspowner <> {owner}
UNION ALL
SELECT format('ALTER %s %I.%I', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
    WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, n.nspname, c.relname) || {to}
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE {schemas} AND c.relkind IN ('r', 'p', 'S', 'v', 'm') AND c.relowner <> {owner} AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
    AND c.relkind = 'S' AND d.deptype IN ('a', 'i'))
UNION ALL
SELECT format('ALTER TYPE %I.%I', n.nspname, t.typname) || {to}
FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
WHERE {schemas} AND t.typtype IN ('e', 'd') AND t.typowner <> {owner}
UNION ALL
SELECT format('ALTER ROUTINE %I.%I(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))
    || {to}
FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE {schemas} AND p.proowner <> {owner}""".strip()  # noqa: S608 - quoted


def _unless(condition: str, statement: str) -> str:
    return f"SELECT {literal(statement)} WHERE NOT ({condition})"


def _refusal(names: Names) -> str:
    """Return what ends the script where no policy would hold for the role."""
    told = literal(_exempt_text(names.role).replace("%", "%%"))
    block = literal(f"BEGIN RAISE EXCEPTION {told}; END")
    exempt = f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(names.role)} AND (rolsuper OR rolbypassrls)"
    return _unless(f"NOT EXISTS ({exempt})", f"DO {block}") + " \\gexec"


def _lines(steps: Iterable[Step]) -> list[str]:
    return [f"-- {' '.join(step.done.split())}\n{step.query} \\gexec" for step in steps]


# Carrying them out


async def _check_role(admin: Any, role: str) -> bool:
    """Return whether the role is there. Raises :class:`BootstrapProblem` where no policy would hold for it."""
    query = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = $1"
    exempt = await admin.fetchval(query, role)
    if exempt:
        raise BootstrapProblem(_exempt_text(role))
    return exempt is not None


def _exempt_text(role: str) -> str:
    return (
        f"the role {role!r} is a superuser or has BYPASSRLS, so that row-level security would not hold for the "
        "gateway: give another role, or take that away from this one."
    )


async def _has_password(admin: Any, role: str, password: str) -> bool:
    """Return whether the role has it already; who may not read that sets it again."""
    if not await admin.fetchval("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"):
        return False
    kept = await admin.fetchval("SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1", role)
    return is_verifier_of(kept, password)


async def _carry_out(admin: Any, steps: Iterable[Step]) -> list[str]:
    done = []
    for step in steps:
        statements = [row[0] for row in await admin.fetch(step.query)]
        for statement in statements:
            await admin.execute(statement)
        if statements:
            done.append(step.done)
    return done


@asynccontextmanager
async def _connected(dsn: str, database: str | None = None) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(
        dsn,
        database=database,
        timeout=CONNECT_SECONDS,
        command_timeout=COMMAND_SECONDS,
        server_settings={"standard_conforming_strings": "on"},
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=CONNECT_SECONDS)
