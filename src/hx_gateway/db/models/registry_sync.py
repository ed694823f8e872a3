"""Which registries tenants take servers from, how far they have come, and what was taken."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKeyConstraint, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base
from hx_gateway.db.models.registry_items import PLACE_CHARS
from hx_gateway.db.models.registry_versions import SERVER_NAME_CHARS
from hx_gateway.db.schemas import REGISTRY_SCHEMA

ERROR_CHARS = 512


class RegistrySyncRow(Base):
    """A registry that a tenant takes servers from.

    What changed there up to ``watermark`` is known. Whoever is at work on it has it until ``lease_until``. The numbers
    are those of the last time that all of it was read.
    """

    __tablename__ = "registry_syncs"
    __table_args__ = ({"schema": REGISTRY_SCHEMA},)

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(String(PLACE_CHARS), primary_key=True)
    watermark: Mapped[datetime | None]
    next_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    lease_until: Mapped[datetime | None]
    succeeded_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(String(ERROR_CHARS))
    created: Mapped[int] = mapped_column(server_default=text("0"))
    updated: Mapped[int] = mapped_column(server_default=text("0"))
    disabled: Mapped[int] = mapped_column(server_default=text("0"))
    skipped: Mapped[int] = mapped_column(server_default=text("0"))


class SyncedServer(Base):
    """A server of such a registry, and the service that was made of it.

    ``managed`` has a digest of each field as it was written last: one that is another now was changed here. It has
    ``missed`` beside them where the server changed while the service was deleted. A server that is ``gone`` was
    disabled because of it.
    """

    __tablename__ = "registry_synced"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "item_id"],
            [f"{REGISTRY_SCHEMA}.registry_items.tenant_id", f"{REGISTRY_SCHEMA}.registry_items.id"],
            name="registry_synced_item_fkey",
            ondelete="CASCADE",
        ),
        Index("registry_synced_by_item", "tenant_id", "item_id"),
        {"schema": REGISTRY_SCHEMA},
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(String(PLACE_CHARS), primary_key=True)
    name: Mapped[str] = mapped_column(String(SERVER_NAME_CHARS), primary_key=True)
    item_id: Mapped[UUID]
    managed: Mapped[dict[str, Any]]
    gone: Mapped[bool] = mapped_column(server_default=text("false"))
