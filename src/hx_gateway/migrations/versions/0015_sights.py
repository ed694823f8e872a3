"""Services that were not seen for long, and those that change to and fro, are counted in indexes."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Periods of five minutes since 1970: an index over the time itself would have to be written with every heartbeat.
_PERIOD = """
ALTER TABLE hx_registry.registry_health ADD COLUMN seen_period integer GENERATED ALWAYS AS (
    floor(extract(epoch FROM last_seen - timestamptz '1970-01-01 00:00:00+00') / 300)::integer
) STORED
"""


def upgrade() -> None:
    """Add the column and the indexes."""
    op.execute(_PERIOD)
    op.execute(
        "CREATE INDEX registry_health_by_sight ON hx_registry.registry_health (tenant_id, seen_period) "
        "INCLUDE (item_id)"
    )
    op.execute("CREATE INDEX registry_health_flapping ON hx_registry.registry_health (tenant_id) WHERE flapping")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP INDEX hx_registry.registry_health_flapping")
    op.execute("ALTER TABLE hx_registry.registry_health DROP COLUMN seen_period")
