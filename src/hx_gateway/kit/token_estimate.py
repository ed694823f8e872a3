"""About how many tokens a text is, where nobody counted them."""

from __future__ import annotations

# The usual length of a token in English text.
BYTES_PER_TOKEN = 4


def tokens_in(text_bytes: int) -> int:
    """Return about how many tokens ``text_bytes`` are: a quarter, rounded up."""
    return -(-text_bytes // BYTES_PER_TOKEN)
