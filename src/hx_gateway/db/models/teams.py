"""Teams, and who is in them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Administered, Base
from hx_gateway.db.schemas import GATEWAY_SCHEMA


class Team(Administered, Base):
    """A team of a tenant. Names are taken once among the living."""

    __tablename__ = "teams"
    __table_args__ = (
        UniqueConstraint("tenant_id", "id"),
        Index(
            "teams_by_name",
            "tenant_id",
            text("lower(name)"),
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index("teams_by_age", "tenant_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey(f"{GATEWAY_SCHEMA}.tenants.id"))


class Membership(Base):
    """A user in a team, as ``admin``, ``member`` or ``read_only``."""

    __tablename__ = "memberships"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "team_id"], [f"{GATEWAY_SCHEMA}.teams.tenant_id", f"{GATEWAY_SCHEMA}.teams.id"]
        ),
        ForeignKeyConstraint(
            ["tenant_id", "user_id"], [f"{GATEWAY_SCHEMA}.users.tenant_id", f"{GATEWAY_SCHEMA}.users.id"]
        ),
        Index("memberships_by_user", "tenant_id", "user_id"),
    )

    team_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    role: Mapped[str] = mapped_column(default="member")
    created_at: Mapped[datetime]
