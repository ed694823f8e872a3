"""Registries that tenants take servers from, what was taken, and indexes for the order of the official lists."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_SYNCS = """
CREATE TABLE hx_registry.registry_syncs (
    tenant_id text NOT NULL,
    url varchar(512) NOT NULL,
    watermark timestamptz,
    next_at timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz,
    succeeded_at timestamptz,
    failed_at timestamptz,
    last_error varchar(512),
    created integer NOT NULL DEFAULT 0,
    updated integer NOT NULL DEFAULT 0,
    disabled integer NOT NULL DEFAULT 0,
    skipped integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, url)
)
"""
_SYNCED = """
CREATE TABLE hx_registry.registry_synced (
    tenant_id text NOT NULL,
    url varchar(512) NOT NULL,
    name varchar(200) NOT NULL,
    item_id uuid NOT NULL,
    managed jsonb NOT NULL,
    gone boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, url, name),
    CONSTRAINT registry_synced_item_fkey FOREIGN KEY (tenant_id, item_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE
)
"""
# The order of the official registry's lists, byte for byte: leakproof, so that it serves behind row-level security.
_BY_NAME = """
CREATE INDEX registry_items_by_name_bytes ON hx_registry.registry_items (tenant_id, name COLLATE "C")
"""
# What changed since then, for whoever follows this registry.
_BY_CHANGE = """
CREATE INDEX registry_versions_by_change ON hx_registry.registry_versions (tenant_id, updated_at)
"""
_BY_ITEM = "CREATE INDEX registry_synced_by_item ON hx_registry.registry_synced (tenant_id, item_id)"
# As for the other tables of the registry (0007).
_POLICY = """
CREATE POLICY of_tenant ON hx_registry.{table} USING (
    CASE (SELECT current_setting('hx.tenant', true))
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE tenant_id = (SELECT current_setting('hx.tenant', true))
    END
)
"""
_TABLES = ("registry_syncs", "registry_synced")


def upgrade() -> None:
    """Make the tables, and let each tenant see its own rows."""
    op.execute(_SYNCS)
    op.execute(_SYNCED)
    op.execute(_BY_ITEM)
    op.execute(_BY_NAME)
    op.execute(_BY_CHANGE)
    for table in _TABLES:
        op.execute(_POLICY.format(table=table))
        op.execute(f"ALTER TABLE hx_registry.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Drop them: services that were taken stay, and are the tenant's own from then on."""
    op.execute("DROP INDEX hx_registry.registry_versions_by_change")
    op.execute("DROP INDEX hx_registry.registry_items_by_name_bytes")
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE hx_registry.{table}")
