"""Budgets: money for a period. What was spent of them is the ledger's."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base, NanoDollars
from hx_gateway.db.schemas import GATEWAY_SCHEMA


class BudgetRow(Base):
    """A budget of a key, user, team, tenant, or of a tenant for one ``model`` (``tenant_model``, owned by the tenant).

    One that has ``deleted_at`` counts no more; another of the same period begins with nothing spent.
    """

    __tablename__ = "budgets"
    __table_args__ = (
        Index(
            "budgets_by_owner",
            "tenant_id",
            "owner_kind",
            "owner_id",
            "period",
            text("coalesce(model, '')"),
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey(f"{GATEWAY_SCHEMA}.tenants.id"))
    owner_kind: Mapped[str]
    owner_id: Mapped[str]
    model: Mapped[str | None]
    period: Mapped[str]
    limit_nano: Mapped[int] = mapped_column(NanoDollars)
    soft_nano: Mapped[int | None] = mapped_column(NanoDollars)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
