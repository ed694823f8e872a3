"""What is looked for among the services."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from hx_gateway.registry.repository import in_order

MAX_WORDS = 16
_WORD = re.compile(r"[^\W_]+")
_LITERALS = {"true": True, "false": False, "null": None}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSearch:
    """Which services are looked for: those that pass all that is given.

    ``filters`` as in :meth:`BaseRepository.get_multi`; ``text`` as in :meth:`BaseRepository.search`. Of ``tags`` a
    service has any, all or none, as ``tags_match`` says. ``stale_for``: not seen for so long, or never. Times are
    aware; ``created_before`` is not among those that are found, the other two are. ``metadata`` is contained in the
    service's; of ``members``, each a path into it and a text, a service has all: there is the text, or the number or
    word of JSON that it is, or a list that holds one of these. ``deleted``: without those that are deleted, with
    them, or only them.
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
    members: tuple[tuple[tuple[str, ...], str], ...] = ()
    deleted: Literal["without", "with", "only"] = "without"

    def key(self) -> object:
        """Return what tells this search from others, the same in every process."""
        return in_order(tuple(getattr(self, part.name) for part in fields(self)))


def objects_with(path: Sequence[str], text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of which one is contained where ``path`` leads to what ``text`` says."""
    values: list[Any] = [text]
    if text in _LITERALS:
        values.append(_LITERALS[text])
    elif _NUMBER.fullmatch(text):
        values.append(float(text) if "." in text else int(text))
    for value in values:
        for member in (value, [value]):
            whole: Any = member
            for name in reversed(path):
                whole = {name: whole}
            yield whole


def words_of(text: str) -> list[str]:
    """Return the words that a service is searched by: from 1 to :data:`MAX_WORDS` there may be."""
    return _WORD.findall(text)
