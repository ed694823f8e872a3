"""How a key reads: a public id to find it by, a secret, and a checksum that tells a mistyped one without a look-up."""

from __future__ import annotations

import re
import secrets
import string
import zlib
from dataclasses import dataclass, field

PREFIX = "sk-hx-"
ID_LENGTH = 12
SECRET_LENGTH = 32
CHECKSUM_LENGTH = 6
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase

# Two digits at a time: this runs for every request.
_PAIRS = tuple(high + low for high in ALPHABET for low in ALPHABET)
_SHAPE = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})-([0-9A-Za-z]{{{SECRET_LENGTH + CHECKSUM_LENGTH}}})")


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A key that was made just now. ``text`` is what the client sends; it is shown once and kept nowhere."""

    id: str
    text: str = field(repr=False)
    secret: str = field(repr=False)
    last_four: str

    @property
    def prefix(self) -> str:
        """What may be shown of the key's beginning."""
        return f"{PREFIX}{self.id}"


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A text in the form of our keys. Whether there is such a key is another question."""

    id: str
    secret: str = field(repr=False)


def mint_key(key_id: str | None = None) -> MintedKey:
    """Return a new key of 190 random bits; ``key_id`` keeps the id of a key that gets a new secret."""
    key_id = key_id or _random(ID_LENGTH)
    secret = _random(SECRET_LENGTH)
    body = f"{PREFIX}{key_id}-{secret}"
    text = body + checksum(body)
    return MintedKey(id=key_id, text=text, secret=secret, last_four=text[-4:])


def parse_key(text: str) -> ParsedKey | None:
    """Return the parts of a key of our form, ``None`` for any other text: one with a changed character, too."""
    shape = _SHAPE.fullmatch(text)
    if shape is None or checksum(text[:-CHECKSUM_LENGTH]) != text[-CHECKSUM_LENGTH:]:
        return None
    return ParsedKey(id=shape[1], secret=shape[2][:SECRET_LENGTH])


def checksum(body: str) -> str:
    """Return the CRC-32 of ``body`` in six digits of base 62."""
    upper, low = divmod(zlib.crc32(body.encode("ascii")), len(_PAIRS))
    high, middle = divmod(upper, len(_PAIRS))
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
