"""Which registries tenants take servers from, and how far that has come."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from hx_gateway.db.models.registry_items import PLACE_CHARS
from hx_gateway.registry.official.source import SourceRefused, one_spelling, without_prefix

MAX_REGISTRIES = 50
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True, order=True)
class Followed:
    """A registry that a tenant takes servers from; ``url`` in one spelling of several."""

    tenant_id: str
    url: str


def followed_of(words: Sequence[str]) -> tuple[Followed, ...]:
    """Return the registries of ``tenant=url`` each. Raises ``ValueError``, which says what is wrong with which."""
    if len(words) > MAX_REGISTRIES:
        raise ValueError(f"there are {len(words)} registries; at most {MAX_REGISTRIES} are followed")
    found = []
    for word in words:
        tenant, _, url = word.partition("=")
        if _TENANT.fullmatch(tenant) is None or len(url) > PLACE_CHARS:
            raise ValueError(f"{word!r} is no tenant and registry, as default=https://registry.example.com")
        try:
            found.append(Followed(tenant, one_spelling(url)))
        except SourceRefused as error:
            raise ValueError(f"of the tenant {tenant!r}: {error.message.removesuffix('.')}") from error
    if len({(one.tenant_id, without_prefix(one.url)) for one in found}) < len(found):
        raise ValueError("a registry is there twice for the same tenant")
    return tuple(found)


@dataclass(slots=True)
class Tally:
    """How many services were made, changed and disabled, and how many servers were passed over."""

    created: int = 0
    updated: int = 0
    disabled: int = 0
    skipped: int = 0

    def add(self, other: Tally) -> None:
        """Add up."""
        self.created += other.created
        self.updated += other.updated
        self.disabled += other.disabled
        self.skipped += other.skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncState:
    """How far a registry was followed.

    ``watermark``: what changed there until then is known. ``last_error`` is ``None`` once all was read again; the
    numbers are those of the last time that it was.
    """

    tenant_id: str
    url: str
    running: bool
    watermark: datetime | None
    next_at: datetime
    succeeded_at: datetime | None
    failed_at: datetime | None
    last_error: str | None
    created: int
    updated: int
    disabled: int
    skipped: int

    @classmethod
    def of(cls, row: Mapping[str, Any], now: datetime) -> SyncState:
        """Return the state that a row tells of."""
        lease = row["lease_until"]
        names = (name for name in cls.__slots__ if name != "running")
        return cls(**{name: row[name] for name in names}, running=lease is not None and lease > now)

    def to_dict(self) -> dict[str, Any]:
        """Return it as it is shown."""
        return asdict(self)
