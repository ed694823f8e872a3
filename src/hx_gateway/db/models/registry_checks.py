"""Checks of many services that somebody asked for."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, Uuid
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base
from hx_gateway.db.schemas import REGISTRY_SCHEMA


class RegistryCheck(Base):
    """That somebody asked for services to be probed. What came of it is in their rows of health."""

    __tablename__ = "registry_checks"
    __table_args__ = (Index("registry_checks_by_age", "asked_at"), {"schema": REGISTRY_SCHEMA})

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    asked_at: Mapped[datetime]
    item_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
