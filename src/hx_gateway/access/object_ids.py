"""Ids of tenants, teams, users and budgets: random, and told apart by their beginnings."""

from __future__ import annotations

import secrets
import string

RANDOM_CHARS = 16
# Base 32 of RFC 4648 in lower case.
_ALPHABET = string.ascii_lowercase + "234567"


def new_id(prefix: str) -> str:
    """Return a new id: ``prefix``, then 80 random bits."""
    return f"{prefix}-{''.join(secrets.choice(_ALPHABET) for _ in range(RANDOM_CHARS))}"
