"""What is looked for among the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from hx_gateway.registry.repository import in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSearch:
    """Which services are looked for: those that pass all that is given.

    ``filters`` as in :meth:`BaseRepository.get_multi`; ``text`` as in :meth:`BaseRepository.search`. Of ``tags`` a
    service has any, all or none, as ``tags_match`` says. ``stale_for``: not seen for so long, or never. Times are
    aware; ``created_before`` is not among those that are found, the other two are. ``metadata`` is contained in the
    service's. ``deleted``: without those that are deleted, with them, or only them.
    """

    filters: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    tags: frozenset[str] = frozenset()
    tags_match: Literal["any", "all", "none"] = "any"
    stale_for: timedelta | None = None
    name_prefix: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_since: datetime | None = None
    depends_on: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    deleted: Literal["without", "with", "only"] = "without"

    def key(self) -> object:
        """Return what tells this search from others, the same in every process."""
        return in_order(tuple(getattr(self, part.name) for part in fields(self)))
