"""What is looked for among the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSearch:
    """Which services are looked for: those that pass all that is given.

    ``filters`` as in :meth:`BaseRepository.get_multi`; ``text`` as in :meth:`BaseRepository.search`. Of ``tags`` a
    service has any, all or none, as ``tags_match`` says. ``stale_for``: not seen for so long, or never. ``deleted``:
    without those that are deleted, with them, or only them.
    """

    filters: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None
    tags: frozenset[str] = frozenset()
    tags_match: Literal["any", "all", "none"] = "any"
    stale_for: timedelta | None = None
    deleted: Literal["without", "with", "only"] = "without"
