"""Services that were not seen for long, and those that change to and fro, are counted in indexes."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes. A probe moves its row already, for the time of the next one: this is one entry more."""
    op.execute(
        "CREATE INDEX registry_health_by_sight ON hx_registry.registry_health (tenant_id, last_seen) INCLUDE (item_id)"
    )
    op.execute("CREATE INDEX registry_health_flapping ON hx_registry.registry_health (tenant_id) WHERE flapping")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP INDEX hx_registry.registry_health_flapping")
    op.execute("DROP INDEX hx_registry.registry_health_by_sight")
