"""What a model configuration says of the response cache: LiteLLM's own switch, and a rule for a model."""

from __future__ import annotations

from hx_gateway.cache_rules import MAX_TTL_SECONDS, CacheMode, CacheRule, CacheScope
from hx_gateway.gateway.config_document import Section

# LiteLLM's places that mean the same here: the process, and the Redis that the gateway has.
_KNOWN_PLACES = ("local", "redis")
_MODES = {"default_on": CacheMode.EXACT, "default_off": CacheMode.ASK}


def model_rule(info: Section) -> CacheRule | None:
    """Return the rule of ``model_info.cache``: a mode, or a mapping of ``mode``, ``ttl_seconds`` and ``scope``."""
    if not info.has("cache"):
        return None
    if not info.is_section("cache"):
        return CacheRule(mode=_mode(info, "cache"))
    rule = info.section("cache")
    scope = rule.choice("scope", tuple(scope.value for scope in CacheScope))
    found = CacheRule(
        mode=_mode(rule, "mode"),
        ttl_seconds=_seconds(rule, "ttl_seconds"),
        scope=None if scope is None else CacheScope(scope),
    )
    if unread := rule.unread():
        raise rule.error(unread[0], "is not known: 'mode', 'ttl_seconds' and 'scope' are")
    return found


def general_rule(litellm: Section) -> CacheRule | None:
    """Return what ``litellm_settings.cache`` and ``cache_params`` come to; ``None`` where they turn nothing on."""
    if not litellm.flag("cache"):
        return None
    parameters = litellm.section("cache_params")
    mode = parameters.choice("mode", tuple(_MODES))
    return CacheRule(mode=_MODES[mode or "default_on"], ttl_seconds=_seconds(parameters, "ttl"))


def unused_parameters(litellm: Section) -> list[str]:
    """Return the ``cache_params`` that mean nothing here: answers are kept where the gateway keeps them."""
    parameters = litellm.section("cache_params")
    parameters.know("ttl", "mode")
    if parameters.choice("type", None) not in _KNOWN_PLACES:
        return [*(["type"] if parameters.has("type") else []), *parameters.unread()]
    return parameters.unread()


def _mode(section: Section, key: str) -> CacheMode | None:
    word = section.choice(key, tuple(mode.value for mode in CacheMode))
    return None if word is None else CacheMode(word)


def _seconds(section: Section, key: str) -> int | None:
    seconds = section.seconds(key)
    if seconds is None:
        return None
    if not 1 <= seconds <= MAX_TTL_SECONDS:
        raise section.error(key, f"must be a number of seconds from 1 to {MAX_TTL_SECONDS:,}")
    return int(seconds)
