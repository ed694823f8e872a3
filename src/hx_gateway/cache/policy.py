"""Whether a request is answered from the cache, and what is kept of it: what is configured, and what it asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from hx_gateway.cache_rules import CacheAsk, CacheMode, CacheRule, CacheScope
from hx_gateway.errors import InvalidRequest

DEFAULT_TTL_SECONDS = 3600
# Higher than what others ship: a wrong answer costs more than a call.
DEFAULT_SIMILARITY = 0.95
HEADER = "x-hx-cache"
SIMILARITY_HEADER = "x-hx-cache-similarity"
ON, OFF, REFRESH, MEANING = "on", "off", "refresh", "meaning"
_WORDS = (ON, OFF, REFRESH, MEANING)
_NOTHING = CacheRule()
_NO_ASK = CacheAsk()
# RFC 9111, 5.2.1: the directives of a request that mean something here.
_MAX_AGE = re.compile(r"max-age\s*=\s*\"?([^\"\s,]*)\"?", re.IGNORECASE)
_MAX_AGE_DIGITS = 9
_SIMILARITY = re.compile(rb"0(\.[0-9]{1,9})?|1(\.0{1,9})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDefaults:
    """What holds where neither the key nor the model says otherwise; ``models`` has the models' rules by name."""

    mode: CacheMode = CacheMode.OFF
    ttl_seconds: int = DEFAULT_TTL_SECONDS
    scope: CacheScope = CacheScope.TENANT
    similarity: float = DEFAULT_SIMILARITY
    models: Mapping[str, CacheRule] = field(default_factory=dict)

    def plan_of(self, key: CacheRule | None, model: str) -> Plan | None:
        """Return what is done for a request that asks for nothing; ``None`` where the cache is off.

        The key's word is taken before the model's, and that before the configuration's; ``off`` of either is final.
        """
        of_key, of_model = key or _NOTHING, self.models.get(model, _NOTHING)
        mode = of_key.mode or of_model.mode or self.mode
        if mode is CacheMode.OFF or of_model.mode is CacheMode.OFF:
            return None
        return Plan(
            ttl_seconds=of_key.ttl_seconds or of_model.ttl_seconds or self.ttl_seconds,
            scope=of_key.scope or of_model.scope or self.scope,
            asked_only=mode is CacheMode.ASK,
            by_meaning=mode is CacheMode.MEANING,
            similarity=self.similarity,
        )

    def may_be_alone(self, scope: CacheScope | None, *, team_id: str | None, user_id: str | None) -> bool:
        """Return whether a key of ``scope`` (``None``: as a model or the configuration has it) may share with nobody.

        Its answers are nobody's once it is gone.
        """
        of_models = {rule.scope for rule in self.models.values() if rule.scope is not None}
        scopes = {self.scope, *of_models} if scope is None else {scope}
        missing = {CacheScope.TEAM: team_id, CacheScope.USER: user_id, CacheScope.KEY: None}
        return any(narrow in scopes and missing[narrow] is None for narrow in missing)


class Plan(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is done for one request.

    ``asked_only``: only if it asks; ``max_age_seconds``: how old an answer may be; ``namespace`` narrows who shares.
    ``by_meaning``: answers to other words will do, whose ``similarity`` is at least so much.
    """

    ttl_seconds: int
    scope: CacheScope
    asked_only: bool = False
    look_up: bool = True
    keep: bool = True
    max_age_seconds: int | None = None
    namespace: str | None = None
    by_meaning: bool = False
    similarity: float = DEFAULT_SIMILARITY


def plan_for(
    plan: Plan,
    ask: CacheAsk | None,
    header: bytes | None,
    cache_control: bytes | None,
    similarity: bytes | None = None,
) -> Plan | None:
    """Return ``plan`` as a request wants it, ``None`` where nothing is done for it.

    A request can only narrow what is planned: the strictest of its wishes holds. But that it may be answered by
    meaning, and how near is near enough, is for it to say. Raises ``InvalidRequest`` for headers of ours that cannot
    be read.
    """
    word, near = _word(header), _similarity(similarity)
    if ask is None and cache_control is None and word is None and near is None:
        return None if plan.asked_only else plan
    wish = ask or _NO_ASK
    if plan.asked_only and word is None and near is None and wish.use_cache is not True:
        return None
    no_cache, no_store, max_age = _directives(cache_control)
    off = word == OFF or wish.use_cache is False
    ages = [age for age in (max_age, wish.s_maxage) if age is not None]
    return msgspec.structs.replace(
        plan,
        look_up=not (off or no_cache or wish.no_cache or word == REFRESH),
        keep=not (off or no_store or wish.no_store),
        ttl_seconds=min(plan.ttl_seconds, wish.ttl or plan.ttl_seconds),
        max_age_seconds=min(ages, default=None),
        namespace=wish.namespace,
        by_meaning=plan.by_meaning or word == MEANING or near is not None,
        similarity=plan.similarity if near is None else near,
    )


def _word(header: bytes | None) -> str | None:
    if header is None:
        return None
    word = header.decode("latin-1").strip().lower()
    if word not in _WORDS:
        raise InvalidRequest(
            f"The header {HEADER!r} must be {ON!r}, {OFF!r}, {REFRESH!r} or {MEANING!r}, not {word[:40]!r}.",
            param=HEADER,
            code="invalid_value",
        )
    return word


def _similarity(header: bytes | None) -> float | None:
    if header is None:
        return None
    if _SIMILARITY.fullmatch(header.strip()) is None:
        raise InvalidRequest(
            f"The header {SIMILARITY_HEADER!r} must be a number from 0 to 1, not {header.decode('latin-1')[:40]!r}.",
            param=SIMILARITY_HEADER,
            code="invalid_value",
        )
    return float(header)


def _directives(cache_control: bytes | None) -> tuple[bool, bool, int | None]:
    """Return what ``cache-control`` says of a look-up, of keeping, and of age; unknown directives mean nothing.

    An age that cannot be read is none at all (RFC 9111, 4.2.1): whatever is kept is too old.
    """
    if cache_control is None:
        return False, False, None
    text = cache_control.decode("latin-1").lower()
    words = {part.partition("=")[0].strip() for part in text.split(",")}
    found = _MAX_AGE.search(text) if "max-age" in words else None
    age: int | None = None
    if "max-age" in words:
        digits = found[1] if found is not None else ""
        age = int(digits[:_MAX_AGE_DIGITS]) if digits.isascii() and digits.isdigit() else 0
    return "no-cache" in words, "no-store" in words, age
