"""Why a record is not taken: the two errors that a caller of the journal sees."""

from __future__ import annotations

from hx_gateway.errors import Unavailable

RETRY_AFTER_SECONDS = 2


class JournalRefused(Unavailable):
    """The journal cannot keep the record; nothing of it was written. ``reason`` is a bounded word for metrics."""

    code = "journal_full"

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, retry_after_seconds=RETRY_AFTER_SECONDS)
        self.reason = reason


class JournalClosed(Unavailable):
    """The journal was used before it was opened, after it was closed, or in a forked child."""
