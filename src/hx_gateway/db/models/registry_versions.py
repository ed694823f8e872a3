"""Published versions of services: what the official registry's API gives out."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKeyConstraint, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.schemas import REGISTRY_SCHEMA

SERVER_NAME_CHARS = 200
SERVER_VERSION_CHARS = 255
STATUS_MESSAGE_CHARS = 500


class RegistryVersion(Base):
    """A version of a server as it was published: ``document`` is its ``server.json``.

    ``status`` is ``active``, ``deprecated`` or ``deleted``. One version of a name ``is_latest``: of those that are not
    deleted, where there is any. The service is ``item_id``; the name is the document's, not the service's.
    """

    __tablename__ = "registry_versions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "item_id"],
            [f"{REGISTRY_SCHEMA}.registry_items.tenant_id", f"{REGISTRY_SCHEMA}.registry_items.id"],
            name="registry_versions_item_fkey",
            ondelete="CASCADE",
        ),
        Index("registry_versions_latest", "tenant_id", "name", unique=True, postgresql_where=text("is_latest")),
        Index("registry_versions_by_item", "tenant_id", "item_id"),
        Index("registry_versions_by_change", "tenant_id", "updated_at"),
        {"schema": REGISTRY_SCHEMA},
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(SERVER_NAME_CHARS), primary_key=True)
    version: Mapped[str] = mapped_column(String(SERVER_VERSION_CHARS), primary_key=True)
    item_id: Mapped[UUID]
    document: Mapped[dict[str, Any]] = mapped_column(deferred=True, deferred_raiseload=True)
    status: Mapped[str] = mapped_column(default="active")
    status_message: Mapped[str | None] = mapped_column(String(STATUS_MESSAGE_CHARS))
    status_changed_at: Mapped[datetime]
    published_at: Mapped[datetime]
    published_by: Mapped[str | None] = mapped_column(String(NAME_CHARS))
    updated_at: Mapped[datetime]
    is_latest: Mapped[bool] = mapped_column(default=False)
