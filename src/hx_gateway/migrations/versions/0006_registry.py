"""The registry: services, how they are, and what they depend on."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As for the record: CREATE SCHEMA IF NOT EXISTS asks for the right to make schemas even where there is one.
_SCHEMA = """
DO $$ BEGIN
    IF to_regnamespace('hx_registry') IS NULL THEN
        CREATE SCHEMA hx_registry;
    END IF;
END $$
"""
# In the order that they sort in.
_ENUMS = {
    "service_build_type": ("fastmcp", "stub", "external", "official", "custom", "docker"),
    "service_protocol": ("stdio", "http", "websocket", "tcp", "unix_socket"),
    "service_priority": ("critical", "high", "medium", "low"),
    "service_status": ("healthy", "unhealthy", "unknown", "maintenance", "disabled"),
}
# What stands between words in names, addresses and tags becomes a space: left alone, "com.example/mail" is one word, a
# URL. Immutable, though array_to_string is only stable: of texts it depends on nothing else.
_WORDS = """
CREATE FUNCTION hx_registry.words_of(name text, display_name text, description text, tags text[]) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('pg_catalog.simple', translate(
        concat_ws(' ', name, display_name, description, array_to_string(tags, ' ')), '-_./:@\\,;', '         '))
$$
"""
_ITEMS = """
CREATE TABLE hx_registry.registry_items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id text NOT NULL DEFAULT 'default' REFERENCES hx_gateway.tenants,
    name varchar(255) NOT NULL,
    display_name varchar(255),
    description text,
    build_type hx_registry.service_build_type NOT NULL DEFAULT 'fastmcp',
    protocol hx_registry.service_protocol NOT NULL DEFAULT 'stdio',
    priority hx_registry.service_priority NOT NULL DEFAULT 'medium',
    location varchar(512),
    endpoint varchar(512),
    port integer CHECK (port BETWEEN 1 AND 65535),
    version varchar(50),
    tags text[] NOT NULL DEFAULT '{}',
    service_metadata jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(service_metadata) = 'object'),
    config jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    health_check_url varchar(512),
    is_required boolean NOT NULL DEFAULT false,
    is_enabled boolean NOT NULL DEFAULT true,
    auto_start boolean NOT NULL DEFAULT false,
    source varchar(255),
    registry_url varchar(512),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by varchar(255),
    updated_by varchar(255),
    deleted_at timestamptz,
    is_active boolean NOT NULL DEFAULT true CHECK (is_active = (deleted_at IS NULL)),
    row_version integer NOT NULL DEFAULT 1,
    name_key text NOT NULL GENERATED ALWAYS AS (lower(name)) STORED,
    words tsvector NOT NULL GENERATED ALWAYS AS (hx_registry.words_of(name, display_name, description, tags)) STORED,
    UNIQUE (tenant_id, id)
)
"""
# A row of its own with room on its page: a probe changes no column of an index, and rewrites nothing wide.
_HEALTH = """
CREATE TABLE hx_registry.registry_health (
    tenant_id text NOT NULL,
    item_id uuid NOT NULL,
    status hx_registry.service_status NOT NULL DEFAULT 'unknown',
    success_count bigint NOT NULL DEFAULT 0 CHECK (success_count >= 0),
    failure_count bigint NOT NULL DEFAULT 0 CHECK (failure_count >= 0),
    last_health_check timestamptz,
    response_time_ms double precision CHECK (response_time_ms >= 0),
    last_seen timestamptz,
    PRIMARY KEY (tenant_id, item_id),
    CONSTRAINT registry_health_item_fkey FOREIGN KEY (tenant_id, item_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE
) WITH (fillfactor = 70)
"""
# The tenant is part of both references: no edge leads out of it.
_DEPENDENCIES = """
CREATE TABLE hx_registry.registry_dependencies (
    tenant_id text NOT NULL,
    item_id uuid NOT NULL,
    depends_on_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, item_id, depends_on_id),
    CONSTRAINT registry_dependencies_item_fkey FOREIGN KEY (tenant_id, item_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT registry_dependencies_depends_on_fkey FOREIGN KEY (tenant_id, depends_on_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT registry_dependencies_not_itself CHECK (item_id <> depends_on_id)
)
"""
_TABLES = {"registry_items": _ITEMS, "registry_health": _HEALTH, "registry_dependencies": _DEPENDENCIES}
# Under row-level security an index serves those conditions only that PostgreSQL calls leakproof: equality and order of
# texts, ids and times; not lower(), not an enumeration's equality, nothing of arrays and text search. So a name's lower
# case is a column, and there is no GIN index: no gateway would ever read it.
_INDEXES = (
    (
        "UNIQUE INDEX registry_items_by_name ON hx_registry.registry_items (tenant_id, name_key) "
        "WHERE deleted_at IS NULL"
    ),
    "INDEX registry_items_by_age ON hx_registry.registry_items (tenant_id, created_at, id)",
    "INDEX registry_dependencies_by_end ON hx_registry.registry_dependencies (tenant_id, depends_on_id)",
)
# As for the tables of hx_gateway (0004).
_POLICY = """
CREATE POLICY of_tenant ON hx_registry.{table} USING (
    CASE current_setting('hx.tenant', true)
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE tenant_id = current_setting('hx.tenant', true)
    END
)
"""


def upgrade() -> None:
    """Make the schema, its types and tables, and let each tenant see its own rows."""
    op.execute(_SCHEMA)
    for name, values in _ENUMS.items():
        op.execute(f"CREATE TYPE hx_registry.{name} AS ENUM {values}")
    op.execute(_WORDS)
    for table, statement in _TABLES.items():
        op.execute(statement)
        op.execute(_POLICY.format(table=table))
        op.execute(f"ALTER TABLE hx_registry.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    for index in _INDEXES:
        op.execute(f"CREATE {index}")


def downgrade() -> None:
    """Drop the schema with all it holds."""
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE hx_registry.{table}")
    op.execute("DROP FUNCTION hx_registry.words_of")
    for name in _ENUMS:
        op.execute(f"DROP TYPE hx_registry.{name}")
    op.execute("DROP SCHEMA hx_registry")
