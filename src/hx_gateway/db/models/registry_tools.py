"""The tools of services, as their servers told them last."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hx_gateway.db.models.base import Base
from hx_gateway.db.models.registry_items import CLASS_CHARS, ERROR_CHARS
from hx_gateway.db.schemas import REGISTRY_SCHEMA

TOOL_NAME_CHARS = 128


def _of_item(name: str) -> ForeignKeyConstraint:
    item = [f"{REGISTRY_SCHEMA}.registry_items.tenant_id", f"{REGISTRY_SCHEMA}.registry_items.id"]
    return ForeignKeyConstraint(["tenant_id", "item_id"], item, name=name, ondelete="CASCADE")


def _is_object(column: str) -> CheckConstraint:
    return CheckConstraint(f"jsonb_typeof({column}) = 'object'", name=f"registry_tools_{column}_check")


class RegistryTool(Base):
    """A tool of a service. ``definition_hash`` is of all that its server said of it and is kept here.

    ``updated_at`` is when that changed last.
    """

    __tablename__ = "registry_tools"
    __table_args__ = (
        _of_item("registry_tools_item_fkey"),
        *(_is_object(name) for name in ("input_schema", "output_schema", "annotations")),
        Index("registry_tools_by_name", "tenant_id", "name", "item_id"),
        {"schema": REGISTRY_SCHEMA},
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(TOOL_NAME_CHARS, collation="C"), primary_key=True)
    title: Mapped[str | None]
    description: Mapped[str | None]
    input_schema: Mapped[dict[str, Any] | None]
    output_schema: Mapped[dict[str, Any] | None]
    annotations: Mapped[dict[str, Any] | None]
    definition_hash: Mapped[str]
    first_seen: Mapped[datetime]
    updated_at: Mapped[datetime]


class ToolListing(Base):
    """How it went to ask a service for its tools: when that was tried last, and when it worked last.

    ``failure_class`` and ``last_error`` are ``None`` where the last try worked. ``warnings`` tell of what was not kept.
    """

    __tablename__ = "registry_tool_lists"
    __table_args__ = (_of_item("registry_tool_lists_item_fkey"), {"schema": REGISTRY_SCHEMA})

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    asked_at: Mapped[datetime]
    fetched_at: Mapped[datetime | None]
    failure_class: Mapped[str | None] = mapped_column(String(CLASS_CHARS))
    last_error: Mapped[str | None] = mapped_column(String(ERROR_CHARS))
    warnings: Mapped[list[str]] = mapped_column(default=list)


class ToolWord(Base):
    """A word of a tool: of its name, title and description. A trigger writes them; here they are only read."""

    __tablename__ = "registry_tool_words"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "item_id", "name"],
            [f"{REGISTRY_SCHEMA}.registry_tools.{column}" for column in ("tenant_id", "item_id", "name")],
            name="registry_tool_words_tool_fkey",
            ondelete="CASCADE",
        ),
        Index("registry_tool_words_by_tool", "tenant_id", "item_id", "name"),
        {"schema": REGISTRY_SCHEMA},
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(TOOL_NAME_CHARS, collation="C"), primary_key=True)
