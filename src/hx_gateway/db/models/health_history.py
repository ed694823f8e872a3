"""What probes found over time: a row for each service and five minutes; and who takes it for a fault of its own."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Float, Index
from sqlalchemy.dialects.postgresql import ARRAY, REAL
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base
from hx_gateway.db.schemas import REGISTRY_SCHEMA

BUCKET_SECONDS = 300
# At the shortest interval there are 60 in a bucket.
MAX_TIMES = 64


class HealthBucket(Base):
    """The probes of a service in the five minutes from ``bucket`` on.

    Times are milliseconds, of probes that measured one. ``response_times`` holds the first ``MAX_TIMES`` of them, from
    which percentiles are computed over any range; the sum and the most are of all, ``measured`` says how many.
    """

    __tablename__ = "registry_health_history"
    __table_args__ = (Index("registry_health_history_by_age", "bucket"), {"schema": REGISTRY_SCHEMA})

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    successes: Mapped[int]
    failures: Mapped[int]
    measured: Mapped[int]
    response_ms_sum: Mapped[float] = mapped_column(Float(53))
    response_ms_max: Mapped[float] = mapped_column(Float(53))
    response_times: Mapped[list[float]] = mapped_column(ARRAY(REAL))


class PreservingGateway(Base):
    """That a gateway takes the failures of a tenant's services for its own: until it says that it does not, or then."""

    __tablename__ = "registry_self_preservation"
    __table_args__ = {"schema": REGISTRY_SCHEMA}  # noqa: RUF012 - SQLAlchemy's own

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    gateway: Mapped[UUID] = mapped_column(primary_key=True)
    until: Mapped[datetime]
