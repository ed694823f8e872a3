"""The audit log: what changed, without secrets, in a chain that breaks when somebody edits it.

Each entry's hash is keyed with what the database does not hold, and covers the entry before it in the same tenant. An
entry that was changed or taken out of the middle is found; that the newest ones were taken away is not, for what is
left is a whole chain: compare with a hash that was noted elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

MIN_KEY_BYTES = 32
MASK = "***"
_SECRET = re.compile(
    r"secret|token|passw|passphrase|credential|authorization|api[-_ ]?key|private[-_ ]?key", re.IGNORECASE
)
# They change with every change, or by themselves.
_BOOKKEEPING = frozenset({"updated_at", "updated_by", "version"})
_MOVING = frozenset({"spent_usd", "reserved_usd", "resets_at"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happened to an object. ``before`` and ``after`` are JSON as the database writes it."""

    tenant_id: str
    at: datetime
    actor_key: str
    actor_user: str | None
    action: str
    object_kind: str
    object_id: str
    before: str | None
    after: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Chained:
    """A row of the log as it was read back."""

    id: int
    change: Change
    previous_hash: bytes | None
    hash: bytes


def recorded(view: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of an object: no amounts that move by themselves, no values named like secrets."""
    kept = {name: value for name, value in view.items() if name not in ("key", *_BOOKKEEPING)}
    budgets = [{name: value for name, value in budget.items() if name not in _MOVING} for budget in view["budgets"]]
    return {**kept, "budgets": budgets, "metadata": masked(view["metadata"])}


def masked(value: Any) -> Any:
    """Return JSON with the values of members that are named like secrets replaced."""
    if isinstance(value, dict):
        return {name: MASK if _SECRET.search(name) else masked(member) for name, member in value.items()}
    return [masked(member) for member in value] if isinstance(value, list) else value


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the members that differ, as they were and as they are."""
    names = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in names}, {name: after[name] for name in names}


class AuditChain:
    """Makes and checks hashes. ``key``: 32 bytes or more that are kept outside of the database."""

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"the key of the audit log must have at least {MIN_KEY_BYTES} bytes")
        self._key = key

    def link(self, change: Change, previous: bytes | None) -> bytes:
        """Return the hash of an entry that comes after one with the hash ``previous``."""
        at = change.at.astimezone(UTC).isoformat()
        parts = [change.tenant_id, at, change.actor_key, change.actor_user, change.action, change.object_kind]
        more = [change.object_id, change.before, change.after, change.request_id]
        text = msgspec.json.encode([*parts, *more, None if previous is None else previous.hex()])
        return hmac.digest(self._key, text, hashlib.sha256)

    def broken_at(self, entries: Iterable[Chained], previous: bytes | None = None) -> int | None:
        """Return the id of the first entry that does not follow from those before it, ``None`` if all do.

        ``entries`` are a tenant's, oldest first; ``previous`` is the hash of the one before the first.
        """
        for entry in entries:
            expected = self.link(entry.change, entry.previous_hash)
            if entry.previous_hash != previous or not hmac.compare_digest(expected, entry.hash):
                return entry.id
            previous = entry.hash
        return None
