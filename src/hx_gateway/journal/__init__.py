"""The durable write path: written to disk first, acknowledged, then applied to PostgreSQL exactly once."""
