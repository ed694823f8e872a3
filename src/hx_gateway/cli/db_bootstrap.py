"""``hx-gateway db bootstrap``: the gateway's role, database and schemas in PostgreSQL, and its user of Redis."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit

import typer

from hx_gateway.cli.start import fail
from hx_gateway.cli.store_variables import given_variables
from hx_gateway.db.bootstrap import BootstrapProblem, Names, bootstrap, role_exists, script
from hx_gateway.migrations.runner import DRIVER_ERRORS, current
from hx_gateway.services.dsn import DsnError, place_of, postgres_dsn
from hx_gateway.services.failures import classify
from hx_gateway.services.redis_acl import AclProblem, acl_line
from hx_gateway.wiring.inputs import POSTGRES_VARIABLES, REDIS_VARIABLES, InputProblem, postgres_url, redis_url

ADMIN_URL = "PG_ADMIN_URL"
USUAL_NAME = "hx_gateway"
PASSWORD_BYTES = 24
EXIT_FAILED = 1
# What is asked for, unseen, where neither it nor a whole URL is given.
QUESTIONS = ((ADMIN_URL, ()), ("PG_PASS", ("PG_URL", "DATABASE_URL")), ("REDIS_PASS", ("REDIS_URL",)))
_NOWHERE = "give it, or say with --out or --show where one that is made goes"

T = TypeVar("T")


@dataclass(slots=True, repr=False)
class Login:
    """Whom the gateway logs in as. ``variables`` are what its URL is made of; what is not known of it is ``None``."""

    names: Names
    password: str | None
    variables: dict[str, str]
    whole: bool

    @property
    def url(self) -> str | None:
        """The URL that logs in, once the password and the host are known. Raises ``InputProblem``."""
        if self.password is None or not (self.whole or "PG_HOST" in self.variables):
            return None
        return postgres_url(self.variables if self.whole else {**self.variables, "PG_PASS": self.password})


@dataclass(slots=True, repr=False)
class RedisUser:
    """Redis's user: its line and its URL, or why there is none."""

    line: str = ""
    url: str = ""
    reason: str = ""


@dataclass(slots=True, repr=False)
class Outlet:
    """Where passwords may go: to a new file, to the terminal, or nowhere."""

    out: Path | None
    show: bool
    urls: dict[str, str] = field(default_factory=dict)

    @property
    def wanted(self) -> bool:
        """Whether passwords may go anywhere."""
        return self.show or self.out is not None

    @property
    def made_password(self) -> str | None:
        """A new password, where there is somewhere for it to go."""
        return secrets.token_urlsafe(PASSWORD_BYTES) if self.wanted else None

    def write(self) -> None:
        """Write the file, before anything is made that cannot be entered without it."""
        if self.out is None:
            return
        text = "".join(f"{name}={url}\n" for name, url in self.urls.items())
        try:
            descriptor = os.open(self.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            fail(f"--out {str(self.out)!r} is there already: give it with --env-file, or name another one.")
        except OSError as error:
            fail(f"--out {str(self.out)!r}: {error.strerror}.")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)


def bootstrap_stores(
    admin_url: Annotated[
        str | None, typer.Option(help=f"PostgreSQL's URL for who may make roles and databases ({ADMIN_URL}).")
    ] = None,
    env_file: Annotated[list[Path] | None, typer.Option(help="Read PG_HOST and the like from this file too.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask for what is secret and not given.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the URLs, with passwords, to this new file, 0600.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the URLs, with passwords.")] = False,
    litellm: Annotated[bool, typer.Option("--litellm", help="LiteLLM logs in to Redis as the same user.")] = False,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print a script for psql, and ask no server.")] = False,
) -> None:
    """Make the gateway's role, database and schemas, and print the line for its user of Redis."""
    given = given_variables(env_file or [], (ADMIN_URL, *POSTGRES_VARIABLES, *REDIS_VARIABLES))
    given |= {ADMIN_URL: admin_url} if admin_url else {}
    values = {name: value for name, value in (_asked(given, print_sql) if ask else given).items() if value}
    outlet = Outlet(out, show)
    try:
        if print_sql:
            _print_script(values, outlet, litellm=litellm)
        else:
            _make(values, outlet, litellm=litellm)
    except (InputProblem, BootstrapProblem, AclProblem) as problem:
        fail(*str(problem).splitlines())


def _asked(given: Mapping[str, str], print_sql: bool) -> dict[str, str]:
    answers = dict(given)
    for name, instead in QUESTIONS:
        needless = print_sql and name == ADMIN_URL
        if not needless and not any(answers.get(other) for other in (name, *instead)):
            answers[name] = typer.prompt(name, hide_input=True, default="", show_default=False)
    return answers


