"""The response cache: whether it is on, and where answers are kept."""

from __future__ import annotations

from hx_gateway.answering import cache_defaults
from hx_gateway.cache_rules import CacheMode
from hx_gateway.doctor.findings import Finding, Subject, Surroundings, note, ok, problem
from hx_gateway.settings import NOT_CONFIGURED

_MIB = 1024**2


def examine_cache(around: Surroundings) -> list[Finding]:
    """Look at what is configured; what its stores say of themselves stands with them."""
    settings = around.settings
    defaults = cache_defaults(settings, around.model_config)
    detail = f"{_mode(defaults.mode)}, {_place(around)}"
    if settings.cache_entry_max_bytes > settings.cache_max_bytes:
        remedy = "Raise HX_CACHE_MAX_BYTES, or lower HX_CACHE_ENTRY_MAX_BYTES."
        return [problem(Subject.CACHE, f"{detail}; one answer may be larger than all", remedy)]
    if (
        defaults.mode is not CacheMode.OFF
        and settings.workers > 1
        and settings.redis_url is not None
        and not _redis(around)
    ):
        remedy = "Give REDIS_URL, which all workers share."
        return [note(Subject.CACHE, f"{detail}; each of {settings.workers} workers has its own", remedy)]
    return [ok(Subject.CACHE, detail)]


def _mode(mode: CacheMode) -> str:
    return "off unless a key or a model turns it on" if mode is CacheMode.OFF else f"mode {mode.value}"


def _place(around: Surroundings) -> str:
    room = f"{around.settings.cache_max_bytes / _MIB:.0f} MiB"
    return f"in Redis, {room} a tenant" if _redis(around) else f"in the process, {room}"


def _redis(around: Surroundings) -> bool:
    """Return whether answers go to a Redis: the one that is set, or our own for several workers."""
    settings = around.settings
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value() != NOT_CONFIGURED
    return settings.embedded and settings.workers > 1
