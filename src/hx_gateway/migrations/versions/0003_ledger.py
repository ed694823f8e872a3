"""The ledger: whose word counts for money, what is reserved and posted, and what every call came to."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_EPOCH = """
CREATE TABLE hx_gateway.ledger_epoch (
    "only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
    epoch bigint NOT NULL CHECK (epoch > 0),
    authority text NOT NULL CHECK (authority IN ('redis', 'postgres', 'process')),
    changed_at timestamptz NOT NULL DEFAULT now()
)
"""
# One row a worker that lives: ``epoch`` is the last that it has acknowledged.
_MEMBERS = """
CREATE TABLE hx_gateway.ledger_members (
    stream_id uuid PRIMARY KEY,
    root_id text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    epoch bigint NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now()
)
"""
_TENANTS = """
CREATE TABLE hx_gateway.ledger_tenants (
    tenant_id text PRIMARY KEY,
    epoch bigint NOT NULL
)
"""
# Calls under way. They come and go: room on the page keeps updates off the indexes.
_RESERVATIONS = """
CREATE TABLE hx_gateway.ledger_reservations (
    call_id uuid PRIMARY KEY,
    tenant_id text NOT NULL,
    stream_id uuid NOT NULL,
    state text NOT NULL CHECK (state IN ('reserved', 'intent', 'sent', 'void')),
    amount_nano bigint NOT NULL CHECK (amount_nano >= 0),
    charges text[] NOT NULL DEFAULT '{}',
    facts jsonb,
    admitted_at timestamptz NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000)
"""
# ``reserved_nano`` is the sum of the window's rows in ledger_reservations, ``posted_nano`` that of its rows in
# spend_logs while they are kept: whoever changes those changes these in the same transaction.
_WINDOWS = """
CREATE TABLE hx_gateway.budget_windows (
    budget_id text,
    window_id text,
    tenant_id text NOT NULL,
    posted_nano bigint NOT NULL DEFAULT 0,
    reserved_nano bigint NOT NULL DEFAULT 0,
    soft_notified_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (budget_id, window_id)
) WITH (fillfactor = 50)
"""
_SPEND_LOGS = """
CREATE TABLE hx_gateway.spend_logs (
    call_id uuid PRIMARY KEY,
    request_id text NOT NULL,
    tenant_id text NOT NULL,
    key_id text NOT NULL,
    team_id text,
    user_id text,
    operation text NOT NULL,
    requested_model text NOT NULL,
    model text NOT NULL,
    upstream text,
    provider text,
    status integer NOT NULL,
    ending text NOT NULL,
    error_code text,
    stream boolean NOT NULL DEFAULT false,
    attempts integer NOT NULL DEFAULT 0,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    cached_tokens bigint NOT NULL DEFAULT 0,
    usage_source text NOT NULL CHECK (usage_source IN ('provider', 'estimate', 'none')),
    cost_nano bigint NOT NULL CHECK (cost_nano >= 0),
    reserved_nano bigint NOT NULL DEFAULT 0,
    settled_by text NOT NULL CHECK (settled_by IN ('done', 'unknown', 'lapsed', 'void')),
    price_source text,
    price_version text,
    input_pico bigint,
    output_pico bigint,
    charges text[] NOT NULL DEFAULT '{}',
    cache text,
    tags text[] NOT NULL DEFAULT '{}',
    admitted_at timestamptz NOT NULL,
    duration_ms double precision NOT NULL DEFAULT 0,
    decision jsonb NOT NULL DEFAULT '{}'
)
"""
_ERROR_LOGS = """
CREATE TABLE hx_gateway.error_logs (
    call_id uuid PRIMARY KEY,
    request_id text NOT NULL,
    tenant_id text NOT NULL,
    key_id text,
    team_id text,
    user_id text,
    route text,
    operation text,
    requested_model text,
    model text,
    upstream text,
    status integer NOT NULL,
    code text,
    message text,
    ending text NOT NULL,
    decision jsonb NOT NULL DEFAULT '{}',
    at timestamptz NOT NULL
)
"""
_SPEND_DAILY = """
CREATE TABLE hx_gateway.spend_daily (
    tenant_id text,
    day date,
    key_id text,
    team_id text,
    user_id text,
    model text,
    requests bigint NOT NULL DEFAULT 0,
    errors bigint NOT NULL DEFAULT 0,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    cost_nano bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, day, key_id, team_id, user_id, model)
) WITH (fillfactor = 70)
"""
_MODEL_PRICES = """
CREATE TABLE hx_gateway.model_prices (
    model text PRIMARY KEY,
    input_pico bigint NOT NULL CHECK (input_pico >= 0),
    output_pico bigint NOT NULL CHECK (output_pico >= 0),
    cached_input_pico bigint CHECK (cached_input_pico >= 0),
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by text
)
"""

_TABLES = {
    "ledger_epoch": _EPOCH,
    "ledger_members": _MEMBERS,
    "ledger_tenants": _TENANTS,
    "ledger_reservations": _RESERVATIONS,
    "budget_windows": _WINDOWS,
    "spend_logs": _SPEND_LOGS,
    "error_logs": _ERROR_LOGS,
    "spend_daily": _SPEND_DAILY,
    "model_prices": _MODEL_PRICES,
}
_INDEXES = {
    "ledger_reservations": {"by_stream": "(stream_id)"},
    "spend_logs": {
        "by_time": "(tenant_id, admitted_at DESC, call_id)",
        "by_key": "(tenant_id, key_id, admitted_at DESC)",
        "by_request": "(tenant_id, request_id)",
        "of_all": "(admitted_at DESC, call_id)",
    },
    "error_logs": {
        "by_time": "(tenant_id, at DESC, call_id)",
        "by_request": "(tenant_id, request_id)",
        "of_all": "(at DESC, call_id)",
    },
}


def upgrade() -> None:
    """Make the tables and their indexes."""
    for table, definition in _TABLES.items():
        op.execute(definition)
        for name, columns in _INDEXES.get(table, {}).items():
            op.execute(f"CREATE INDEX {table}_{name} ON hx_gateway.{table} {columns}")


def downgrade() -> None:
    """Drop the tables with all they hold."""
    for table in reversed(_TABLES):
        op.execute(f"DROP TABLE hx_gateway.{table}")
