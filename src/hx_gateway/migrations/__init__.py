"""The schema's history: Alembic's environment and revisions, and what runs them."""
