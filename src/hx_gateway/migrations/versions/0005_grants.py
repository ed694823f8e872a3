"""Which key each key was made with: it is held to that one's rights."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. An admin of the platform makes keys in other tenants: the reference does not hold the tenant."""
    op.execute("ALTER TABLE hx_gateway.api_keys ADD COLUMN granted_by text REFERENCES hx_gateway.api_keys")


def downgrade() -> None:
    """Drop the column: keys are held to nobody's rights any more."""
    op.execute("ALTER TABLE hx_gateway.api_keys DROP COLUMN granted_by")
