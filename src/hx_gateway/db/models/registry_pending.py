"""Names that services depend on before there are services of these names."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Computed, ForeignKeyConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base
from hx_gateway.db.models.base_model import NAME_CHARS
from hx_gateway.db.models.validation import unstorable
from hx_gateway.db.schemas import REGISTRY_SCHEMA


class PendingDependency(Base):
    """That an item is to depend on whichever gets a name that nobody has yet."""

    __tablename__ = "registry_pending_dependencies"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "item_id"],
            [f"{REGISTRY_SCHEMA}.registry_items.tenant_id", f"{REGISTRY_SCHEMA}.registry_items.id"],
            name="registry_pending_dependencies_item_fkey",
            ondelete="CASCADE",
        ),
        Index("registry_pending_dependencies_by_name", "tenant_id", "name_key"),
        {"schema": REGISTRY_SCHEMA},
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARS))
    name_key: Mapped[str] = mapped_column(Computed("lower((name)::text)"), primary_key=True)


def names_in_order(names: Any) -> Any:
    """Return several names in order; everything else, and what holds anything else, as it is."""
    several = isinstance(names, list | tuple | set | frozenset) and all(isinstance(name, str) for name in names)
    return sorted(names) if several else names


def are_names(names: Any, most: int) -> bool:
    """Return whether a value is at most so many names of services, each once whatever its case."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    fit = all(0 < len(name) <= NAME_CHARS and name == name.strip() and unstorable(name) is None for name in names)
    return fit and len(names) == len({name.lower() for name in names}) <= most
