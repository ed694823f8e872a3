"""Keys: what callers present."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import JSON_OBJECT, Administered, Base
from hx_gateway.db.schemas import GATEWAY_SCHEMA


class ApiKey(Administered, Base):
    """A key: its digest, never its text. It may belong to a team, to a user, to both, or to the tenant alone.

    ``previous_digest`` is that of the text before the last rotation, and good until ``previous_expires_at``. A key
    that was imported is known by ``imported_sha256`` until it is used for the first time, which gives it a digest.
    ``granted_by`` is the key that it was made with, which holds it to its own rights; it may be another tenant's.
    ``cache``: ``mode``, ``ttl_seconds``, ``scope``, each if the key says so.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "team_id"], [f"{GATEWAY_SCHEMA}.teams.tenant_id", f"{GATEWAY_SCHEMA}.teams.id"]
        ),
        ForeignKeyConstraint(
            ["tenant_id", "user_id"], [f"{GATEWAY_SCHEMA}.users.tenant_id", f"{GATEWAY_SCHEMA}.users.id"]
        ),
        Index("api_keys_by_age", "tenant_id", "created_at", "id"),
        Index("api_keys_by_team", "tenant_id", "team_id", postgresql_where=text("team_id IS NOT NULL")),
        Index("api_keys_by_user", "tenant_id", "user_id", postgresql_where=text("user_id IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey(f"{GATEWAY_SCHEMA}.tenants.id"))
    team_id: Mapped[str | None]
    user_id: Mapped[str | None]
    granted_by: Mapped[str | None] = mapped_column(ForeignKey(f"{GATEWAY_SCHEMA}.api_keys.id"))
    prefix: Mapped[str]
    last_four: Mapped[str]
    digest: Mapped[bytes | None]
    pepper_id: Mapped[str | None]
    previous_digest: Mapped[bytes | None]
    previous_pepper_id: Mapped[str | None]
    previous_expires_at: Mapped[datetime | None]
    imported_sha256: Mapped[bytes | None] = mapped_column(unique=True)
    admin_role: Mapped[str | None]
    aliases: Mapped[dict[str, Any]] = mapped_column(default=dict)
    allowed_routes: Mapped[list[str] | None]
    scopes: Mapped[list[str]] = mapped_column(default=list)
    expires_at: Mapped[datetime | None]
    cache: Mapped[dict[str, Any] | None] = mapped_column(JSON_OBJECT)
