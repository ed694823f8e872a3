"""Tenants: whoever shares nothing with the others."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Administered, Base


class Tenant(Administered, Base):
    """A tenant. ``model_limits`` are limits of single models by their names; days begin in ``time_zone``."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(primary_key=True)
    time_zone: Mapped[str] = mapped_column(default="UTC")
    model_limits: Mapped[dict[str, Any]] = mapped_column(default=dict)
