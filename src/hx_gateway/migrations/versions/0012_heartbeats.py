"""Services that live by their heartbeats, when each was looked at last, and checks of many that somebody asked for."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# ttl_until: when the next beat is due at the latest. by_beats: nothing but those says how it is.
_HEALTH = """
ALTER TABLE hx_registry.registry_health
    ADD COLUMN ttl_until timestamptz,
    ADD COLUMN by_beats boolean NOT NULL DEFAULT false,
    ADD COLUMN probed_at timestamptz
"""
# Those that there is no way to ask, or that say so themselves.
_BY_BEATS = """
UPDATE hx_registry.registry_health AS health SET by_beats = true
FROM hx_registry.registry_items AS item
WHERE item.tenant_id = health.tenant_id AND item.id = health.item_id AND (
    item.config #> '{health,heartbeat}' = 'true'::jsonb OR CASE item.protocol
    WHEN 'stdio' THEN item.config ->> 'command' IS NULL AND NOT item.auto_start
    WHEN 'http' THEN coalesce(item.endpoint, '') = '' AND coalesce(item.health_check_url, '') = ''
    WHEN 'websocket' THEN coalesce(item.endpoint, '') = ''
    ELSE coalesce(item.endpoint, '') = '' AND coalesce(item.location, '') = ''
END)
"""
# Without a reference to services: those that are gone are told of as gone. Rows go with age.
_CHECKS = """
CREATE TABLE hx_registry.registry_checks (
    tenant_id text NOT NULL,
    id uuid NOT NULL,
    asked_at timestamptz NOT NULL,
    item_ids uuid[] NOT NULL,
    PRIMARY KEY (tenant_id, id)
)
"""
_BY_AGE = "CREATE INDEX registry_checks_by_age ON hx_registry.registry_checks (asked_at)"
# As for the other tables of the schema (0007).
_POLICY = """
CREATE POLICY of_tenant ON hx_registry.registry_checks USING (
    CASE (SELECT current_setting('hx.tenant', true))
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE tenant_id = (SELECT current_setting('hx.tenant', true))
    END
)
"""


def upgrade() -> None:
    """Add the columns and the table; services that cannot be asked live by beats from now on."""
    op.execute(_HEALTH)
    op.execute(_BY_BEATS)
    op.execute(_CHECKS)
    op.execute(_BY_AGE)
    op.execute(_POLICY)
    op.execute("ALTER TABLE hx_registry.registry_checks ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE hx_registry.registry_checks")
    for column in ("ttl_until", "by_beats", "probed_at"):
        op.execute(f"ALTER TABLE hx_registry.registry_health DROP COLUMN {column}")
