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
