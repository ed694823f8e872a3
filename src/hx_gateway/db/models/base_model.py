"""The base of objects that are registered: an id, who touched them when, and deletion that can be taken back."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, ClassVar, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import ColumnDefault, String, inspect
from sqlalchemy.orm import Mapped, declared_attr, mapped_column
from sqlalchemy.orm.attributes import History

from hx_gateway.db.models.base import Base
from hx_gateway.db.models.validation import (
    InvalidModel,
    Problem,
    coerced,
    column_problems,
    stored_columns,
)

NAME_CHARS = 255
_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class FieldChange(NamedTuple):
    """A field's value as it was stored, and as it is now."""

    old: Any
    new: Any


def snake_case(class_name: str) -> str:
    """Return ``TestModel`` as ``test_model``."""
    return _WORD_STARTS.sub("_", class_name).lower()


def table_name(class_name: str) -> str:
    """Return ``TestModel`` as ``test_models``: snake case, in the plural."""
    name = snake_case(class_name)
    if re.search(r"[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    return f"{name}es" if re.search(r"(s|x|z|ch|sh)$", name) else f"{name}s"


class BaseModel(Base):
    """What every registered object has. Its columns' defaults hold from the moment it is made, not from the flush.

    Times are aware UTC. ``created_by`` and ``updated_by`` name who did it, ``None`` where nobody is known. One that
    has ``deleted_at`` is kept, is not ``is_active``, and may be restored. Nothing here asks the database.
    """

    __abstract__ = True

    # Fields that nobody sets by their names, and that an audit does not tell of.
    protected: ClassVar[frozenset[str]] = frozenset(
        {"id", "created_at", "updated_at", "created_by", "updated_by", "deleted_at", "is_active"}
    )
    unrecorded: ClassVar[frozenset[str]] = frozenset({"updated_at", "updated_by", "is_deleted", "age_seconds"})

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
    updated_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))
    created_by: Mapped[str | None] = mapped_column(String(NAME_CHARS))
    updated_by: Mapped[str | None] = mapped_column(String(NAME_CHARS))
    deleted_at: Mapped[datetime | None]
    is_active: Mapped[bool] = mapped_column(default=True)

    @declared_attr.directive
    def __tablename__(cls) -> str:  # noqa: N805 - SQLAlchemy gives the class
        return table_name(cls.__name__)

    def __init__(self, **values: Any) -> None:
        """Make an object. Raises :class:`InvalidModel` for a field that there is not."""
        unknown = values.keys() - self.field_names()
        if unknown:
            raise InvalidModel(*(Problem(name, "is not a field") for name in sorted(unknown)))
        columns = stored_columns(inspect(type(self)))
        made = {
            name: column.default.arg for name, column in columns.items() if isinstance(column.default, ColumnDefault)
        }
        defaults = {name: arg(None) if callable(arg) else arg for name, arg in made.items() if name not in values}
        if {"created_at", "updated_at"} <= defaults.keys():
            defaults["updated_at"] = defaults["created_at"]
        given = {name: coerced(columns[name], value) if name in columns else value for name, value in values.items()}
        super().__init__(**{**defaults, **given})

    @classmethod
    def field_names(cls) -> frozenset[str]:
        """Return the names of all fields that an object is made of."""
        return frozenset(stored_columns(inspect(cls)))

    @property
    def is_deleted(self) -> bool:
        """Whether it was deleted and not restored."""
        return self.deleted_at is not None

    @property
    def age_seconds(self) -> float:
        """Seconds since it was created."""
        return self.age().total_seconds()

    def age(self, now: datetime | None = None) -> timedelta:
        """Return how long before ``now`` it was created."""
        return (now or datetime.now(UTC)) - self.created_at

    def deleted_for(self, now: datetime | None = None) -> timedelta | None:
        """Return how long before ``now`` it was deleted, ``None`` for a living one."""
        return None if self.deleted_at is None else (now or datetime.now(UTC)) - self.deleted_at

    def soft_delete(self, by: str | None = None, *, now: datetime | None = None) -> None:
        """Delete it; one that is deleted stays as it is."""
        if self.deleted_at is None:
            self.deleted_at = now or datetime.now(UTC)
            self.is_active = False
            self.touch(by, now=self.deleted_at)

    def restore(self, by: str | None = None, *, now: datetime | None = None) -> None:
        """Take its deletion back; a living one stays as it is."""
        if self.deleted_at is not None:
            self.deleted_at = None
            self.is_active = True
            self.touch(by, now=now)

    def touch(self, by: str | None = None, *, now: datetime | None = None) -> None:
        """Note that it was changed, and by whom if that is known."""
        self.updated_at = now or datetime.now(UTC)
        self.updated_by = by or self.updated_by

    def update_fields(self, **values: Any) -> dict[str, FieldChange]:
        """Set fields; return those whose values differ. Raises :class:`InvalidModel` and sets none of them.

        Refused are names that are no fields, and :attr:`protected` ones. Values are not looked at:
        :meth:`validate_model` does that.
        """
        self.check_names(values)
        columns = stored_columns(inspect(type(self)))
        changed = {}
        for name, given in values.items():
            old, new = getattr(self, name), coerced(columns[name], given) if name in columns else given
            if old != new:
                setattr(self, name, new)
                changed[name] = FieldChange(old, new)
        return changed

    @classmethod
    def check_names(cls, names: Collection[str]) -> None:
        """Raise :class:`InvalidModel` for names that are no fields, or that nobody may set."""
        problems = [Problem(name, "is not a field") for name in names if name not in cls.field_names()]
        problems += [Problem(name, "is not set by its name") for name in names if name in cls.protected]
        if problems:
            raise InvalidModel(*sorted(problems))

    def validate_model(self) -> None:
        """Raise :class:`InvalidModel` if any field breaks a rule; the message names all that do."""
        problems = tuple(self.problems())
        if problems:
            raise InvalidModel(*problems)

    def problems(self) -> Iterator[Problem]:
        """Yield the rules that are broken: types, lengths, and what is missing."""
        columns = stored_columns(inspect(type(self)))
        yield from column_problems({name: getattr(self, name) for name in columns}, columns)

    def get_changes(self) -> dict[str, FieldChange]:
        """Return what differs from what is stored, by field; of a new object everything that is set.

        Assigned values count. A list or an object that was changed in place is not noticed, here and by the flush:
        assign a new one.
        """
        state = inspect(self)
        changes = {}
        for name in stored_columns(state.mapper):
            history: History = state.attrs[name].history
            if history.added and (history.added[0] is not None or history.deleted):
                changes[name] = FieldChange(history.deleted[0] if history.deleted else None, history.added[0])
        return changes

    def to_dict(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Return columns, ``is_deleted`` and ``age_seconds`` as JSON has them.

        Ids are texts, times RFC 3339, members of enumerations their values.
        """
        shown = {**self.values(), "is_deleted": self.is_deleted, "age_seconds": self.age_seconds}
        return {name: _as_json(value) for name, value in shown.items() if name not in exclude}

    def values(self) -> dict[str, Any]:
        """Return all fields' values."""
        return {name: getattr(self, name) for name in sorted(self.field_names())}


class TenantModel(BaseModel):
    """One that belongs to a tenant. ``row_version`` counts its changes."""

    __abstract__ = True

    protected: ClassVar[frozenset[str]] = BaseModel.protected | {"tenant_id", "row_version"}
    unrecorded: ClassVar[frozenset[str]] = BaseModel.unrecorded | {"row_version"}

    tenant_id: Mapped[str] = mapped_column(default="default")
    row_version: Mapped[int] = mapped_column(default=1)


def _as_json(value: Any) -> Any:
    match value:
        case UUID():
            return str(value)
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case list():
            return [_as_json(part) for part in value]
    return value
