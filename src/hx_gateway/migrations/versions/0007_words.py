"""What the registry is looked through by: words and tags by themselves, an index for each order, and counts."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Behind row-level security an index serves the equality and order of texts, not text search and arrays. So each word
# is a row, of the lexemes that the search is for; "C", so that a beginning is a range. No references to the items:
# they would be checked for each word. Triggers keep them, also when somebody writes items by hand.
_WORDS = """
CREATE TABLE hx_registry.registry_words (
    tenant_id text NOT NULL,
    word text COLLATE "C" NOT NULL,
    item_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, word, item_id)
)
"""
_TAGS = """
CREATE TABLE hx_registry.registry_tags (
    tenant_id text NOT NULL,
    tag text COLLATE "C" NOT NULL,
    item_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, tag, item_id)
)
"""
# How many services are alike. Rewritten often, and small: room on its pages.
_COUNTS = """
CREATE TABLE hx_registry.registry_counts (
    tenant_id text NOT NULL,
    build_type hx_registry.service_build_type NOT NULL,
    protocol hx_registry.service_protocol NOT NULL,
    priority hx_registry.service_priority NOT NULL,
    status hx_registry.service_status NOT NULL,
    is_enabled boolean NOT NULL,
    is_required boolean NOT NULL,
    is_active boolean NOT NULL,
    items bigint NOT NULL,
    PRIMARY KEY (tenant_id, build_type, protocol, priority, status, is_enabled, is_required, is_active)
) WITH (fillfactor = 50)
"""
_TABLES = {"registry_words": _WORDS, "registry_tags": _TAGS, "registry_counts": _COUNTS}
# As for the other tables (0004), but that the setting is read once a statement and not twice a row: of 100,000 rows
# that is a third of what it takes to look at them.
_POLICY = """
POLICY of_tenant ON hx_registry.{table} USING (
    CASE (SELECT current_setting('hx.tenant', true))
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE tenant_id = (SELECT current_setting('hx.tenant', true))
    END
)
"""
_POLICY_BEFORE = """
ALTER POLICY of_tenant ON hx_registry.{table} USING (
    CASE current_setting('hx.tenant', true)
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE tenant_id = current_setting('hx.tenant', true)
    END
)
"""
_TABLES_BEFORE = ("registry_items", "registry_health", "registry_dependencies")
# Enumerations by their place. Unlike theirs, the equality and order of numbers is leakproof: the planner knows how many
# have a value, and has an index for it.
_RANKED: dict[str, dict[str, tuple[str, ...]]] = {
    "registry_items": {
        "build_type": ("fastmcp", "stub", "external", "official", "custom", "docker"),
        "protocol": ("stdio", "http", "websocket", "tcp", "unix_socket"),
        "priority": ("critical", "high", "medium", "low"),
    },
    "registry_health": {"status": ("healthy", "unhealthy", "unknown", "maintenance", "disabled")},
}
# For each order that lists come in. What lists are filtered by is in them too: a rare value is found without a look at
# the wide rows.
_FILTERS = ("build_type_rank", "protocol_rank", "priority_rank", "is_required", "is_enabled", "auto_start")
_ORDERS = {
    "registry_items_living": "id",
    "registry_items_living_by_age": "created_at, id",
    "registry_items_living_by_change": "updated_at, id",
    "registry_items_living_by_name": "name, id",
    "registry_items_living_by_build_type": "build_type_rank, id",
    "registry_items_living_by_protocol": "protocol_rank, id",
    "registry_items_living_by_priority": "priority_rank, id",
}


def _beside(order: str) -> list[str]:
    """Return what is in an index beside its order. By their ids alone, many are joined with many, and then sorted."""
    times = ["created_at", "updated_at"] if order == "id" else []
    return [*times, *(column for column in _FILTERS if column not in order)]


def _ranks(columns: dict[str, tuple[str, ...]]) -> str:
    """Return what adds the number of each column's value."""
    added = []
    for column, values in columns.items():
        *cases, _ = (f"WHEN '{value}' THEN {rank}" for rank, value in enumerate(values))
        case = f"CASE {column} {' '.join(cases)} ELSE {len(cases)} END"
        added.append(f"ADD COLUMN {column}_rank smallint NOT NULL GENERATED ALWAYS AS ({case}) STORED")
    return ", ".join(added)


