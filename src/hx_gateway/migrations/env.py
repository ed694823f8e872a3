"""What Alembic runs for each command: :mod:`hx_gateway.migrations.runner` hands over the connection."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo

from hx_gateway.db.schemas import GATEWAY_SCHEMA, VERSION_TABLE

_attributes = context.config.attributes


def _note(ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]) -> None:
    _attributes["moved"].append(step.up_revision_id)


context.configure(
    connection=_attributes["connection"],
    version_table=VERSION_TABLE,
    version_table_schema=GATEWAY_SCHEMA,
    transaction_per_migration=True,
    on_version_apply=_note,
)
with context.begin_transaction():
    context.run_migrations()
