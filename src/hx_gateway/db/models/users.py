"""Users: people, and programs that act as one."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Administered, Base
from hx_gateway.db.schemas import GATEWAY_SCHEMA


class User(Administered, Base):
    """A user of a tenant: ``platform_admin``, ``tenant_admin`` or ``member``. The living take an address once."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("tenant_id", "id"),
        Index(
            "users_by_email",
            "tenant_id",
            text("lower(email)"),
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index("users_by_age", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey(f"{GATEWAY_SCHEMA}.tenants.id"))
    email: Mapped[str | None]
    role: Mapped[str] = mapped_column(default="member")
