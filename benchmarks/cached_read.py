"""What a read of a service that is answered from memory costs, over a kept connection to a gateway as it is shipped."""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.figures import cpu_seconds
from benchmarks.measuring import quantiles
from benchmarks.targets import free_port, process, ready, wait_for

PROMISE_MS = 1.0
READS = 5_000
LEAST_HITS = 0.9
SERVER_CORE, CLIENT_CORE = 1, 0
_HITS = re.compile(r'^hx_registry_reads_total\{outcome="hit"\} ([0-9.]+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CachedRead:
    """Milliseconds of one read: as the client sees it, and what the server's process was on a CPU for it."""

    reads: int
    hits: int
    server_cpu: float
    p50: float
    p99: float
    greatest: float


def measure(dsn: str, tenant: str, item_id: str) -> CachedRead:
    """Read a service again and again. Raises ``RuntimeError`` where most reads were not answered from memory."""
    with gateway(dsn) as (port, pid, key):
        os.sched_setaffinity(0, {CLIENT_CORE})
        try:
            found = _read(port, pid, key, f"/api/v1/registry/services/{item_id}?tenant_id={tenant}")
        finally:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))
    if found.hits < LEAST_HITS * found.reads:
        raise RuntimeError(f"only {found.hits} of {found.reads} reads were answered from memory")
    return found


def _read(port: int, pid: int, key: str, path: str) -> CachedRead:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": f"Bearer {key}"}

    def get(what: str) -> bytes:
        connection.request("GET", what, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{what} was answered with {answer.status}: {body[:200]!r}")
        return body

    for _ in range(READS // 10):
        get(path)
    hits, on_cpu, took = _hits(get("/metrics")), cpu_seconds([pid]), []
    for _ in range(READS):
        began = time.perf_counter()
        get(path)
        took.append((time.perf_counter() - began) * 1_000)
    spent = (cpu_seconds([pid]) - on_cpu) / READS * 1_000
    found = _hits(get("/metrics")) - hits
    connection.close()
    return CachedRead(READS, found, spent, *quantiles(took))


def _hits(metrics: bytes) -> int:
    found = _HITS.search(metrics.decode())
    return 0 if found is None else int(float(found[1]))


@contextmanager
def gateway(dsn: str) -> Iterator[tuple[int, int, str]]:
    """Run a gateway over the database, as it is shipped but that it probes nothing; give its port, process and key."""
    port, key = free_port(), secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="hxbench-") as base, (Path(base) / "server.log").open("wb") as log:
        ours = ("HX_", "WRAPPER_", "PG_")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environ |= {"PG_URL": dsn, "REDIS_URL": "none", "QDRANT_URL": "none", "HX_DATA_DIR": base}
        environ |= {"WRAPPER_PORT": str(port), "HX_ADMIN_KEY": key, "HX_LOG_FORMAT": "json"}
        environ |= {"HX_REGISTRY_PROBING": "false", "HX_DRAIN_SECONDS": "2"}
        command = [sys.executable, "-m", "hx_gateway", "serve"]
        with process(command, SERVER_CORE, env=environ, stdout=log, stderr=log) as child:
            wait_for(lambda: ready(port))
            yield port, child.pid, key
