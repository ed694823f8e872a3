"""The models are what the migrations make."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, MetaData, Table, Text
from sqlalchemy.ext.asyncio import create_async_engine

from hx_gateway.db.models import (
    audit,
    budgets,
    health_history,
    keys,
    registry_checks,
    registry_index,
    registry_items,
    registry_pending,
    registry_sync,
    registry_tools,
    registry_versions,
    teams,
    tenants,
    users,
)
from hx_gateway.db.models.base import Base
from hx_gateway.db.schemas import GATEWAY_SCHEMA, REGISTRY_SCHEMA
from hx_gateway.services.dsn import postgres_dsn

MODULES = (
    audit,
    budgets,
    health_history,
    keys,
    registry_checks,
    registry_index,
    registry_items,
    registry_sync,
    registry_tools,
    registry_pending,
    registry_versions,
    teams,
    tenants,
    users,
)
DIRECTORY = {"api_keys", "audit_log", "budgets", "idempotency_keys", "memberships", "teams", "tenants", "users"}
SERVICES = {"registry_items", "registry_dependencies", "registry_pending_dependencies", "registry_versions"}
HEALTH = {"registry_health", "registry_health_history", "registry_checks", "registry_self_preservation"}
SYNC = {"registry_syncs", "registry_synced"}
TOOLS = {"registry_tools", "registry_tool_lists", "registry_tool_words"}
INDEX = {"registry_words", "registry_tags", "registry_counts"}
TABLES = DIRECTORY | SERVICES | HEALTH | SYNC | TOOLS | INDEX


async def differences(url: str, metadata: MetaData) -> list[Any]:
    """Return what Alembic would change to make the database as ``metadata`` says."""

    def ours(name: str | None, kind: str, parents: dict[str, Any]) -> bool:
        if kind == "schema":
            return name in (GATEWAY_SCHEMA, REGISTRY_SCHEMA)
        return kind != "table" or name in TABLES

    def compare(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "include_schemas": True, "include_name": ours}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    engine = create_async_engine(postgres_dsn(url).replace("postgresql://", "postgresql+asyncpg://"))
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(compare)
    finally:
        await engine.dispose()


def test_every_table_of_the_directory_and_the_registry_has_a_model() -> None:
    assert {table.name for table in Base.metadata.tables.values()} == TABLES
    assert len(MODULES) == 14


async def test_models_and_migrations_say_the_same(migrated: str) -> None:
    assert await differences(migrated, Base.metadata) == []


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (partial(Column, "more", Text), "add_column"),
        (partial(Column, "name", Text, nullable=True), "modify_nullable"),
        (partial(Column, "version", Text, nullable=False), "modify_type"),
    ],
)
async def test_a_model_that_differs_is_found(migrated: str, column: Callable[[], Column[Any]], kind: str) -> None:
    other = MetaData(schema=GATEWAY_SCHEMA)
    for table in Base.metadata.tables.values():
        table.to_metadata(other)
    Table("tenants", other, column(), extend_existing=True)
    found = [one[0] if isinstance(one, list) else one for one in await differences(migrated, other)]
    assert [one[0] for one in found] == [kind]
