"""Makes keys: the text that is shown once, and the digest that is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from hx_gateway.access.key_format import MintedKey, mint_key
from hx_gateway.access.peppers import Peppers


class KeyMinter(Protocol):
    """Whoever makes keys. ``mint`` keeps the id of a key that gets a new secret."""

    def mint(self, key_id: str | None = None) -> MintedKey: ...
    def digest(self, text: str) -> tuple[str, bytes]: ...


class PepperedMinter:
    """Makes keys of our form, and digests with the pepper that is current when they are made."""

    def __init__(self, peppers: Callable[[], Peppers]) -> None:
        self._peppers = peppers

    def mint(self, key_id: str | None = None) -> MintedKey:
        """Return a new key."""
        return mint_key(key_id)

    def digest(self, text: str) -> tuple[str, bytes]:
        """Return the pepper's id, and the digest."""
        return self._peppers().digest(text)
