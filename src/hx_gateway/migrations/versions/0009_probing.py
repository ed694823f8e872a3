"""When a service is probed next and by whom, what was found, and what was found in the last days."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# next_check_at: null for what is deleted. lease_until: a prober is at work on it, and nobody else until then.
_HEALTH = """
ALTER TABLE hx_registry.registry_health
    ADD COLUMN next_check_at timestamptz DEFAULT now(),
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN observed hx_registry.service_status NOT NULL DEFAULT 'unknown'
        CONSTRAINT registry_health_observed_check CHECK (observed IN ('healthy', 'unhealthy', 'unknown')),
    ADD COLUMN consecutive_failures integer NOT NULL DEFAULT 0,
    ADD COLUMN consecutive_successes integer NOT NULL DEFAULT 0,
    ADD COLUMN flapping boolean NOT NULL DEFAULT false,
    ADD COLUMN transitions timestamptz[] NOT NULL DEFAULT '{}',
    ADD COLUMN failure_class varchar(20),
    ADD COLUMN last_error varchar(512),
    ADD COLUMN auth_required boolean NOT NULL DEFAULT false,
    ADD COLUMN level varchar(20),
    ADD COLUMN maintenance_until timestamptz
"""
# The one index besides the key. Its order of times is leakproof, so that it is read under row-level security too.
_DUE = """
CREATE INDEX registry_health_due ON hx_registry.registry_health (next_check_at) WHERE next_check_at IS NOT NULL
"""
# Without a reference to the service: its check would lock the service's row while rows of health are locked, and who
# changes services takes them the other way round. Rows go with age.
_HISTORY = """
CREATE TABLE hx_registry.registry_health_history (
    tenant_id text NOT NULL,
    item_id uuid NOT NULL,
    bucket timestamptz NOT NULL,
    successes integer NOT NULL,
    failures integer NOT NULL,
    measured integer NOT NULL,
    response_ms_sum double precision NOT NULL,
    response_ms_max double precision NOT NULL,
    response_times real[] NOT NULL,
    PRIMARY KEY (tenant_id, item_id, bucket)
) WITH (fillfactor = 80)
"""
_BY_AGE = "CREATE INDEX registry_health_history_by_age ON hx_registry.registry_health_history (bucket)"
# As for the other tables of the schema (0006).
_POLICY = """
CREATE POLICY of_tenant ON hx_registry.registry_health_history USING (
    CASE current_setting('hx.tenant', true)
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE tenant_id = current_setting('hx.tenant', true)
    END
)
"""
# Those that are deleted already are not probed.
_NOT_THE_DELETED = """
UPDATE hx_registry.registry_health AS health SET next_check_at = NULL
FROM hx_registry.registry_items AS item
WHERE item.tenant_id = health.tenant_id AND item.id = health.item_id AND item.deleted_at IS NOT NULL
"""
_COLUMNS = (
    "next_check_at",
    "lease_until",
    "observed",
    "consecutive_failures",
    "consecutive_successes",
    "flapping",
    "transitions",
    "failure_class",
    "last_error",
    "auth_required",
    "level",
    "maintenance_until",
)


def upgrade() -> None:
    """Add the columns and the table; every living service is due at once."""
    op.execute(_HEALTH)
    op.execute(_NOT_THE_DELETED)
    op.execute(_DUE)
    op.execute(_HISTORY)
    op.execute(_BY_AGE)
    op.execute(_POLICY)
    op.execute("ALTER TABLE hx_registry.registry_health_history ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE hx_registry.registry_health_history")
    op.execute("DROP INDEX hx_registry.registry_health_due")
    for column in _COLUMNS:
        op.execute(f"ALTER TABLE hx_registry.registry_health DROP COLUMN {column}")
