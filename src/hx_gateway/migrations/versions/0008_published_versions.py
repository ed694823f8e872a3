"""Published versions of the registry's services: each a document that stays as it was published."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# The document is what clients get, word for word: its name is not read from the service, which may be renamed.
_VERSIONS = """
CREATE TABLE hx_registry.registry_versions (
    tenant_id text NOT NULL,
    name varchar(200) NOT NULL,
    version varchar(255) NOT NULL,
    item_id uuid NOT NULL,
    document jsonb NOT NULL CHECK (jsonb_typeof(document) = 'object'),
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'deprecated', 'deleted')),
    status_message varchar(500),
    status_changed_at timestamptz NOT NULL,
    published_at timestamptz NOT NULL,
    published_by varchar(255),
    updated_at timestamptz NOT NULL,
    is_latest boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, name, version),
    CONSTRAINT registry_versions_item_fkey FOREIGN KEY (tenant_id, item_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE
)
"""
_INDEXES = (
    "UNIQUE INDEX registry_versions_latest ON hx_registry.registry_versions (tenant_id, name) WHERE is_latest",
    "INDEX registry_versions_by_item ON hx_registry.registry_versions (tenant_id, item_id)",
)
# As for the other tables of the registry (0006).
_POLICY = """
CREATE POLICY of_tenant ON hx_registry.registry_versions USING (
    CASE current_setting('hx.tenant', true)
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE tenant_id = current_setting('hx.tenant', true)
    END
)
"""


def upgrade() -> None:
    """Make the table, and let each tenant see its own rows."""
    op.execute(_VERSIONS)
    for index in _INDEXES:
        op.execute(f"CREATE {index}")
    op.execute(_POLICY)
    op.execute("ALTER TABLE hx_registry.registry_versions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Drop the table: what was published is lost, the services stay."""
    op.execute("DROP TABLE hx_registry.registry_versions")
