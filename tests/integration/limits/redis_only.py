"""A Redis of each kind by itself, for tests that need no database beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures.servers import RedisServer, _redis_binary

KINDS = ["valkey", "redis6"]


@contextmanager
def running(kind: str) -> Iterator[RedisServer]:
    """Run the newest server that we ship or the oldest that we support."""
    with tempfile.TemporaryDirectory(prefix="hx-", ignore_cleanup_errors=True) as base:
        server = RedisServer(_redis_binary(kind), Path(base))
        server.start()
        try:
            yield server
        finally:
            server.close()
