"""The tools of the registry's services, as their servers of MCP told them last, and when and how they were asked."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# "C": names are listed in one order whatever the database's locale, and by the index.
_TOOLS = """
CREATE TABLE hx_registry.registry_tools (
    tenant_id text NOT NULL,
    item_id uuid NOT NULL,
    name varchar(128) COLLATE "C" NOT NULL,
    title text,
    description text,
    input_schema jsonb CHECK (jsonb_typeof(input_schema) = 'object'),
    output_schema jsonb CHECK (jsonb_typeof(output_schema) = 'object'),
    annotations jsonb CHECK (jsonb_typeof(annotations) = 'object'),
    definition_hash text NOT NULL,
    first_seen timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, item_id, name),
    CONSTRAINT registry_tools_item_fkey FOREIGN KEY (tenant_id, item_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE
)
"""
# Beside the tools, which are rewritten only when they change: every time that a service is asked is noted here.
_LISTS = """
CREATE TABLE hx_registry.registry_tool_lists (
    tenant_id text NOT NULL,
    item_id uuid NOT NULL,
    asked_at timestamptz NOT NULL,
    fetched_at timestamptz,
    failure_class varchar(20),
    last_error varchar(512),
    warnings text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant_id, item_id),
    CONSTRAINT registry_tool_lists_item_fkey FOREIGN KEY (tenant_id, item_id)
        REFERENCES hx_registry.registry_items (tenant_id, id) ON DELETE CASCADE
) WITH (fillfactor = 70)
"""
# As the words of services (0007), of the name, title and description of each tool.
_WORDS = """
CREATE TABLE hx_registry.registry_tool_words (
    tenant_id text NOT NULL,
    word text COLLATE "C" NOT NULL,
    item_id uuid NOT NULL,
    name varchar(128) COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, word, item_id, name),
    CONSTRAINT registry_tool_words_tool_fkey FOREIGN KEY (tenant_id, item_id, name)
        REFERENCES hx_registry.registry_tools (tenant_id, item_id, name) ON DELETE CASCADE
)
"""
_TABLES = {"registry_tools": _TOOLS, "registry_tool_lists": _LISTS, "registry_tool_words": _WORDS}
_INDEXES = (
    "registry_tools_by_name ON hx_registry.registry_tools (tenant_id, name, item_id)",
    # For the reference: the words of a tool that goes, or changes.
    "registry_tool_words_by_tool ON hx_registry.registry_tool_words (tenant_id, item_id, name)",
)
# What is longer than any word that is asked for would only fill the index.
_INDEX_TOOL = """
CREATE FUNCTION hx_registry.index_tool() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    words text[] := ARRAY(
        SELECT word
        FROM unnest(tsvector_to_array(hx_registry.words_of(NEW.name, NEW.title, NEW.description, '{}'))) AS word
        WHERE octet_length(word) <= 255);
BEGIN
    DELETE FROM hx_registry.registry_tool_words
    WHERE tenant_id = NEW.tenant_id AND item_id = NEW.item_id AND name = NEW.name AND word <> ALL (words);
    INSERT INTO hx_registry.registry_tool_words (tenant_id, word, item_id, name)
    SELECT NEW.tenant_id, word, NEW.item_id, NEW.name FROM unnest(words) AS word ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER index_tool AFTER INSERT OR UPDATE OF title, description ON hx_registry.registry_tools
FOR EACH ROW EXECUTE FUNCTION hx_registry.index_tool()
"""
# As for the other tables of the schema (0007).
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
    """Make the tables, and let each tenant see its own rows."""
    for table, statement in _TABLES.items():
        op.execute(statement)
        op.execute(_POLICY.format(table=table))
        op.execute(f"ALTER TABLE hx_registry.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    for index in _INDEXES:
        op.execute(f"CREATE INDEX {index}")
    op.execute(_INDEX_TOOL)
    op.execute(_TRIGGER)


def downgrade() -> None:
    """Drop them: services tell their tools again."""
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE hx_registry.{table}")
    op.execute("DROP FUNCTION hx_registry.index_tool")
