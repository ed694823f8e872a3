"""What the registry is looked through by, beside its services. Triggers write these tables; here they are only read."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base
from hx_gateway.db.models.registry_items import (
    BuildType,
    ServicePriority,
    ServiceProtocol,
    ServiceStatus,
    enum_column,
)
from hx_gateway.db.schemas import REGISTRY_SCHEMA


class ItemWord(Base):
    """A word of a living item, as text search has it: of its name, display name, description and tags."""

    __tablename__ = "registry_words"
    __table_args__ = {"schema": REGISTRY_SCHEMA}  # noqa: RUF012 - SQLAlchemy's own

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)


class ItemTag(Base):
    """A tag of a living item, as it is."""

    __tablename__ = "registry_tags"
    __table_args__ = {"schema": REGISTRY_SCHEMA}  # noqa: RUF012

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)


class ItemCount(Base):
    """How many items are alike; 0 where there were some."""

    __tablename__ = "registry_counts"
    __table_args__ = {"schema": REGISTRY_SCHEMA}  # noqa: RUF012

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    build_type: Mapped[BuildType] = mapped_column(enum_column(BuildType, "service_build_type"), primary_key=True)
    protocol: Mapped[ServiceProtocol] = mapped_column(
        enum_column(ServiceProtocol, "service_protocol"), primary_key=True
    )
    priority: Mapped[ServicePriority] = mapped_column(
        enum_column(ServicePriority, "service_priority"), primary_key=True
    )
    status: Mapped[ServiceStatus] = mapped_column(enum_column(ServiceStatus, "service_status"), primary_key=True)
    is_enabled: Mapped[bool] = mapped_column(primary_key=True)
    is_required: Mapped[bool] = mapped_column(primary_key=True)
    is_active: Mapped[bool] = mapped_column(primary_key=True)
    items: Mapped[int] = mapped_column(BigInteger)
