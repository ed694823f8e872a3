"""What is known of a key when one is presented: how to verify it, whether it still holds, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeAlias

from hx_gateway.access.principal import Principal

# A kind (``key``, ``user``, ``team`` or ``tenant``) and an id.
Owner: TypeAlias = tuple[str, str]


class Standing(StrEnum):
    """Whether a key holds, apart from its expiry.

    A key is blocked or deleted as soon as one it belongs to is, and blocked as soon as a key above it is.
    """

    ACTIVE = "active"
    BLOCKED = "blocked"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """One key as its row says. ``version`` counts the row's changes.

    ``digest`` is ``None`` for an imported key that was not used yet: then the text's SHA-256 must be
    ``imported_sha256``. The previous digest is that of a rotated key and good until ``previous_expires_at``.
    ``above`` are the owners of the keys that it was made with, and those were made with.
    """

    id: str
    version: int
    principal: Principal
    standing: Standing = Standing.ACTIVE
    digest: bytes | None = field(default=None, repr=False)
    pepper_id: str = ""
    previous_digest: bytes | None = field(default=None, repr=False)
    previous_pepper_id: str = ""
    previous_expires_at: datetime | None = None
    imported_sha256: bytes | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    above: tuple[Owner, ...] = ()

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Whose change changes this key: pairs of kind and id, the key's own first."""
        return tuple(dict.fromkeys((*owners_of(self.principal), *self.above)))


def owners_of(principal: Principal) -> tuple[Owner, ...]:
    """Return what the key of ``principal`` depends on, apart from the keys above it."""
    pairs = [("key", str(principal.key_id)), ("tenant", str(principal.tenant_id))]
    if principal.user_id is not None:
        pairs.append(("user", principal.user_id))
    teams = principal.member_teams if principal.team_id is None else principal.member_teams | {principal.team_id}
    return (*pairs, *(("team", team) for team in teams))


class KeySource(Protocol):
    """Whoever keeps the keys. Every method raises when it cannot tell, whatever the driver raises: it never guesses."""

    async def load(self, key_id: str) -> KnownKey | None:
        """Return the key with that id, also one that is blocked or deleted; ``None``: there is none."""
        ...

    async def load_imported(self, sha256: bytes) -> KnownKey | None:
        """Return the imported key whose text has that SHA-256."""
        ...

    async def any_imported(self) -> bool:
        """Return whether there is an imported key at all."""
        ...

    async def keep_digest(self, known: KnownKey, pepper_id: str, digest: bytes) -> None:
        """Replace the digest of ``known`` by one of the same text, unless it was replaced by somebody else."""
        ...

    async def load_active(self, limit: int) -> list[KnownKey]:
        """Return keys that are neither deleted nor expired, those first that are the likeliest to be presented."""
        ...
