"""The record: what agents and the gateway do, how far the journal is applied, and rows that could not be stored."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The tenant leads every key and index: no query goes without one. The time is part of the key because a unique index
# of a partitioned table must contain the partition key.
_COMMON = """
    "timestamp" timestamptz NOT NULL,
    event_id uuid NOT NULL DEFAULT gen_random_uuid(),
    received_at timestamptz NOT NULL DEFAULT now(),
    ts_clamped boolean NOT NULL DEFAULT false,
    tenant_id text NOT NULL DEFAULT 'default',
"""
_PARTITIONED = """,
    PRIMARY KEY (tenant_id, "timestamp", event_id)
) PARTITION BY RANGE ("timestamp")
"""

# ``level`` is OpenTelemetry's SeverityNumber: TRACE 1, DEBUG 5, INFO 9, WARN 13, ERROR 17, FATAL 21.
_TABLES = {
    "trace_events": """
    trace_id text NOT NULL,
    span_id text,
    parent_span_id text,
    event_type text NOT NULL,
    level smallint NOT NULL DEFAULT 9 CHECK (level BETWEEN 1 AND 24),
    message text,
    agent_name text,
    task_id text,
    session_id text,
    user_id text,
    duration_ms double precision,
    metadata jsonb NOT NULL DEFAULT '{}'
""",
    "routing_decisions": """
    trace_id text,
    task_id text,
    user_request text NOT NULL,
    selected_agent text NOT NULL,
    confidence_score double precision NOT NULL CHECK (confidence_score BETWEEN 0 AND 1),
    alternatives jsonb NOT NULL DEFAULT '[]',
    reasoning text,
    routing_strategy text,
    latency_ms double precision,
    metadata jsonb NOT NULL DEFAULT '{}'
""",
    "performance_metrics": """
    metric_name text NOT NULL,
    metric_value double precision NOT NULL,
    metric_type text NOT NULL,
    component text,
    agent_name text,
    trace_id text,
    unit text,
    metadata jsonb NOT NULL DEFAULT '{}'
""",
    "transformation_events": """
    trace_id text,
    transformation_type text NOT NULL,
    source_agent text,
    target_agent text,
    input_schema text,
    output_schema text,
    input_bytes bigint,
    output_bytes bigint,
    success boolean NOT NULL DEFAULT true,
    error text,
    duration_ms double precision,
    metadata jsonb NOT NULL DEFAULT '{}'
""",
}

_INDEXES = {
    "trace_events": {
        "by_trace": '(tenant_id, trace_id, "timestamp")',
        "by_agent": '(tenant_id, agent_name, "timestamp" DESC) WHERE agent_name IS NOT NULL',
        "by_type": '(tenant_id, event_type, "timestamp" DESC)',
        "by_agent_and_type": ('(tenant_id, agent_name, event_type, "timestamp" DESC) WHERE agent_name IS NOT NULL'),
        "of_errors": '(tenant_id, "timestamp" DESC) WHERE level >= 17',
    },
    "routing_decisions": {
        "by_agent": '(tenant_id, selected_agent, "timestamp" DESC)',
        "by_strategy": '(tenant_id, routing_strategy, "timestamp" DESC)',
        "by_confidence": '(tenant_id, confidence_score, "timestamp" DESC)',
        "by_trace": '(tenant_id, trace_id, "timestamp") WHERE trace_id IS NOT NULL',
    },
    "performance_metrics": {
        "by_name_and_component": '(tenant_id, metric_name, component, "timestamp" DESC)',
        "by_name": '(tenant_id, metric_name, "timestamp" DESC)',
        "by_component": '(tenant_id, component, "timestamp" DESC) WHERE component IS NOT NULL',
        "by_type": '(tenant_id, metric_type, "timestamp" DESC)',
    },
    "transformation_events": {
        "by_trace": '(tenant_id, trace_id, "timestamp") WHERE trace_id IS NOT NULL',
        "by_source": '(tenant_id, source_agent, "timestamp" DESC) WHERE source_agent IS NOT NULL',
        "by_target": '(tenant_id, target_agent, "timestamp" DESC) WHERE target_agent IS NOT NULL',
        "by_type": '(tenant_id, transformation_type, "timestamp" DESC)',
    },
}

# One row a segment of the journal, updated with every batch: room on the page keeps those updates off the index.
_JOURNAL_CURSORS = """
CREATE TABLE hx_gateway.journal_cursors (
    stream_id uuid,
    segment bigint,
    applied_seq bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream_id, segment)
) WITH (fillfactor = 50)
"""
_DEAD_LETTERS = """
CREATE TABLE hx_gateway.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    tenant_id text NOT NULL DEFAULT 'default',
    stream_id uuid,
    seq bigint,
    ordinal integer,
    target text NOT NULL,
    sqlstate text,
    error text,
    payload jsonb,
    raw bytea,
    replayed_at timestamptz
)
"""
# CREATE SCHEMA IF NOT EXISTS asks for the right to create schemas even where there is nothing to create: a role
# without it works in schemas that an administrator made for it.
_SCHEMA = """
DO $$ BEGIN
    IF to_regnamespace('agent_observability') IS NULL THEN
        CREATE SCHEMA agent_observability;
    END IF;
END $$
"""


def upgrade() -> None:
    """Make the tables and their indexes; partitions come with time (:mod:`hx_gateway.db.partitions`)."""
    op.execute(_SCHEMA)
    for table, columns in _TABLES.items():
        op.execute(f"CREATE TABLE agent_observability.{table} ({_COMMON.rstrip()}{columns.rstrip()}{_PARTITIONED}")
        for name, definition in _INDEXES[table].items():
            op.execute(f"CREATE INDEX {table}_{name} ON agent_observability.{table} {definition}")
    op.execute(_JOURNAL_CURSORS)
    op.execute(_DEAD_LETTERS)
    op.execute("CREATE INDEX dead_letters_by_tenant ON hx_gateway.dead_letters (tenant_id, id)")


def downgrade() -> None:
    """Drop the tables with all they hold. The schema ``hx_gateway`` stays: Alembic's version table is in it."""
    for table in ("dead_letters", "journal_cursors"):
        op.execute(f"DROP TABLE hx_gateway.{table}")
    for table in _TABLES:
        op.execute(f"DROP TABLE agent_observability.{table}")
    op.execute("DROP SCHEMA agent_observability")