_INDEXES = (
    *(
        f"{name} ON hx_registry.registry_items (tenant_id, {order}) "
        f"INCLUDE ({', '.join(_beside(order))}) WHERE deleted_at IS NULL"
        for name, order in _ORDERS.items()
    ),
    "registry_items_deleted ON hx_registry.registry_items (tenant_id, name_key, id) WHERE deleted_at IS NOT NULL",
    # Of what changes seldom: a probe that finds nothing new still writes no index.
    "registry_health_by_status ON hx_registry.registry_health (tenant_id, status_rank, item_id)",
)
_INDEX_NEW = """
CREATE FUNCTION hx_registry.index_new_items() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO hx_registry.registry_words (tenant_id, word, item_id)
    SELECT i.tenant_id, w.lexeme, i.id FROM added AS i CROSS JOIN unnest(i.words) AS w WHERE i.deleted_at IS NULL;
    INSERT INTO hx_registry.registry_tags (tenant_id, tag, item_id)
    SELECT DISTINCT i.tenant_id, t.tag, i.id FROM added AS i CROSS JOIN unnest(i.tags) AS t (tag)
    WHERE i.deleted_at IS NULL AND t.tag IS NOT NULL;
    RETURN NULL;
END
$$
"""
# Only what differs: most changes of a service leave most of its words.
_INDEX_AGAIN = """
CREATE FUNCTION hx_registry.index_item_again() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    words text[] := '{}';
    tags text[] := '{}';
    kept_words text[] := '{}';
    kept_tags text[] := '{}';
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.deleted_at IS NULL THEN
        words := tsvector_to_array(NEW.words);
        tags := array_remove(NEW.tags, NULL);
        IF NEW.tenant_id = OLD.tenant_id AND NEW.id = OLD.id THEN
            kept_words := words;
            kept_tags := tags;
        END IF;
    END IF;
    IF OLD.deleted_at IS NULL THEN
        DELETE FROM hx_registry.registry_words
        WHERE tenant_id = OLD.tenant_id AND item_id = OLD.id AND word = ANY (
            SELECT unnest(tsvector_to_array(OLD.words)) EXCEPT SELECT unnest(kept_words));
        DELETE FROM hx_registry.registry_tags
        WHERE tenant_id = OLD.tenant_id AND item_id = OLD.id AND tag = ANY (
            SELECT unnest(OLD.tags) EXCEPT SELECT unnest(kept_tags));
    END IF;
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO hx_registry.registry_words (tenant_id, word, item_id)
        SELECT NEW.tenant_id, word, NEW.id FROM unnest(words) AS word ON CONFLICT DO NOTHING;
        INSERT INTO hx_registry.registry_tags (tenant_id, tag, item_id)
        SELECT DISTINCT NEW.tenant_id, tag, NEW.id FROM unnest(tags) AS tag ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END
$$
"""
_COUNT = """
CREATE FUNCTION hx_registry.count_item(
    item hx_registry.registry_items, status hx_registry.service_status, change bigint
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO hx_registry.registry_counts AS c
        (tenant_id, build_type, protocol, priority, status, is_enabled, is_required, is_active, items)
    VALUES (item.tenant_id, item.build_type, item.protocol, item.priority, status, item.is_enabled, item.is_required,
        item.is_active, change)
    ON CONFLICT (tenant_id, build_type, protocol, priority, status, is_enabled, is_required, is_active)
    DO UPDATE SET items = c.items + excluded.items
$$
"""
_COUNT_NEW = """
CREATE FUNCTION hx_registry.count_new_items() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO hx_registry.registry_counts AS c
        (tenant_id, build_type, protocol, priority, status, is_enabled, is_required, is_active, items)
    SELECT i.tenant_id, i.build_type, i.protocol, i.priority, h.status, i.is_enabled, i.is_required, i.is_active,
        count(*)
    FROM added AS h JOIN hx_registry.registry_items AS i ON i.tenant_id = h.tenant_id AND i.id = h.item_id
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT (tenant_id, build_type, protocol, priority, status, is_enabled, is_required, is_active)
    DO UPDATE SET items = c.items + excluded.items;
    RETURN NULL;
END
$$
"""
# Each looks at the other's row and locks it: of two at once, one of which changes the item and one its status, the
# second sees what the first has done.
_COUNT_STATUS = """
CREATE FUNCTION hx_registry.count_status() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    item hx_registry.registry_items;
BEGIN
    SELECT * INTO item FROM hx_registry.registry_items
    WHERE tenant_id = OLD.tenant_id AND id = OLD.item_id FOR SHARE;
    IF FOUND THEN
        PERFORM hx_registry.count_item(item, OLD.status, -1);
        IF TG_OP = 'UPDATE' THEN
            PERFORM hx_registry.count_item(item, NEW.status, 1);
        END IF;
    END IF;
    RETURN NULL;
END
$$
"""
_COUNT_AGAIN = """
CREATE FUNCTION hx_registry.count_item_again() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    found_status hx_registry.service_status;
BEGIN
    SELECT status INTO found_status FROM hx_registry.registry_health
    WHERE tenant_id = OLD.tenant_id AND item_id = OLD.id FOR SHARE;
    IF FOUND THEN
        PERFORM hx_registry.count_item(OLD, found_status, -1);
        PERFORM hx_registry.count_item(NEW, found_status, 1);
    END IF;
    RETURN NULL;
END
$$
"""
# The reference would remove it when the item is gone, and nobody could say any more what it was counted as.
_HEALTH_FIRST = """
CREATE FUNCTION hx_registry.remove_health_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hx_registry.registry_health WHERE tenant_id = OLD.tenant_id AND item_id = OLD.id;
    RETURN OLD;
END
$$
"""
_EMPTY = """
CREATE FUNCTION hx_registry.forget_items() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE hx_registry.registry_words, hx_registry.registry_tags;
    RETURN NULL;
END
$$
"""
_EMPTY_COUNTS = """
CREATE FUNCTION hx_registry.forget_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE hx_registry.registry_counts;
    RETURN NULL;
END
$$
"""
_FUNCTIONS = {
    "index_new_items": _INDEX_NEW,
    "index_item_again": _INDEX_AGAIN,
    "count_item": _COUNT,
    "count_new_items": _COUNT_NEW,
    "count_status": _COUNT_STATUS,
    "count_item_again": _COUNT_AGAIN,
    "remove_health_first": _HEALTH_FIRST,
    "forget_items": _EMPTY,
    "forget_counts": _EMPTY_COUNTS,
}
_COUNTED = ("build_type", "protocol", "priority", "is_enabled", "is_required", "is_active")
_TRIGGERS = (
    (
        "index_new AFTER INSERT ON hx_registry.registry_items REFERENCING NEW TABLE AS added "
        "FOR EACH STATEMENT EXECUTE FUNCTION hx_registry.index_new_items()"
    ),
    (
        "index_again AFTER UPDATE ON hx_registry.registry_items FOR EACH ROW WHEN ("
        "(OLD.tenant_id, OLD.id, OLD.words, OLD.tags, OLD.deleted_at IS NULL) IS DISTINCT FROM "
        "(NEW.tenant_id, NEW.id, NEW.words, NEW.tags, NEW.deleted_at IS NULL)) "
        "EXECUTE FUNCTION hx_registry.index_item_again()"
    ),
    (
        "index_removed AFTER DELETE ON hx_registry.registry_items FOR EACH ROW "
        "EXECUTE FUNCTION hx_registry.index_item_again()"
    ),
    (
        "count_again AFTER UPDATE ON hx_registry.registry_items FOR EACH ROW WHEN ("
        f"({', '.join(f'OLD.{column}' for column in _COUNTED)}) IS DISTINCT FROM "
        f"({', '.join(f'NEW.{column}' for column in _COUNTED)})) EXECUTE FUNCTION hx_registry.count_item_again()"
    ),
    (
        "count_removed BEFORE DELETE ON hx_registry.registry_items FOR EACH ROW "
        "EXECUTE FUNCTION hx_registry.remove_health_first()"
    ),
    (
        "forget AFTER TRUNCATE ON hx_registry.registry_items FOR EACH STATEMENT "
        "EXECUTE FUNCTION hx_registry.forget_items()"
    ),
    (
        "forget AFTER TRUNCATE ON hx_registry.registry_health FOR EACH STATEMENT "
        "EXECUTE FUNCTION hx_registry.forget_counts()"
    ),
    (
        "count_new AFTER INSERT ON hx_registry.registry_health REFERENCING NEW TABLE AS added "
        "FOR EACH STATEMENT EXECUTE FUNCTION hx_registry.count_new_items()"
    ),
    (
        "count_status AFTER UPDATE ON hx_registry.registry_health FOR EACH ROW "
        "WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION hx_registry.count_status()"
    ),
    (
        "count_removed AFTER DELETE ON hx_registry.registry_health FOR EACH ROW "
        "EXECUTE FUNCTION hx_registry.count_status()"
    ),
)
_FILL = (
    (
        "INSERT INTO hx_registry.registry_words (tenant_id, word, item_id) SELECT i.tenant_id, w.lexeme, i.id "
        "FROM hx_registry.registry_items AS i CROSS JOIN unnest(i.words) AS w WHERE i.deleted_at IS NULL"
    ),
    (
        "INSERT INTO hx_registry.registry_tags (tenant_id, tag, item_id) SELECT DISTINCT i.tenant_id, t.tag, i.id "
        "FROM hx_registry.registry_items AS i CROSS JOIN unnest(i.tags) AS t (tag) "
        "WHERE i.deleted_at IS NULL AND t.tag IS NOT NULL"
    ),
    (
        "INSERT INTO hx_registry.registry_counts SELECT i.tenant_id, i.build_type, i.protocol, i.priority, h.status, "
        "i.is_enabled, i.is_required, i.is_active, count(*) FROM hx_registry.registry_items AS i "
        "JOIN hx_registry.registry_health AS h ON h.tenant_id = i.tenant_id AND h.item_id = i.id "
        "GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
    ),
)
_KIND = "CREATE TYPE hx_registry.dependency_kind AS ENUM ('runtime', 'startup', 'optional')"
_KINDS = (
    "ALTER TABLE hx_registry.registry_dependencies "
    "ADD COLUMN kind hx_registry.dependency_kind NOT NULL DEFAULT 'runtime'"
)


