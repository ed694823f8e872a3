"""What stands in the way of a backup, a restore or a move; the text ends with what to do."""

from __future__ import annotations


class TransferError(Exception):
    """It cannot be done as it was asked for."""


class DamagedBackup(TransferError):
    """A file that is not what was written: cut short, changed, or no backup at all."""


class NotEmpty(TransferError):
    """The target has rows of a gateway already."""
