"""What all models have in common, and the columns that every administered object has."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, LargeBinary, MetaData, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from hx_gateway.db.schemas import GATEWAY_SCHEMA

# An object for JSON: SQL's null stands for "none", never JSON's.
JSON_OBJECT = JSONB(none_as_null=True)


class Base(DeclarativeBase):
    """Base of every model. There are no relationships: what belongs together is read together, by name."""

    metadata: ClassVar[MetaData] = MetaData(schema=GATEWAY_SCHEMA)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        list[str]: ARRAY(Text),
        dict[str, Any]: JSON_OBJECT,
    }


class Administered:
    """The columns of tenants, teams, users and keys beside their own.

    ``models``: globs, ``None`` for all. ``limits``: ``rpm``, ``tpm``, ``max_parallel``, ``burst``, each if it is
    limited. ``version`` counts the row's changes. One that has ``deleted_at`` is kept, and may be restored.
    """

    name: Mapped[str]
    models: Mapped[list[str] | None]
    limits: Mapped[dict[str, Any]] = mapped_column(default=dict)
    blocked: Mapped[bool] = mapped_column(default=False)
    # ``metadata`` is SQLAlchemy's name on a model.
    details: Mapped[dict[str, Any]] = mapped_column("metadata", default=dict)
    tags: Mapped[list[str]] = mapped_column(default=list)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    created_by: Mapped[str]
    updated_by: Mapped[str]
    deleted_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(default=1)


NanoDollars = BigInteger
