"""Which requests are the same one: everything that may change an answer, in one form, and who shares it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from hx_gateway.cache_rules import CacheScope

# Part of every identity: an answer of another form is another one.
VERSION = 1
# To compare a longer request takes too long for the event loop.
MAX_BODY_BYTES = 256 * 1024
# Fields that do not change an answer: its form, who it is for, and how it is filed. All others may.
LEFT_OUT = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "metadata",
        "litellm_metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
        "cache",
    }
)
# Every integer up to here is a double of its own.
_EXACT = 2**53


def _number(text: str) -> int | float:
    """Return a number that is not written as an integer: 1.0 and 1e0 are 1."""
    value = float(text)
    return int(value) if -_EXACT < value < _EXACT and value.is_integer() else value


_decode = msgspec.json.Decoder(float_hook=_number).decode
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_pack = msgspec.msgpack.Encoder().encode


def canonical(body: Mapping[str, msgspec.Raw]) -> bytes | None:
    """Return the fields of ``body`` that may change the answer, alike for values that are equal.

    ``None`` for a body that cannot be compared: one that is too long, or holds a key twice inside of a field, of which
    readers take one or the other.
    """
    fields = {name: value for name, value in body.items() if name not in LEFT_OUT}
    written = _encode(fields)
    if len(written) > MAX_BODY_BYTES:
        return None
    same = _encode_sorted(_decode(written))
    return same if _quotes(same) == _quotes(written) else None


def digest_of(partition: str, namespace: str | None, call: tuple[str | bytes, ...], body: bytes) -> bytes:
    """Return the name that a request is kept under: ``call`` is what it asks for beside its canonical ``body``."""
    return hashlib.sha256(_pack((VERSION, partition, namespace, call, body))).digest()


def partition_of(scope: CacheScope, *, tenant_id: str, team_id: str | None, user_id: str | None, key_id: str) -> str:
    """Return who shares answers with a caller: it begins with the tenant, always.

    Whoever has no team or user where that is the scope shares with nobody but itself.
    """
    match scope:
        case CacheScope.TENANT:
            return tenant_id
        case CacheScope.TEAM if team_id is not None:
            return f"{tenant_id}/team/{team_id}"
        case CacheScope.USER if user_id is not None:
            return f"{tenant_id}/user/{user_id}"
        case _:
            return f"{tenant_id}/key/{key_id}"


def _quotes(data: bytes) -> int:
    """Return how many quotes begin or end a text: two for each, and fewer where a key was dropped."""
    if b"\\" not in data:
        return data.count(b'"')
    return data.count(b'"') - data.replace(b"\\\\", b"").count(b'\\"')
