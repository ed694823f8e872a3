"""The same repository for another model: nothing in it is about services."""

from __future__ import annotations

from typing import ClassVar

import asyncpg
import pytest
from sqlalchemy import CheckConstraint, MetaData, String, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from hx_gateway.db.models.base_model import TenantModel
from hx_gateway.registry.repository import BaseRepository
from tests.integration.registry.registries import Registry


class Memo(TenantModel):
    """A model outside of the program's own tables."""

    metadata: ClassVar[MetaData] = MetaData(schema="hx_registry")
    __table_args__ = (CheckConstraint("title <> 'forbidden'", name="no_rule_knows_this"),)

    title: Mapped[str] = mapped_column(String(20))
    text: Mapped[str | None]


class Memos(BaseRepository[Memo]):
    model = Memo
    searched = ("title", "text")


@pytest.fixture
async def memos(registry: Registry, migrated: str) -> Registry:
    """Give a registry beside which there is a table of memos."""
    assert isinstance(Memo.__table__, Table)
    create = CreateTable(Memo.__table__, if_not_exists=True).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    connection = await asyncpg.connect(migrated)
    await connection.execute(str(create))
    await connection.close()
    return registry


async def test_a_memo_is_kept_found_changed_and_deleted(memos: Registry) -> None:
    async with memos.database.session(memos.tenant) as session:
        repository = Memos(session, memos.trail(session))
        memo = await repository.create({"title": "100% done", "text": "A_b"})
        await repository.create({"title": "another"})
        for text, found in (("100%", 1), ("DONE", 1), ("a_b", 1), ("a%b", 0), ("o", 2), ("%", 1)):
            assert len((await repository.search(text)).items) == found, text
        await repository.update(memo.id, {"title": "200% done"}, expected_version=1)
        await repository.delete(memo.id)
        assert await repository.count() == 1
        assert (await repository.restore(memo.id)).row_version == 4
        assert (await repository.bulk_create([{"title": "x"}, {}])).failures[0].error.param == "title"
    entries = await memos.rows("SELECT DISTINCT object_kind FROM hx_gateway.audit_log")
    assert entries == [{"object_kind": "memo"}]
    assert await memos.first_broken_entry() is None


async def test_a_constraint_that_no_rule_knows_passes_as_it_is_and_leaves_nothing(memos: Registry) -> None:
    async with memos.database.session(memos.tenant) as session:
        repository = Memos(session, memos.trail(session))
        with pytest.raises(IntegrityError, match="no_rule_knows_this"):
            await repository.create({"title": "forbidden"})
        assert await repository.count(include_deleted=True) == 0
