"""Passwords as PostgreSQL keeps them, so that none has to travel, or to stand in a server's log, as it is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import stringprep
import unicodedata
from collections.abc import Callable

# The server's own (``scram_iterations``).
ITERATIONS = 4096
SALT_BYTES = 16
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$[^:]+:.+")
# RFC 4013, section 2.3; the last is what Unicode 3.2 did not know.
_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def scram_verifier(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Return what stands in ``pg_authid.rolpassword`` for ``password`` (RFC 5803), with a salt of its own."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password).encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded_salt, stored, server = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${iterations}:{encoded_salt}${stored}:{server}"


def is_verifier_of(kept: str | None, password: str) -> bool:
    """Return whether ``kept``, as ``pg_authid`` has it, is of ``password``; one of another kind (MD5) is not."""
    found = _VERIFIER.fullmatch(kept or "")
    if kept is None or found is None:
        return False
    iterations, salt = found.groups()
    return hmac.compare_digest(kept, scram_verifier(password, salt=base64.b64decode(salt), iterations=int(iterations)))


def _prepared(password: str) -> str:
    """Return what clients and server take ``password`` for: SASLprep (RFC 4013), or as it is where that refuses it."""
    if password.isascii():
        return password
    kept = (char for char in password if not stringprep.in_table_b1(char))
    mapped = "".join(" " if stringprep.in_table_c12(char) else char for char in kept)
    normal = unicodedata.normalize("NFKC", mapped)
    if not normal or any(prohibits(char) for char in normal for prohibits in _PROHIBITED) or _mixes_directions(normal):
        return password
    return normal


def _mixes_directions(text: str) -> bool:
    """RFC 3454, section 6: what is written from the right begins and ends so, and has nothing from the left in it."""
    if not any(map(stringprep.in_table_d1, text)):
        return False
    whole = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return not whole or any(map(stringprep.in_table_d2, text))
