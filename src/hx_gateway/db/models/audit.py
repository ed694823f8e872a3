"""What was changed by whom, and answers that are given again to a request that comes again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base


class AuditEntry(Base):
    """One change. Rows are only ever added: the database refuses everything else.

    ``hash`` is over the row and ``previous_hash``, that of the tenant's entry before it: whoever changes a row breaks
    the chain.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("audit_log_by_tenant", "tenant_id", "id"),
        Index("audit_log_by_object", "tenant_id", "object_kind", "object_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant_id: Mapped[str]
    at: Mapped[datetime]
    actor_key: Mapped[str]
    actor_user: Mapped[str | None]
    action: Mapped[str]
    object_kind: Mapped[str]
    object_id: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    request_id: Mapped[str]
    previous_hash: Mapped[bytes | None]
    hash: Mapped[bytes]


class IdempotencyKey(Base):
    """What a client's request was answered, by the key that the client gave it. ``response`` holds no secret."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_by_age", "created_at"),)

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    status: Mapped[int]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