def upgrade() -> None:
    """Make the tables, fill them from the services that there are, and let triggers keep them."""
    # All that is changed, in the order in which others take it, and before anything else.
    op.execute(f"LOCK TABLE {', '.join(f'hx_registry.{table}' for table in _TABLES_BEFORE)}")
    for table, statement in _TABLES.items():
        op.execute(statement)
        op.execute(f"CREATE {_POLICY.format(table=table)}")
        op.execute(f"ALTER TABLE hx_registry.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    for table in _TABLES_BEFORE:
        op.execute(f"ALTER {_POLICY.format(table=table)}")
    for table, columns in _RANKED.items():
        op.execute(f"ALTER TABLE hx_registry.{table} {_ranks(columns)}")
    for statement in _FILL:
        op.execute(statement)
    for index in _INDEXES:
        op.execute(f"CREATE INDEX {index}")
    for function in _FUNCTIONS.values():
        op.execute(function)
    for trigger in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger}")
    op.execute(_KIND)
    op.execute(_KINDS)


def downgrade() -> None:
    """Drop all of it: what is in it is in the services too, but for the kinds of dependencies."""
    for table in _TABLES_BEFORE:
        op.execute(_POLICY_BEFORE.format(table=table))
    op.execute("ALTER TABLE hx_registry.registry_dependencies DROP COLUMN kind")
    op.execute("DROP TYPE hx_registry.dependency_kind")
    for trigger in _TRIGGERS:
        name, _, rest = trigger.partition(" ")
        table = rest.partition(" ON ")[2].partition(" ")[0]
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for function in reversed(_FUNCTIONS):
        op.execute(f"DROP FUNCTION hx_registry.{function}")
    for index in _INDEXES:
        op.execute(f"DROP INDEX hx_registry.{index.partition(' ')[0]}")
    for table, columns in _RANKED.items():
        op.execute(f"ALTER TABLE hx_registry.{table} {', '.join(f'DROP COLUMN {column}_rank' for column in columns)}")
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE hx_registry.{table}")
