"""What values of settings are read as, and which must not be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SecretStr
from pydantic_settings import NoDecode

ADMIN_KEY_MIN_LENGTH = 32
WEAK_KEYS = frozenset({"sk-1234", "sk-hx-dev-1234", "changeme", "secret", "password", "admin", "test"})


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
OptionalText = Annotated[str | None, BeforeValidator(_blank_is_none)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_blank_is_none)]
OptionalPath = Annotated[Path | None, BeforeValidator(_blank_is_none)]


def check_admin_key(key: str) -> None:
    """Raise ``ValueError`` for a key that is well known, short or not printable. The key is not repeated."""
    if key.lower() in WEAK_KEYS:
        raise ValueError("is a well-known key; use a random one of 32 characters or more")
    if len(key) < ADMIN_KEY_MIN_LENGTH:
        raise ValueError(f"has {len(key)} characters; use a random one of {ADMIN_KEY_MIN_LENGTH} or more")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("holds a space, a control character or a non-ASCII one")
    if len(set(key)) < 8:
        raise ValueError("repeats a few characters; use a random one")
