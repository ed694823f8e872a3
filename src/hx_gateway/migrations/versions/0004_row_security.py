"""Row-level security: a transaction sees the rows of the tenant that it works for, whatever its statements ask for.

Gateways of before this revision do not say whose rows they want and find none any more: stop them first, or let an
administrator run ``ALTER ROLE <theirs> SET hx.tenant = '*'`` until they are gone.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# By the column that names the tenant. Not among them are the record's tables: PostgreSQL refuses COPY into a table with
# policies, and COPY is how events are stored.
_TABLES = {
    "tenants": "id",
    **dict.fromkeys(
        (
            "teams",
            "users",
            "api_keys",
            "memberships",
            "budgets",
            "audit_log",
            "idempotency_keys",
            "ledger_tenants",
            "ledger_reservations",
            "budget_windows",
            "spend_logs",
            "error_logs",
            "spend_daily",
            "dead_letters",
        ),
        "tenant_id",
    ),
}
# Not there at all the setting is null, which equals nothing; what was local to a transaction leaves it empty. A CASE,
# because the planner takes half of the rows to pass one. A plain "setting = '*' OR setting = tenant_id" it takes for
# one row in 200, and then sorts all of a tenant's spend for a page of it. What commands may see they may write.
_POLICY = """
CREATE POLICY of_tenant ON hx_gateway.{table} USING (
    CASE current_setting('hx.tenant', true)
        WHEN '*' THEN true
        WHEN '' THEN false
        ELSE {column} = current_setting('hx.tenant', true)
    END
)
"""


def upgrade() -> None:
    """Let nobody but superusers and roles with BYPASSRLS past the policies: not the tables' owner either."""
    for table, column in _TABLES.items():
        op.execute(_POLICY.format(table=table, column=column))
        op.execute(f"ALTER TABLE hx_gateway.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    """Drop the policies."""
    for table in _TABLES:
        op.execute(f"ALTER TABLE hx_gateway.{table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY of_tenant ON hx_gateway.{table}")
