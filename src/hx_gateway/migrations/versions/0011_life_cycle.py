"""The ends of a service's life: it is removed for good, it is not seen any more, or it is not there yet."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ACTIONS = ("created", "updated", "deleted", "restored", "rotated", "blocked", "unblocked")
_AUDIT = """
ALTER TABLE hx_gateway.audit_log
    DROP CONSTRAINT audit_log_action_check,
    ADD CONSTRAINT audit_log_action_check CHECK (action IN {actions}) {how}
"""
# Names that services depend on, which are nobody's yet. As in the items, the lower case is a column: lower() is not
# leakproof, and would find no index.
_PENDING = """
CREATE TABLE hx_registry.registry_pending_dependencies (
    tenant_id text NOT NULL,
    item_id uuid NOT NULL,
    name varchar(255) NOT NULL,
    name_key text NOT NULL GENERATED ALWAYS AS (lower(name)) STORED,
    PRIMARY KEY (tenant_id, item_id, name_key),
    CONSTRAINT registry_pending_dependencies_item_fkey FOREIGN KEY (tenant_id, item_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE
)
"""
_BY_NAME = """
CREATE INDEX registry_pending_dependencies_by_name ON hx_registry.registry_pending_dependencies (tenant_id, name_key)
"""
# Which gateways take a tenant's failures for their own. One that dies leaves its row, which lapses.
_PRESERVATION = """
CREATE TABLE hx_registry.registry_self_preservation (
    tenant_id text NOT NULL,
    gateway uuid NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, gateway)
)
"""
_TABLES = {"registry_pending_dependencies": _PENDING, "registry_self_preservation": _PRESERVATION}
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


def upgrade() -> None:
    """Let the audit log tell more, make the tables, and add the mark of what is not seen any more."""
    op.execute(_AUDIT.format(actions=(*_ACTIONS, "purged", "noticed"), how=""))
    for table, statement in _TABLES.items():
        op.execute(statement)
        op.execute(_POLICY.format(table=table))
        op.execute(f"ALTER TABLE hx_registry.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    op.execute(_BY_NAME)
    op.execute("ALTER TABLE hx_registry.registry_health ADD COLUMN stale boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    """Drop them. The log keeps what it has."""
    op.execute("ALTER TABLE hx_registry.registry_health DROP COLUMN stale")
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE hx_registry.{table}")
    op.execute(_AUDIT.format(actions=_ACTIONS, how="NOT VALID"))
