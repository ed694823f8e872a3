"""Ids that are unique across processes and cheap to make."""

from __future__ import annotations

import base64
import itertools
import os
import re

# What a client may choose as its request id: it stands in headers, logs and records.
REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")

_PREFIX_BYTES = 12


class _Source:
    """A random prefix a process and a counter: no system call for an id. Forked children get a prefix of their own."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.prefix = base64.urlsafe_b64encode(os.urandom(_PREFIX_BYTES)).decode("ascii")
        self.counter = itertools.count(int.from_bytes(os.urandom(3), "big"))

    def next(self) -> str:
        return f"req_{self.prefix}{next(self.counter):08x}"


_source = _Source()


def new_request_id() -> str:
    """Return an id of 28 characters that matches :data:`REQUEST_ID`. Unique, not secret."""
    return _source.next()


class EventIds:
    """Ids of events: UUIDs of version 7 (RFC 9562), as the two halves of their 128 bits.

    They sort by the millisecond they were made in. Bits that begin at random and count up tell those of one millisecond
    apart, and processes from each other.
    """

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Begin a new random sequence, as a forked child must."""
        self._next = itertools.count(int.from_bytes(os.urandom(7), "big")).__next__

    def next(self, unix_ms: int) -> tuple[int, int]:
        """Return the upper and the lower 64 bits of a new id of ``unix_ms`` (milliseconds since 1970)."""
        number = self._next()
        return unix_ms << 16 | 0x7000 | number & 0xFFF, 0x8000000000000000 | number & 0x3FFFFFFFFFFFFFFF


def uuid_text(upper: int, lower: int) -> str:
    """Return a UUID's canonical form of 36 characters, from its two halves of 64 bits."""
    text = f"{upper:016x}{lower:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
