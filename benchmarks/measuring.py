"""What the benchmarks over a database share: its server, the figures of a case, and how results are told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.figures import read_stat, steal_share
from benchmarks.run import machine
from benchmarks.targets import OUT
from hx_gateway.services.embedded.postgres import EmbeddedPostgres

PROMISE_MS = 50.0


@contextmanager
def server(postgres: EmbeddedPostgres, dsn: str | None) -> Iterator[str]:
    """Run the server, or use the one that was named."""
    if dsn:
        yield dsn
        return
    postgres.start()
    try:
        yield postgres.url
    finally:
        postgres.stop()


def quantiles(took: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the greatest."""
    ordered, runs = sorted(took), len(took)
    return ordered[runs // 2], ordered[min(runs - 1, int(runs * 0.99))], ordered[-1]


def write(results: dict[str, Any], path: Path, began: Sequence[int]) -> None:
    """Add the machine, and what the hypervisor took of it since ``began``, and write the results."""
    results |= {"machine": machine(), "steal": steal_share(began, read_stat())}
    OUT.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=2, default=asdict) + "\n")


def introduce(console: Console, results: dict[str, Any]) -> None:
    """Print what was measured on."""
    info = results["machine"]
    console.print(
        f"{info['cpu']}, {info['cores']} cores, {info['kernel']}, PostgreSQL {results['postgres']}, "
        f"Python {info['python']}, commit {info['commit']}"
    )


def conclude(console: Console, results: dict[str, Any], path: Path) -> None:
    """Print what the hypervisor took, and where the results are."""
    console.print(f"taken by the hypervisor: {results['steal']:.1%}; written to {path}", soft_wrap=True)
