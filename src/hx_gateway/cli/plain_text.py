"""Text that others wrote, made fit for a terminal."""

from __future__ import annotations

import json


def plain(value: object) -> str:
    """Return ``value`` in one line, empty for ``None``, without anything that a terminal would obey."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join([char if char.isprintable() else " " for char in text])