def _print_script(values: Mapping[str, str], outlet: Outlet, *, litellm: bool) -> None:
    """Print the script, and only that, to standard output."""
    login = _login(values)
    login.password = login.password or (None if login.whole else outlet.made_password)
    if login.password is None:
        raise InputProblem(f"PG_PASS is not given: {_NOWHERE}.")
    user = _redis_user(values, outlet, litellm=litellm)
    text = script(login.names, login.password)
    _write(outlet, login, user)
    typer.echo(text, nl=False)
    _tell(outlet, user, err=True)


def _make(values: Mapping[str, str], outlet: Outlet, *, litellm: bool) -> None:
    if ADMIN_URL not in values:
        raise InputProblem(
            f"{ADMIN_URL} is not given: give the URL of a superuser, or of a role that may make roles and databases; "
            "or print the script for one with --print-sql."
        )
    admin = values[ADMIN_URL]
    try:
        dsn = postgres_dsn(admin)
        host = urlsplit(dsn).hostname
        port = urlsplit(dsn).port
    except (DsnError, ValueError) as error:
        raise InputProblem(f"{ADMIN_URL}: {error}.") from None
    if host is not None and not {"PG_HOST", "PG_URL", "DATABASE_URL"} & values.keys():
        values = {"PG_PORT": str(port or 5432), **values, "PG_HOST": host}
    login = _login(values)
    user = _redis_user(values, outlet, litellm=litellm)
    if login.password is None and not _ask(admin, role_exists(dsn, login.names.role)):
        login.password = None if login.whole else outlet.made_password
        if login.password is None:
            raise InputProblem(f"the role {login.names.role!r} is not there, and PG_PASS is not given: {_NOWHERE}.")
    _write(outlet, login, user)
    done = _ask(admin, bootstrap(dsn, login.names, login.password))
    for line in done:
        typer.echo(line)
    if not done:
        typer.echo(f"{login.names.role!r} and its database {login.names.database!r} are there: nothing to do")
    if login.url is not None:
        _ask(login.url, current(postgres_dsn(login.url)))
        typer.echo(f"{login.names.role!r} logs in at {place_of(login.url)}")
    _tell(outlet, user, err=False)


def _login(values: Mapping[str, str]) -> Login:
    """Return whom the gateway logs in as, from the same variables as ``wire`` reads."""
    if not ("PG_URL" in values or "DATABASE_URL" in values):
        names = Names(values.get("PG_USER", USUAL_NAME), values.get("PG_DB", USUAL_NAME))
        return Login(names, values.get("PG_PASS"), dict(values), whole=False)
    parts = urlsplit(postgres_url(values))
    names = Names(unquote(parts.username or ""), unquote(parts.path.removeprefix("/")))
    password = None if parts.password is None else unquote(parts.password)
    return Login(names, password, dict(values), whole=True)


def _redis_user(values: Mapping[str, str], outlet: Outlet, *, litellm: bool) -> RedisUser:
    if "REDIS_URL" in values:
        url = redis_url(values)
        name, password = unquote(urlsplit(url).username or "default"), unquote(urlsplit(url).password or "")
        if not password:
            raise InputProblem("REDIS_URL holds no password: give REDIS_HOST and the like, or put one into it.")
        return RedisUser(acl_line(name, password, litellm=litellm), url)
    if "REDIS_HOST" not in values:
        return RedisUser(reason="REDIS_HOST is not given")
    name, given = values.get("REDIS_USER", USUAL_NAME), values.get("REDIS_PASS") or outlet.made_password
    if given is None:
        return RedisUser(reason=f"REDIS_PASS is not given: {_NOWHERE}")
    url = redis_url({**values, "REDIS_USER": name, "REDIS_PASS": given})
    return RedisUser(acl_line(name, given, litellm=litellm), url)


def _write(outlet: Outlet, login: Login, user: RedisUser) -> None:
    if outlet.wanted and login.password is not None and login.url is None:
        raise InputProblem("PG_HOST is missing: give the host that the gateway reaches PostgreSQL at.")
    outlet.urls |= {"PG_URL": login.url} if login.url is not None else {}
    outlet.urls |= {"REDIS_URL": user.url} if user.url else {}
    outlet.write()


def _tell(outlet: Outlet, user: RedisUser, *, err: bool) -> None:
    """Print Redis's line, and the URLs where that was asked for."""
    if user.line:
        typer.echo("For Redis's aclfile or redis.conf, or behind ACL SETUSER without its first word:", err=err)
        typer.echo(user.line, err=err)
    else:
        typer.echo(f"no user for Redis: {user.reason}", err=err)
    if outlet.out is not None:
        typer.echo(f"{', '.join(outlet.urls)}: written to {outlet.out}", err=err)
    if outlet.show:
        for name, url in outlet.urls.items():
            typer.echo(f"{name}={url}", err=err)


def _ask(url: str, question: Coroutine[object, object, T]) -> T:
    try:
        return asyncio.run(question)
    except DRIVER_ERRORS as error:
        _unreachable(url, error)


def _unreachable(url: str, error: Exception) -> NoReturn:
    fail(f"PostgreSQL at {place_of(url)} failed ({classify(error).kind}): {error}", code=EXIT_FAILED)
