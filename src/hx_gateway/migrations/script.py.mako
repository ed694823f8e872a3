"""${message}."""

from __future__ import annotations

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Say what it makes."""
    op.execute("SELECT 1")


def downgrade() -> None:
    """Say what it takes away."""
    op.execute("SELECT 1")
