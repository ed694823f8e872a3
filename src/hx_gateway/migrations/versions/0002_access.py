"""Who may use the gateway and how much: tenants, teams, users, keys, budgets, and what was changed by whom."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# What every object has beside its own: who may use which models, how much, and who touched it when.
_COMMON = """,
    models text[],
    limits jsonb NOT NULL DEFAULT '{}',
    blocked boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    updated_by text NOT NULL,
    deleted_at timestamptz,
    version integer NOT NULL DEFAULT 1
"""

# The tenant is part of every reference: a row cannot point into another tenant, whatever a statement says.
_OBJECTS = {
    "tenants": """
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name text NOT NULL,
    time_zone text NOT NULL DEFAULT 'UTC',
    model_limits jsonb NOT NULL DEFAULT '{}'
""",
    "teams": """
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES hx_gateway.tenants,
    name text NOT NULL,
    UNIQUE (tenant_id, id)
""",
    "users": """
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES hx_gateway.tenants,
    email text,
    name text NOT NULL,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('platform_admin', 'tenant_admin', 'member')),
    UNIQUE (tenant_id, id)
""",
    # A key without a digest was imported and not used yet: it is known by the SHA-256 of its text only.
    "api_keys": """
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES hx_gateway.tenants,
    team_id text,
    user_id text,
    name text NOT NULL,
    prefix text NOT NULL,
    last_four text NOT NULL,
    digest bytea,
    pepper_id text,
    previous_digest bytea,
    previous_pepper_id text,
    previous_expires_at timestamptz,
    imported_sha256 bytea UNIQUE,
    admin_role text CHECK (admin_role IN ('platform_admin', 'tenant_admin')),
    aliases jsonb NOT NULL DEFAULT '{}',
    allowed_routes text[],
    scopes text[] NOT NULL DEFAULT '{}',
    expires_at timestamptz,
    FOREIGN KEY (tenant_id, team_id) REFERENCES hx_gateway.teams (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES hx_gateway.users (tenant_id, id),
    CHECK (digest IS NOT NULL OR imported_sha256 IS NOT NULL),
    CHECK ((digest IS NULL) = (pepper_id IS NULL)),
    CHECK (num_nulls(previous_digest, previous_pepper_id, previous_expires_at) IN (0, 3))
""",
}
_MEMBERSHIPS = """
CREATE TABLE hx_gateway.memberships (
    team_id text,
    user_id text,
    tenant_id text NOT NULL,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('admin', 'member', 'read_only')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, user_id),
    FOREIGN KEY (tenant_id, team_id) REFERENCES hx_gateway.teams (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES hx_gateway.users (tenant_id, id)
)
"""
# Money in nano-dollars. What was spent is kept by window elsewhere: an amount may change without losing it.
_BUDGETS = """
CREATE TABLE hx_gateway.budgets (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES hx_gateway.tenants,
    owner_kind text NOT NULL CHECK (owner_kind IN ('key', 'user', 'team', 'tenant', 'tenant_model')),
    owner_id text NOT NULL,
    model text,
    period text NOT NULL CHECK (period IN ('day', 'week', 'month', 'total')),
    limit_nano bigint NOT NULL CHECK (limit_nano >= 0),
    soft_nano bigint CHECK (soft_nano >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    CHECK ((owner_kind = 'tenant_model') = (model IS NOT NULL))
)
"""
_AUDIT_LOG = """
CREATE TABLE hx_gateway.audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    at timestamptz NOT NULL,
    actor_key text NOT NULL,
    actor_user text,
    action text NOT NULL CHECK (action IN
        ('created', 'updated', 'deleted', 'restored', 'rotated', 'blocked', 'unblocked')),
    object_kind text NOT NULL,
    object_id text NOT NULL,
    before jsonb,
    after jsonb,
    request_id text NOT NULL,
    previous_hash bytea,
    hash bytea NOT NULL
)
"""
_IDEMPOTENCY_KEYS = """
CREATE TABLE hx_gateway.idempotency_keys (
    tenant_id text,
    actor text,
    key text,
    fingerprint bytea NOT NULL,
    status integer NOT NULL,
    response jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, actor, key)
)
"""
# Names of the living are taken once; the dead keep theirs.
_INDEXES = (
    "UNIQUE INDEX teams_by_name ON hx_gateway.teams (tenant_id, lower(name)) WHERE deleted_at IS NULL",
    "UNIQUE INDEX users_by_email ON hx_gateway.users (tenant_id, lower(email)) WHERE deleted_at IS NULL",
    "INDEX teams_by_age ON hx_gateway.teams (tenant_id, created_at, id)",
    "INDEX users_by_age ON hx_gateway.users (tenant_id, created_at, id)",
    "INDEX api_keys_by_age ON hx_gateway.api_keys (tenant_id, created_at, id)",
    "INDEX api_keys_by_team ON hx_gateway.api_keys (tenant_id, team_id) WHERE team_id IS NOT NULL",
    "INDEX api_keys_by_user ON hx_gateway.api_keys (tenant_id, user_id) WHERE user_id IS NOT NULL",
    "INDEX memberships_by_user ON hx_gateway.memberships (tenant_id, user_id)",
    (
        "UNIQUE INDEX budgets_by_owner ON hx_gateway.budgets "
        "(tenant_id, owner_kind, owner_id, period, coalesce(model, '')) WHERE deleted_at IS NULL"
    ),
    "INDEX audit_log_by_tenant ON hx_gateway.audit_log (tenant_id, id)",
    "INDEX audit_log_by_object ON hx_gateway.audit_log (tenant_id, object_kind, object_id, id)",
    "INDEX idempotency_keys_by_age ON hx_gateway.idempotency_keys (created_at)",
)
_REFUSE_CHANGE = """
CREATE FUNCTION hx_gateway.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of hx_gateway.% is refused: it is only ever added to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$
"""
_ONLY_ADDED_TO = """
CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON hx_gateway.audit_log
FOR EACH STATEMENT EXECUTE FUNCTION hx_gateway.refuse_change()
"""
_DEFAULT_TENANT = """
INSERT INTO hx_gateway.tenants (id, name, created_by, updated_by) VALUES ('default', 'Default', 'system', 'system')
"""


def upgrade() -> None:
    """Make the tables, and the tenant that all belongs to where nobody speaks of tenants."""
    for table, columns in _OBJECTS.items():
        op.execute(f"CREATE TABLE hx_gateway.{table} ({columns.rstrip()}{_COMMON})")
    for statement in (_MEMBERSHIPS, _BUDGETS, _AUDIT_LOG, _IDEMPOTENCY_KEYS):
        op.execute(statement)
    for index in _INDEXES:
        op.execute(f"CREATE {index}")
    op.execute(_REFUSE_CHANGE)
    op.execute(_ONLY_ADDED_TO)
    op.execute(_DEFAULT_TENANT)


def downgrade() -> None:
    """Drop the tables with all they hold."""
    for table in ("idempotency_keys", "audit_log", "budgets", "memberships", *reversed(_OBJECTS)):
        op.execute(f"DROP TABLE hx_gateway.{table}")
    op.execute("DROP FUNCTION hx_gateway.refuse_change")
