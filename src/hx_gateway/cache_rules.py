"""How answers may be kept and used again, as plain data: access grants it, requests ask for it, the cache obeys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec

MAX_TTL_SECONDS = 30 * 86_400
MAX_NAMESPACE_CHARS = 64


class CacheMode(StrEnum):
    """Whose requests are answered from the cache: nobody's, those that ask for it, or all; by meaning too, or not."""

    OFF = "off"
    ASK = "ask"
    EXACT = "exact"
    MEANING = "meaning"


class CacheScope(StrEnum):
    """Who shares answers. Nothing is ever shared between tenants."""

    TENANT = "tenant"
    TEAM = "team"
    USER = "user"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class CacheRule:
    """What a key, a model or the configuration says; ``None`` where it says nothing."""

    mode: CacheMode | None = None
    ttl_seconds: int | None = None
    scope: CacheScope | None = None


_Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_TTL_SECONDS)]
_Ttl = Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL_SECONDS)]
_Namespace = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAMESPACE_CHARS)]


class CacheAsk(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True, gc=False):
    """The field ``cache`` of a request, in LiteLLM's words.

    ``s_maxage``: how old an answer may be, in seconds; ``ttl``: how long the answer may be kept; ``namespace``: share
    with requests that name the same one only; ``use_cache``: whether to use the cache at all.
    """

    no_cache: bool | None = None
    no_store: bool | None = None
    use_cache: bool | None = None
    ttl: _Ttl | None = None
    s_maxage: _Seconds | None = None
    namespace: _Namespace | None = None
