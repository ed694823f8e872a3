"""Measures what the gateway costs: direct, through nginx and through the gateway in turn, one core for each side.

``python -m benchmarks.run`` prints a table and writes JSON. The ratios of one run hold; absolute figures are the
machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import targets
from benchmarks.figures import Spread, cpu_seconds, paired_ratios, read_stat, resident_mib, spread, steal_share
from benchmarks.targets import OUT, Target
from hx_gateway.services.embedded.valkey import EmbeddedValkey

GATEWAY_CORE, LOAD_CORE = 1, 0
CONNECTIONS = 32
# The gateway with its response cache on: all requests but the first are hits, in the process and in a Valkey.
HIT, SHARED_HIT = "hit", "hit in Redis"
# The most CPU that a hit may take, of what a forwarded request takes in the same round.
MOST_OF_FORWARDED = 0.5
PACE_MS, EVENTS = 20, 50
CHAT = {
    "model": "mock",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant that answers in one short paragraph."},
        {"role": "user", "content": "Explain what a reverse proxy does, and why one would put it before a model. " * 4},
    ],
    "temperature": 0.7,
    "max_tokens": 256,
}


@dataclass
class Measured:
    """Figures of one target, a value a round."""

    per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    event_us: list[float] = field(default_factory=list)
    first_byte: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    errors: int = 0


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    targets.build_native()
    began = read_stat()
    results: dict[str, Any] = {"machine": machine(), "options": vars(options)}
    console = Console()
    names = ["direct", *(["nginx"] if targets.nginx_is_installed() else []), "gateway", HIT, SHARED_HIT]
    measured = {name: Measured() for name in names}
    with (
        tempfile.TemporaryDirectory(prefix="hxbench-") as folder,
        Progress(console=console, transient=True) as progress,
        ExitStack() as stack,
    ):
        bodies = write_bodies(Path(folder))
        valkey = EmbeddedValkey(Path(folder) / "valkey", notify=progress.console.print)
        with on_core(LOAD_CORE):
            valkey.start()
        stack.callback(valkey.stop)
        cached = {HIT: {"HX_CACHE": "exact"}, SHARED_HIT: {"HX_CACHE": "exact", "REDIS_URL": valkey.url}}
        work = progress.add_task("measuring", total=options.rounds * len(names) + bool(options.soak))
        for _ in range(options.rounds):
            for name in names:
                progress.update(work, description=f"measuring {name}")
                if name in cached:
                    measure_hits(measured[name], options, bodies["unary"], cached[name])
                else:
                    measure(name, measured[name], options, bodies)
                progress.advance(work)
        if options.soak:
            progress.update(work, description=f"soak: {options.soak} requests")
            results["soak"] = soak(options.soak, bodies["unary"])
            progress.advance(work)
    results |= {"targets": {name: asdict(figures) for name, figures in measured.items()}}
    results["ratio_to_nginx"] = ratio_to_nginx(measured)
    results["hit_to_forwarded"] = {name: hit_to_forwarded(measured, name) for name in cached}
    results["steal"] = steal_share(began, read_stat())
    path = OUT / f"bench-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=2, default=asdict) + "\n")
    report(console, results, measured)
    console.print(f"written to {path}", soft_wrap=True)
    errors = sum(figures.errors for figures in measured.values()) + results.get("soak", {}).get("errors", 0)
    dear = any(ratio.median > MOST_OF_FORWARDED for ratio in results["hit_to_forwarded"].values())
    sys.exit(1 if errors or dear else 0)


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds; the median counts")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--rate", type=int, default=500, help="requests a second for added latency")
    parser.add_argument("--streams", type=int, default=50, help="streams a second for the cost of an event")
    parser.add_argument("--soak", type=int, default=0, help="requests of a soak run, 0 for none")
    parser.add_argument("--quick", action="store_true", help="one round of a second: to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1.0
    return options


def write_bodies(folder: Path) -> dict[str, Path]:
    """Write the requests that are sent."""
    bodies = {"unary": folder / "unary.json", "stream": folder / "stream.json"}
    bodies["unary"].write_text(json.dumps(CHAT))
    bodies["stream"].write_text(json.dumps({**CHAT, "stream": True}))
    return bodies


def open_target(name: str, upstream: Target) -> AbstractContextManager[Target]:
    """Return the target called ``name``, before ``upstream``."""
    if name == "nginx":
        return targets.nginx(GATEWAY_CORE, upstream)
    return targets.gateway(GATEWAY_CORE, upstream)


def measure(name: str, figures: Measured, options: argparse.Namespace, bodies: dict[str, Path]) -> None:
    """Add one round of ``name`` to ``figures``: saturation, a fixed rate, paced streams."""
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.mock(LOAD_CORE))
        target = upstream if name == "direct" else stack.enter_context(open_target(name, upstream))
        saturate(target, figures, bodies["unary"], options)
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.mock(LOAD_CORE, pace_ms=PACE_MS, events=EVENTS))
        target = upstream if name == "direct" else stack.enter_context(open_target(name, upstream))
        before = cpu_seconds(target.pids)
        run = load(target, bodies["stream"], seconds=options.seconds, rate=options.streams, connections=512)
        figures.event_us.append((cpu_seconds(target.pids) - before) / max(1, run["events"]) * 1e6)
        figures.first_byte.append(run["first_byte_p50"])
        figures.errors += run["errors"]


def measure_hits(figures: Measured, options: argparse.Namespace, body: Path, settings: Mapping[str, str]) -> None:
    """Add one round of answers from the cache: saturation, and a fixed rate."""
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.mock(LOAD_CORE))
        target = stack.enter_context(targets.gateway(GATEWAY_CORE, upstream, settings))
        saturate(target, figures, body, options)


def saturate(target: Target, figures: Measured, body: Path, options: argparse.Namespace) -> None:
    """Measure requests a second and what each costs, then the latency at a fixed rate."""
    load(target, body, seconds=0.5)
    before = cpu_seconds(target.pids)
    run = load(target, body, seconds=options.seconds)
    figures.per_second.append(run["per_second"])
    figures.cpu_us.append((cpu_seconds(target.pids) - before) / max(1, run["requests"]) * 1e6)
    figures.errors += run["errors"]
    run = load(target, body, seconds=options.seconds, rate=options.rate)
    figures.p50.append(run["p50"])
    figures.p99.append(run["p99"])
    figures.errors += run["errors"]
    if target.pids:
        figures.memory_mib.append(resident_mib(target.pids))


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Let what is started meanwhile run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def load(
    target: Target, body: Path, *, seconds: float, rate: int = 0, requests: int = 0, connections: int = CONNECTIONS
) -> dict[str, Any]:
    """Run the load generator against ``target``."""
    fixed = [str(target.port), str(connections), str(seconds), str(rate), str(requests), str(body)]
    command = [str(OUT / "load"), *fixed, *target.headers]
    done = subprocess.run(
        command, check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, {LOAD_CORE})
    )
    sys.stderr.buffer.write(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def soak(requests: int, body: Path) -> dict[str, Any]:
    """Send ``requests`` through the gateway and see whether errors come or memory grows."""
    with ExitStack() as stack:
        upstream = stack.enter_context(targets.mock(LOAD_CORE))
        target = stack.enter_context(targets.gateway(GATEWAY_CORE, upstream))
        first = load(target, body, seconds=600, requests=requests // 10)
        early = resident_mib(target.pids)
        rest = load(target, body, seconds=600, requests=requests - requests // 10)
        late = resident_mib(target.pids)
    return {
        "requests": first["requests"] + rest["requests"],
        "errors": first["errors"] + rest["errors"],
        "memory_mib_at_a_tenth": early,
        "memory_mib_at_the_end": late,
    }


def ratio_to_nginx(measured: dict[str, Measured]) -> Spread | None:
    """Return the gateway's requests a second to nginx's in the same round, ``None`` without nginx."""
    if "nginx" not in measured:
        return None
    return spread(paired_ratios(measured["gateway"].per_second, measured["nginx"].per_second))


def hit_to_forwarded(measured: dict[str, Measured], name: str) -> Spread:
    """Return the CPU that a hit takes to that of a forwarded request in the same round."""
    return spread(paired_ratios(measured[name].cpu_us, measured["gateway"].cpu_us))


def report(console: Console, results: dict[str, Any], measured: dict[str, Measured]) -> None:
    """Print the table."""
    info = results["machine"]
    console.print(
        f"{info['cpu']}, {info['cores']} cores, {info['kernel']}, Python {info['python']}, commit {info['commit']}"
    )
    table = Table(
        "target",
        "requests/s",
        "CPU µs/request",
        "added p50 µs",
        "added p99 µs",
        "CPU µs/event",
        "added first byte µs",
        "MiB",
    )
    direct = measured["direct"]
    for name, figures in measured.items():
        added = [
            _added(figures.p50, direct.p50),
            _added(figures.p99, direct.p99),
            _added(figures.first_byte, direct.first_byte) if figures.first_byte else "",
        ]
        own = name != "direct"
        table.add_row(
            name,
            _shown(figures.per_second, 0),
            _shown(figures.cpu_us, 1) if own else "",
            added[0] if own else "",
            added[1] if own else "",
            _shown(figures.event_us, 1) if own and figures.event_us else "",
            added[2] if own else "",
            _shown(figures.memory_mib, 0) if own else "",
        )
    console.print(table)
    ratio = results["ratio_to_nginx"]
    if ratio is not None:
        console.print(
            f"gateway to nginx: {ratio.median:.3f} ({ratio.least:.3f} to {ratio.greatest:.3f}) of its requests/s"
        )
    for name, hit in results["hit_to_forwarded"].items():
        console.print(
            f"{name}: {hit.median:.2f} ({hit.least:.2f} to {hit.greatest:.2f}) of a forwarded request's CPU; "
            f"most: {MOST_OF_FORWARDED}"
        )
    if "soak" in results:
        console.print(f"soak: {results['soak']}")
    errors = sum(figures.errors for figures in measured.values())
    console.print(
        f"errors: {errors}, taken by the hypervisor: {results['steal']:.1%}; median (least to greatest) of rounds"
    )


def _shown(values: list[float], digits: int) -> str:
    found = spread(values)
    return f"{found.median:,.{digits}f} ({found.least:,.{digits}f} to {found.greatest:,.{digits}f})"


def _added(values: list[float], direct: list[float]) -> str:
    return _shown([value - base for value, base in zip(values, direct, strict=True)], 0)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }


if __name__ == "__main__":
    main()
