"""The admin key: made on the first start, kept in one file, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from hx_gateway.access.principal import DEFAULT_TENANT, KeyId, Principal, Role, Scope
from hx_gateway.access.private_files import read_private

ADMIN_PRINCIPAL = Principal(
    key_id=KeyId("admin"), tenant_id=DEFAULT_TENANT, scopes=frozenset(Scope), role=Role.PLATFORM_ADMIN
)
ADMIN_KEY_FILE = "admin.key"
MAX_FILE_BYTES = 4096


class AdminKeyAuthenticator:
    """Accepts one key, which holds every right. Needs no store, so it works while all of them are away."""

    def __init__(self, key: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest()

    async def authenticate(self, presented: str) -> Principal | None:
        """Return the admin principal for the admin key, else ``None``."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogateescape")).digest()
        return ADMIN_PRINCIPAL if hmac.compare_digest(digest, self._digest) else None


def load_or_create_admin_key(data_dir: Path) -> tuple[str, bool]:
    """Return the key kept in ``data_dir`` and whether it was made just now.

    The file has mode 0600 and appears whole or not at all; of two processes that start at once, one makes the key
    and both use it. Raises ``OSError`` for a file that is open to others, ``ValueError`` for one that is no text.
    """
    path = data_dir / ADMIN_KEY_FILE
    if existing := _read(path):
        return existing, False
    key = f"sk-hx-admin-{secrets.token_urlsafe(32)}"
    draft = data_dir / f".{ADMIN_KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return _read(path) or key, False
    finally:
        draft.unlink(missing_ok=True)
    return key, True


def _read(path: Path) -> str | None:
    try:
        return read_private(path, MAX_FILE_BYTES).decode("ascii").strip() or None
    except FileNotFoundError:
        return None
