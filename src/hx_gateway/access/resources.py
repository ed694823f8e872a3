"""What is administered, and how it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from hx_gateway.access.principal import Principal

MAX_PAGE = 200


class ResourceKind(StrEnum):
    """The kinds of objects."""

    TENANT = "tenant"
    TEAM = "team"
    USER = "user"
    KEY = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks, in which request, from where; ``traceparent`` is the client's own (W3C Trace Context), unchecked."""

    principal: Principal
    request_id: str
    client: str
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which part of a list. ``sort`` names a field, with ``-`` before it from the greatest down."""

    filters: Mapping[str, str] = field(default_factory=dict)
    sort: str = "-created_at"
    cursor: str | None = None
    limit: int = 50
    include_deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Objects as they are shown. ``next_cursor`` is ``None`` on the last page."""

    items: list[dict[str, Any]]
    next_cursor: str | None
