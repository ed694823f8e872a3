"""What a key says of the response cache: whether it is used, for how long answers are kept, and who shares them."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; null: the key says nothing."""
    op.execute(
        "ALTER TABLE hx_gateway.api_keys ADD COLUMN cache jsonb "
        "CONSTRAINT api_keys_cache_check CHECK (jsonb_typeof(cache) = 'object')"
    )


def downgrade() -> None:
    """Drop the column: what the configuration says holds for all keys."""
    op.execute("ALTER TABLE hx_gateway.api_keys DROP COLUMN cache")
