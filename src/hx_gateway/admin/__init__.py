"""The HTTP API over tenants, teams, users and keys."""
