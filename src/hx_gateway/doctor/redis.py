"""Redis or Valkey: reachable, new enough, and keeping what it is given."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from hx_gateway.doctor.clock import difference, judge_difference
from hx_gateway.doctor.embedded import server_version, valkey_url
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem, unreachable
from hx_gateway.doctor.threads import in_thread
from hx_gateway.doctor.versions import judge_server
from hx_gateway.services.base import DependencyError
from hx_gateway.services.dsn import DsnError, place_of
from hx_gateway.services.embedded.errors import EmbeddedError
from hx_gateway.services.redis_pipe import RedisPipe
from hx_gateway.settings import NOT_CONFIGURED

ANSWER_SECONDS = 2.0
FULL_SHARE = 0.9
KEEPS_ALL = "noeviction"
_MIB = 1024**2


async def examine_redis(around: Surroundings) -> list[Finding]:
    """Look at the server that is set, or at our own where it runs."""
    settings = around.settings
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        if url == NOT_CONFIGURED:
            return [note(Subject.REDIS, "left out on purpose")]
        return await _examine_server(around, url)
    if settings.workers == 1:
        return [ok(Subject.REDIS, "not needed by one worker")]
    own = await in_thread(partial(valkey_url, around))
    if own is not None:
        return await _examine_server(around, own, "embedded")
    try:
        product, version = await server_version()
    except EmbeddedError as error:
        return [problem(Subject.REDIS, str(error), "Install hx-gateway[valkey], or set REDIS_URL.")]
    return [judge_server(Subject.REDIS, product, version, "embedded, not running")]


async def _examine_server(around: Surroundings, url: str, where: str | None = None) -> list[Finding]:
    try:
        pipe = RedisPipe(url, timeout=ANSWER_SECONDS, connect_timeout=ANSWER_SECONDS)
    except DsnError as error:
        return [problem(Subject.REDIS, str(error), "Correct REDIS_URL.")]
    where = where or f"at {place_of(url)}"

    async def ask() -> float:
        seconds, microseconds = await pipe.command("TIME")
        return int(seconds) + int(microseconds) / 1_000_000

    try:
        await pipe.command("PING")
    except DependencyError as error:
        await pipe.close()
        return [unreachable(Subject.REDIS, place_of(url), str(error.kind), "REDIS_URL")]
    try:
        told = _parsed(await pipe.command("INFO"))
        product = "Valkey" if "valkey_version" in told else "Redis"
        version = told.get("valkey_version") or told.get("redis_version", "")
        clock = judge_difference(product, await difference(ask, around.now))
        return [judge_server(Subject.REDIS, product, version, where), *judge_role(told), *judge_memory(told), clock]
    except DependencyError as error:
        detail = f"reachable {where}, and refuses INFO or TIME ({error.kind})"
        return [problem(Subject.REDIS, detail, "Give its user these: ACL SETUSER … +info +time.")]
    finally:
        await pipe.close()


def judge_role(told: Mapping[str, str]) -> list[Finding]:
    """Judge whether the server takes writes, by what ``INFO`` says."""
    if told.get("role") != "slave":
        return []
    return [problem(Subject.REDIS, "it is a replica, which refuses writes", "Let REDIS_URL point to the primary.")]


def judge_memory(told: Mapping[str, str]) -> list[Finding]:
    """Judge whether the server keeps counters and budgets, by what ``INFO`` says."""
    policy, limit = told.get("maxmemory_policy"), int(told.get("maxmemory", 0))
    used = int(told.get("used_memory", 0))
    if policy is None:
        return [note(Subject.REDIS_MEMORY, "it does not tell its maxmemory-policy", f"See that it is {KEEPS_ALL}.")]
    detail = f"{policy}, {used / _MIB:.1f} of {limit / _MIB:.1f} MiB used" if limit else f"{policy}, without a limit"
    if policy != KEEPS_ALL and limit:
        remedy = f"CONFIG SET maxmemory-policy {KEEPS_ALL}, and the same in its configuration file."
        return [problem(Subject.REDIS_MEMORY, f"{detail}: limits and budgets may be evicted", remedy)]
    if policy != KEEPS_ALL:
        return [note(Subject.REDIS_MEMORY, detail, f"Set maxmemory-policy {KEEPS_ALL} before you set maxmemory.")]
    if limit and used > FULL_SHARE * limit:
        remedy = "Raise its maxmemory, or lower HX_CACHE_MAX_BYTES."
        return [problem(Subject.REDIS_MEMORY, f"{detail}: soon it refuses writes", remedy)]
    return [ok(Subject.REDIS_MEMORY, detail)]


def _parsed(info: bytes) -> dict[str, str]:
    lines = info.decode("utf-8", "replace").splitlines()
    return {name: value for name, separator, value in (line.partition(":") for line in lines) if separator}
