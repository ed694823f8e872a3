"""Where the stores are: URLs from the variables an operator gives, checked, and percent-encoded for them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from hx_gateway.services.dsn import DsnError, postgres_dsn, redis_dsn
from hx_gateway.wiring.masking import credentials_in

LEFT_OUT = "none"
POSTGRES_VARIABLES = ("PG_URL", "DATABASE_URL", "PG_HOST", "PG_PORT", "PG_DB", "PG_USER", "PG_PASS")
REDIS_VARIABLES = ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_USER", "REDIS_PASS")
QDRANT_VARIABLES = ("QDRANT_URL", "QDRANT_API_KEY")
SECRET_VARIABLES = frozenset({"PG_PASS", "REDIS_PASS", "QDRANT_API_KEY"})
# What may stand in a line of an environment file without quotes, whoever reads it.
_BARE = re.compile(r"[!-~]+")
_NOT_BARE = re.compile(r"[\"'\\`$]|^#")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_SCHEME = re.compile(r"^[a-z]+(\+\w+)?://", re.IGNORECASE)


class InputProblem(Exception):
    """What was given cannot be used: one sentence a line, each naming its variable. Never a value that is secret."""


@dataclass(frozen=True, slots=True, repr=False)
class Stores:
    """The stores' URLs, fit for an environment file: ``postgres`` plain, for any client; ``qdrant`` may be left out."""

    postgres: str
    redis: str
    qdrant: str
    qdrant_api_key: str | None = None

    @property
    def secrets(self) -> list[str]:
        """Every form in which a credential can show up."""
        given = (self.postgres, self.redis, self.qdrant, self.qdrant_api_key or "")
        return [form for value in given for form in credentials_in(value)]


def stores_from(given: Mapping[str, str]) -> Stores:
    """Return the stores that the variables name. Raises :class:`InputProblem` with everything that is wrong."""
    values = {name: value for name, value in given.items() if value}
    problems: list[str] = []
    found = []
    for read in (postgres_url, redis_url, _qdrant):
        try:
            found.append(read(values))
        except InputProblem as problem:
            problems.append(str(problem))
            found.append("")
    api_key = values.get("QDRANT_API_KEY")
    if api_key is not None and not _is_bare(api_key):
        problems.append("QDRANT_API_KEY holds a character that an environment file cannot hold as it is.")
    if problems:
        raise InputProblem("\n".join(problems))
    postgres, redis, qdrant = found
    return Stores(postgres, redis, qdrant, api_key)


def postgres_url(values: Mapping[str, str]) -> str:
    """Return PostgreSQL's URL from what is given, none of it empty. Raises :class:`InputProblem`."""
    given = {name: values[name] for name in ("PG_URL", "DATABASE_URL") if name in values}
    if len(set(given.values())) > 1:
        raise InputProblem("PG_URL and DATABASE_URL say something else each: give one of them.")
    if given:
        name, url = next(iter(given.items()))
        _only_one(values, name, "PG_HOST")
        try:
            postgres_dsn(url)
        except DsnError as error:
            raise InputProblem(f"{name}: {error}.") from None
        return _whole(name, _SCHEME.sub("postgresql://", url))
    host = _host(values, "PG_HOST", "PG_URL")
    port = _port(values, "PG_PORT", "5432")
    credentials = _credentials(values, "PG_USER", "PG_PASS", "hx_gateway")
    return f"postgresql://{credentials}@{host}:{port}/{_encoded('PG_DB', values.get('PG_DB', 'hx_gateway'))}"


def redis_url(values: Mapping[str, str]) -> str:
    """Return Redis's URL from what is given, none of it empty. Raises :class:`InputProblem`."""
    if "REDIS_URL" in values:
        _only_one(values, "REDIS_URL", "REDIS_HOST")
        try:
            url = redis_dsn(values["REDIS_URL"])
        except DsnError as error:
            raise InputProblem(f"REDIS_URL: {error}.") from None
        return url if url.lower().startswith("unix://") and _is_bare(url) else _whole("REDIS_URL", url)
    host = _host(values, "REDIS_HOST", "REDIS_URL")
    port = _port(values, "REDIS_PORT", "6379")
    credentials = _credentials(values, "REDIS_USER", "REDIS_PASS", "")
    return f"redis://{credentials}{'@' if credentials else ''}{host}:{port}/0"


def _qdrant(values: Mapping[str, str]) -> str:
    url = values.get("QDRANT_URL")
    if url is None:
        raise InputProblem("QDRANT_URL is missing: give Qdrant's address, or 'none' to run without it.")
    if url == LEFT_OUT:
        return url
    if not url.startswith(("http://", "https://")):
        raise InputProblem("QDRANT_URL must start with http:// or https://, or be 'none'.")
    return _whole("QDRANT_URL", url)


def _only_one(values: Mapping[str, str], url: str, host: str) -> None:
    if host in values:
        raise InputProblem(f"{url} and {host} are both given: give one of them.")


def _whole(name: str, url: str) -> str:
    """Return a URL that was given whole, once it can stand in an environment file and has a host."""
    if not _is_bare(url):
        raise InputProblem(f"{name} holds a space, a quote or the like: percent-encode it, as in %20 for a space.")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputProblem(f"{name}: its host or port cannot be read.") from None
    if not host:
        raise InputProblem(f"{name} names no host.")
    return url


def _is_bare(text: str) -> bool:
    return _BARE.fullmatch(text) is not None and _NOT_BARE.search(text) is None


def _host(values: Mapping[str, str], name: str, instead: str) -> str:
    host = values.get(name, "").strip()
    if not host:
        raise InputProblem(f"{name} is missing: give the host, or a whole URL as {instead}.")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise InputProblem(f"{name} is {host!r}, which is not a host name or an address.") from None
        return host


def _port(values: Mapping[str, str], name: str, usual: str) -> str:
    port = values.get(name, usual).strip()
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536 and len(port) < 6):
        raise InputProblem(f"{name} is {port[:40]!r}, which is not a port.")
    return port


def _credentials(values: Mapping[str, str], user: str, password: str, usual: str) -> str:
    name = _encoded(user, values.get(user, usual))
    return f"{name}:{_encoded(password, values[password])}" if password in values else name


def _encoded(name: str, value: str) -> str:
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise InputProblem(f"{name} is not valid UTF-8.") from None
